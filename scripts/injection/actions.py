"""Actions of a scenario's steps: touch pages, spoil the network, hit a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.units import parse_rate
from scripts.injection.marks import Direction
from scripts.injection.scenario_text import Where
from scripts.injection.tap import Part
from scripts.injection.triggers import (
    SIDES,
    Guest,
    read_channel,
    read_direction,
    read_page,
    read_pages,
)

_EITHER_WAY = "both"
_ACTIONS = ("fault", "network", "process")
TARGET_PAGE = "target-page"

# What each network action may say besides `do`, and which of that it must.
NETWORK_KEYS: dict[str, tuple[str, ...]] = {
    "cut": ("channel", "for"),
    "half-close": ("channel", "direction"),
    "stall": ("channel", "direction", "for"),
    "delay": ("channel", "direction", "by", "for"),
    "throttle": ("channel", "direction", "rate", "for"),
    "corrupt": ("channel", "direction", "bits", "in"),
    "heal": ("channel", "direction"),
    "hold": ("channel", "page", "at"),
    "release": ("page",),
}
_NEEDED = {"delay": "by", "throttle": "rate", "hold": "page", "release": "page"}
# These are about the bytes of one direction.
_ONE_WAY = frozenset({"half-close", "corrupt"})

PROCESS_KEYS: dict[str, tuple[str, ...]] = {
    "kill": ("side",),
    "stop": ("side", "for"),
    "continue": ("side",),
}

# As many as a careless script may want; one is enough for everything.
_BITS_MAX = 4096


@dataclass(frozen=True)
class Fault:
    """vCPUs touch these pages, in this order.

    Attributes:
        pages: The pages.
        target_page: The 4 KiB that are touched of each, counted from 0 inside the page.
    """

    pages: tuple[PageId, ...]
    target_page: int = 0


@dataclass(frozen=True)
class NetworkAction:
    """Something done to connections between the sides.

    Attributes:
        do: A key of NETWORK_KEYS.
        channels: On which.
        directions: Which way.
        for_ms: How long; None for until it is healed.
        by_ms: How long a delay is.
        rate: Bytes a second.
        bits: How many bits are flipped, each in a byte of its own.
        part: Where they are.
        page: What is held or let go.
        share: How much of it passes before it is held, from 0 and below 1.
    """

    do: str
    channels: tuple[Channel, ...]
    directions: tuple[Direction, ...] = tuple(Direction)
    for_ms: float | None = None
    by_ms: float = 0.0
    rate: int = 0
    bits: int = 0
    part: Part = Part.PAGE
    page: PageId | None = None
    share: float = 0.0


@dataclass(frozen=True)
class ProcessAction:
    """Something done to the process of a side.

    Attributes:
        do: A key of PROCESS_KEYS.
        for_ms: When a stopped process continues; None for when it is told to.
    """

    do: str
    side: str
    for_ms: float | None = None


Action = Fault | NetworkAction | ProcessAction


def read_action(table: Mapping[str, Any], where: Where, guest: Guest) -> Action:
    """Return what a step does; the table is a step without its `when`.

    Raises:
        ScenarioError: Nothing, several things, or one that cannot be done.
    """
    where.check_keys(table, ("when", *_ACTIONS, TARGET_PAGE), "a step")
    done = [key for key in _ACTIONS if key in table]
    if len(done) != 1:
        raise where.wrong("", "a step does one thing: fault, network or process")
    (key,) = done
    value = table[key]
    if TARGET_PAGE in table and key != "fault":
        raise where.wrong(TARGET_PAGE, f"{TARGET_PAGE} is of a fault")
    if key == "fault":
        if not guest.scripted:
            raise where.wrong(key, f"the program {guest.program} says what vCPUs touch")
        pages = read_pages(value, where, guest, key)
        return Fault(pages, _target_page(table.get(TARGET_PAGE, 0), pages, where, guest))
    if not isinstance(value, dict) or "do" not in value:
        raise where.wrong(key, f"{key} is not a table with `do`")
    return _network(value, where, guest) if key == "network" else _process(value, where)


def _target_page(value: object, pages: Sequence[PageId], where: Where, guest: Guest) -> int:
    count = min(guest.geometry.blocks[page.block].page_bytes for page in pages) // TARGET_PAGE_BYTES
    if type(value) is not int or not 0 <= value < count:
        raise where.wrong(
            TARGET_PAGE, f"{TARGET_PAGE} = {value!r} is not a number from 0 to {count - 1}"
        )
    return value


def _network(table: dict[str, Any], where: Where, guest: Guest) -> NetworkAction:
    if table["do"] == "release" and "channel" in table:
        raise where.wrong("network", "release lets a page go over all channels")
    do = read_do(table, NETWORK_KEYS, where, "network")
    channels = guest.channels
    if "channel" in table:
        channels = (read_channel(table["channel"], where, guest, "network"),)
    return replace(
        read_spoiling(do, channels, table, where),
        bits=_bits(table, where) if do == "corrupt" else 0,
        part=_part(table, where),
        page=read_page(table["page"], where, guest, "network") if "page" in table else None,
        share=_share(table, where),
    )


def _process(table: dict[str, Any], where: Where) -> ProcessAction:
    do, side = read_do(table, PROCESS_KEYS, where, "process"), table.get("side")
    if side not in SIDES:
        raise where.wrong("process", f"side {side!r} is neither source nor dest")
    return ProcessAction(do, side, _for_ms(table, where, "process"))


def read_do(
    table: Mapping[str, Any], keys: Mapping[str, tuple[str, ...]], where: Where, key: str
) -> str:
    """Return which action a table names.

    Args:
        table: An action, as it is written.
        keys: What each action may say besides `do`.
        where: Where it is written.
        key: As what.

    Raises:
        ScenarioError: None of them, or it says what that one has not, or not what it needs.
    """
    do = table.get("do")
    if not isinstance(do, str) or do not in keys:
        raise where.wrong(key, f"{do!r} is none of {', '.join(keys)}")
    for name in table:
        if name not in ("do", *keys[do]):
            raise where.wrong(key, f"{do} has no {name!r}; it has: {', '.join(keys[do])}")
    if do in _NEEDED and _NEEDED[do] not in table:
        raise where.wrong(key, f"{do} needs `{_NEEDED[do]}`")
    return do


def read_spoiling(
    do: str, channels: tuple[Channel, ...], table: Mapping[str, Any], where: Where
) -> NetworkAction:
    """Return an action on whole connections: which way, how long, and how slow they become.

    Raises:
        ScenarioError: One of that cannot be.
    """
    return NetworkAction(
        do,
        channels,
        _directions(table, do, where),
        _for_ms(table, where, "network"),
        where.duration_ms("network", table["by"], "by") if "by" in table else 0.0,
        _rate(table, where),
    )


def _directions(table: Mapping[str, Any], do: str, where: Where) -> tuple[Direction, ...]:
    value = table.get("direction", Direction.FORWARD.value if do in _ONE_WAY else _EITHER_WAY)
    if value == _EITHER_WAY and do not in _ONE_WAY:
        return tuple(Direction)
    return (read_direction(value, where, "network"),)


def _for_ms(table: Mapping[str, Any], where: Where, key: str) -> float | None:
    return where.duration_ms(key, table["for"], "for") if "for" in table else None


def _rate(table: Mapping[str, Any], where: Where) -> int:
    if "rate" not in table:
        return 0
    try:
        rate = parse_rate(str(table["rate"]))
    except LocalProtocolError as error:
        raise where.wrong("network", f"rate: {error}") from error
    if not rate:
        raise where.wrong("network", "a rate of 0 is a stall")
    return rate


def _share(table: Mapping[str, Any], where: Where) -> float:
    share = table.get("at", 0)
    # True is 1 to Python.
    if type(share) not in (int, float) or not 0 <= share < 1:
        raise where.wrong("network", f"at = {share!r} is not a share from 0 and below 1")
    return float(share)


def _bits(table: Mapping[str, Any], where: Where) -> int:
    bits = table.get("bits", 1)
    if type(bits) is not int or not 0 < bits <= _BITS_MAX:
        raise where.wrong("network", f"bits = {bits!r} is not a number from 1 to {_BITS_MAX}")
    return bits


def _part(table: Mapping[str, Any], where: Where) -> Part:
    value = table.get("in", Part.PAGE.value)
    for part in (Part.PAGE, Part.HEADER):
        if value == part.value:
            return part
    raise where.wrong("network", f"in = {value!r} is neither page nor header")
