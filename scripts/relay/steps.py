"""Reads the steps of `midstream relay`: what is done to the connections, at which byte or word.

[[step]]
when = { page = "ram:20", byte = 4097 }     # so much of it has passed, since the switch-over
network = { do = "cut" }                    # both, or channel = "precopy", "postcopy"
[[step]]
when = { requested = "ram:5" }              # before the source hears of it; also: served = ...
network = { do = "hold", page = "ram:7", byte = 0 }    # no byte behind this passes ...
[[step]]
when = { message = "recv-bitmap", block = "ram" }      # it has passed; named as in the events
network = { do = "release", page = "ram:7" }           # ... before it is let go

RAMBlocks go by the names that QEMU gives them, which are known when it has listed them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.channels import Channel
from protocol.states import State
from scripts.injection.actions import NetworkAction, read_do, read_spoiling
from scripts.injection.scenario_text import Where, read_toml

# What each action may say besides `do`.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "cut": ("channel",),
    "half-close": ("channel", "direction"),
    "stall": ("channel", "direction", "for"),
    "delay": ("channel", "direction", "by", "for"),
    "throttle": ("channel", "direction", "rate", "for"),
    "heal": ("channel", "direction"),
    "hold": ("channel", "page", "byte"),
    "release": ("page",),
    "flip": ("bit",),
}

_WHENS = (
    '{ page = "BLOCK:PAGE", byte = N }', '{ requested = "BLOCK:PAGE" }',
    '{ served = "BLOCK:PAGE" }', "{ message = NAME }", "{ state = NAME }",
)  # fmt: skip

_BITS = 8


@dataclass(frozen=True)
class NamedPage:
    """A page by the name of its RAMBlock, and its number in it."""

    block: str
    index: int


@dataclass(frozen=True)
class AtByte:
    """So many bytes of a page have passed.

    Attributes:
        page: Which.
        byte: How many, from 1.
        channel: Over which connection, None for any.
        in_postcopy: Since the switch-over, or else before it.
    """

    page: NamedPage
    byte: int
    channel: Channel | None
    in_postcopy: bool


@dataclass(frozen=True)
class Requested:
    """A page is asked for; the source does not know yet."""

    page: NamedPage


@dataclass(frozen=True)
class Served:
    """A page that was asked for has passed whole."""

    page: NamedPage


@dataclass(frozen=True)
class Said:
    """A message has passed: its name, and of which RAMBlock, None for any."""

    name: str
    block: str | None


@dataclass(frozen=True)
class Entered:
    """The migration has come into a state, as it can be seen here."""

    state: str


@dataclass(frozen=True)
class Hold:
    """No byte of a page behind so many passes over these channels."""

    page: NamedPage
    byte: int
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class Release:
    """Let a page go."""

    page: NamedPage


@dataclass(frozen=True)
class Flip:
    """Change a bit, 0 to 7, of the byte at which the step is."""

    bit: int


@dataclass(frozen=True)
class Touch:
    """The destination's pages are touched, each when the request for the one before has passed."""

    pages: tuple[NamedPage, ...]


When = AtByte | Requested | Served | Said | Entered
Action = NetworkAction | Hold | Release | Flip | Touch


@dataclass(frozen=True)
class Step:
    """One step: its number from 1, its line in the file, when, and what is done."""

    number: int
    line: int
    when: When
    action: Action


def read_relay_steps(path: Path) -> tuple[Step, ...]:
    """Return the steps of a file.

    Raises:
        ScenarioError: The file cannot be read, or a step is wrong: where, and why.
    """
    table, where = read_toml(path)
    where.check_keys(table, ("name", "step"), "a file of steps")
    steps = steps_of(table, where)
    for step in steps:
        if isinstance(step.action, Touch):
            raise where.inside("step", step.number).wrong("fault", "no QEMU here is ours to touch")
    return steps


def steps_of(table: Mapping[str, Any], where: Where) -> tuple[Step, ...]:
    """Return the steps of a file, faults among them.

    Raises:
        ScenarioError: One is wrong: where, and why.
    """
    return tuple(
        _step(step, where.inside("step", number), number)
        for number, step in enumerate(where.tables("step", table), 1)
    )


def _step(table: Mapping[str, Any], where: Where, number: int) -> Step:
    where.check_keys(table, ("when", "network", "fault"), "a step")
    if len(table.keys() & {"network", "fault"}) != 1:
        raise where.wrong("", "a step does one thing: network, or fault")
    for key in ("when",) if "fault" in table else ("when", "network"):
        if not isinstance(table.get(key), dict):
            raise where.wrong(key, f"{key} is no table")
    when = _when(table["when"], where)
    if "fault" in table:
        return Step(number, where.line_of(""), when, _touch(table["fault"], where))
    action = _action(table["network"], where)
    if isinstance(action, Flip) and not isinstance(when, AtByte):
        raise where.wrong("network", "flip is about a byte of a page: when = { page, byte }")
    return Step(number, where.line_of(""), when, action)


def _when(value: Mapping[str, Any], where: Where) -> When:
    match value:
        case {"page": page, "byte": byte, **rest} if rest.keys() <= {"channel", "phase"}:
            phase = rest.get("phase", "postcopy")
            if phase not in {"precopy", "postcopy"}:
                raise where.wrong("when", f"phase {phase!r} is neither precopy nor postcopy")
            channel = _channel(rest["channel"], where, "when") if "channel" in rest else None
            return AtByte(
                _page(page, where, "when"), _byte(byte, where, 1), channel, phase == "postcopy"
            )
        case {"requested": page, **rest} if not rest:
            return Requested(_page(page, where, "when"))
        case {"served": page, **rest} if not rest:
            return Served(_page(page, where, "when"))
        case {"message": str(name), **rest} if rest.keys() <= {"block"}:
            block = rest.get("block")
            if block is not None and not isinstance(block, str):
                raise where.wrong("when", f"block {block!r} is no RAMBlock's name")
            return Said(name, block)
        case {"state": str(state), **rest} if not rest:
            if state not in [each.value for each in State]:
                raise where.wrong("when", f"there is no state {state!r}")
            return Entered(state)
    raise where.wrong("when", f"when is none of {', '.join(_WHENS)}")


def _action(table: Mapping[str, Any], where: Where) -> Action:
    do = read_do(table, _KEYS, where, "network")
    channels = tuple(Channel)
    if "channel" in table:
        channels = (_channel(table["channel"], where, "network"),)
    match do:
        case "hold":
            page = _page(table["page"], where, "network")
            return Hold(page, _byte(table.get("byte", 0), where, 0), channels)
        case "release":
            return Release(_page(table["page"], where, "network"))
        case "flip":
            bit = table.get("bit", 0)
            if type(bit) is not int or not 0 <= bit < _BITS:
                raise where.wrong("network", f"bit = {bit!r} is not a number from 0 to 7")
            return Flip(bit)
    return read_spoiling(do, channels, table, where)


def _touch(value: object, where: Where) -> Touch:
    if not isinstance(value, list) or not value:
        raise where.wrong("fault", 'fault is not a list of pages such as ["ram:5"]')
    return Touch(tuple(_page(each, where, "fault") for each in value))


def _page(value: object, where: Where, key: str) -> NamedPage:
    block, _, index = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not block or not index.isdecimal():
        raise where.wrong(key, f'{value!r} is no page such as "ram:20"')
    return NamedPage(block, int(index))


def _byte(value: object, where: Where, least: int) -> int:
    if type(value) is not int or value < least:
        raise where.wrong("", f"byte = {value!r} is not a whole number from {least}")
    return value


def _channel(value: object, where: Where, key: str) -> Channel:
    for channel in Channel:
        if value == channel.value:
            return channel
    raise where.wrong(key, f"channel {value!r} is neither precopy nor postcopy")
