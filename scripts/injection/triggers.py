"""The words of a scenario: the parts of its guest, its connections, and the `when` of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dest.script import PageName
from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, PageId
from protocol.policy import Policy
from protocol.states import State
from scripts.injection.marks import BytesMark, Direction
from scripts.injection.scenario_text import Where
from scripts.injection.steps import PAGE_KINDS, name_page, name_pages, read_moment


@dataclass(frozen=True)
class Guest:
    """The guest and channels that a scenario's steps and expectations can be about.

    Attributes:
        channels: Those that the policy has.
        scripted: vCPUs touch what steps tell them to.
        postcopy: There may be a postcopy phase.
        program: Its program's name.
    """

    geometry: Geometry
    policy: Policy
    channels: tuple[Channel, ...]
    scripted: bool
    postcopy: bool
    program: str


def read_page(value: object, where: Where, guest: Guest, key: str) -> PageId:
    """Return a page: N of the first block, or "BLOCK:N" with a block's name or number.

    Raises:
        ScenarioError: The guest has no such page, or it is not written like that.
    """
    return find_page(name_page(value, where, key), where, guest, key)


def find_page(name: PageName, where: Where, guest: Guest, key: str) -> PageId:
    """Return the page of a name.

    Raises:
        ScenarioError: The guest has no such page.
    """
    try:
        return name.find(guest.geometry)
    except LocalProtocolError as error:
        raise where.wrong(key, str(error)) from error


def read_pages(value: object, where: Where, guest: Guest, key: str) -> tuple[PageId, ...]:
    """Return a list of pages.

    Raises:
        ScenarioError: It is no list, is empty, or one of them is no page.
    """
    return tuple(find_page(name, where, guest, key) for name in name_pages(value, where, key))


def read_channel(value: object, where: Where, guest: Guest, key: str) -> Channel:
    """Return a channel by its name.

    Raises:
        ScenarioError: It is none, or none that the policy has.
    """
    names = [channel.value for channel in Channel]
    if not isinstance(value, str) or value not in names:
        raise where.wrong(key, f"channel {value!r} is none of {', '.join(names)}")
    if Channel(value) not in guest.channels:
        raise where.wrong(key, f"the policy {guest.policy.name} has no {value} channel")
    return Channel(value)


def page_name(page: PageId, geometry: Geometry) -> str:
    """Return a page as a scenario calls it."""
    return str(page.index) if not page.block else f"{geometry.blocks[page.block].name}:{page.index}"


SIDES = ("source", "dest")

KINDS = (
    *PAGE_KINDS,
    "{ state, side }",
    "{ bytes, channel, direction }",
    "{ time }",
)


@dataclass(frozen=True)
class Received:
    """A share of a page is with the destination, for the first time."""

    page: PageId
    share: float


@dataclass(frozen=True)
class Requested:
    """The destination asks for a page."""

    page: PageId


@dataclass(frozen=True)
class Placed:
    """A page is whole and vCPUs can touch it."""

    page: PageId


@dataclass(frozen=True)
class Entered:
    """A side, or the first of both if `side` is None, has entered a state."""

    state: str
    side: str | None


@dataclass(frozen=True)
class Passed:
    """So many bytes have passed."""

    mark: BytesMark


@dataclass(frozen=True)
class Elapsed:
    """So long after the migration's start; 0 is before the connections are opened."""

    after_ms: float


_OF_PAGE: dict[str, type[Requested | Placed]] = {"requested": Requested, "placed": Placed}

Trigger = Received | Requested | Placed | Entered | Passed | Elapsed


def read_trigger(value: Any, where: Where, guest: Guest, timeout_ms: float) -> Trigger:  # noqa: ANN401
    """Return the trigger that a step's `when` names.

    Raises:
        ScenarioError: It names none, or one that cannot be.
    """
    moment = read_moment(value, where)
    if moment is not None:
        page = find_page(moment.page, where, guest, "when")
        return (
            Received(page, moment.share)
            if moment.what == "received"
            else _OF_PAGE[moment.what](page)
        )
    match value:
        case {"state": state, **rest} if rest.keys() <= {"side"}:
            return _entered(state, rest.get("side"), where)
        case {"bytes": count, "channel": channel, **rest} if rest.keys() <= {"direction"}:
            return _passed(count, channel, rest.get("direction", "forward"), where, guest)
        case {"time": time, **rest} if not rest:
            after_ms = where.duration_or_zero_ms("when", time, "time")
            if after_ms >= timeout_ms:
                raise where.wrong("when", f"after {time} the scenario has timed out")
            return Elapsed(after_ms)
    raise where.wrong("when", f"when is none of {', '.join(KINDS)}")


def read_direction(value: object, where: Where, key: str) -> Direction:
    """Return a direction by its name.

    Raises:
        ScenarioError: It is none.
    """
    for direction in Direction:
        if value == direction.value:
            return direction
    raise where.wrong(key, f"direction {value!r} is neither forward nor backward")


def _entered(state: object, side: object, where: Where) -> Entered:
    # Nobody enters the state that both begin in.
    states = [state.value for state in State if state is not State.NONE]
    if not isinstance(state, str) or state not in states:
        raise where.wrong("when", f"state {state!r} is none of {', '.join(states)}")
    if side is not None and side not in SIDES:
        raise where.wrong("when", f"side {side!r} is neither source nor dest")
    return Entered(state, str(side) if side is not None else None)


def _passed(
    count: object, channel: object, direction: object, where: Where, guest: Guest
) -> Passed:
    if type(count) is not int or count < 1:
        raise where.wrong("when", f"bytes = {count!r} is not a whole number from 1")
    name = read_channel(channel, where, guest, "when")
    return Passed(BytesMark(count, name, read_direction(direction, where, "when")))
