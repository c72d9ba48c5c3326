"""Reads a file of events, as `--events` writes it, and says where it is none.

What is checked of each line are time, side and name, and, of an event that `protocol.events`
defines, that it has that event's fields and no others, with values of their types and bounds.
Events of other names are let through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from msgspec import inspect

from protocol import events
from protocol.errors import LocalProtocolError
from protocol.report import STAGES

Event = dict[str, Any]

# The longest line that a side writes has a bitmap of 8 KiB in base64.
LINE_BYTES_MAX = 16 * 1024
# A guest of 64 GiB whose every huge page goes ten times makes a million.
EVENT_COUNT_MAX = 10_000_000

# What files of before it was told lack.
_NEWER: Mapping[type[events.Event], Collection[str]] = {
    events.Run: {"blocks"},
    **dict.fromkeys(events.PAGE_EVENTS, ("boosted", "channel-bytes", "remaining-bytes")),
    events.PagePlaced: {"pages", "channel"},
    events.VcpuWait: {"fault-ns"},
    events.VcpuWake: {"fault-ns", *(f"{stage}-us" for stage in STAGES)},
}


class Field(NamedTuple):
    """A field of an event, as it stands in the file.

    Attributes:
        name: Its key.
        kind: int, float, str or bool.
        most: The largest number that it can be; 0 is the least.
        pattern: What a text must be as a whole, None if it may be any.
        needed: Every file has it.
        nullable: It may be null.
    """

    name: str
    kind: type
    most: float = 0
    pattern: re.Pattern[str] | None = None
    needed: bool = True
    nullable: bool = False


def fields_of(event: type[events.Event]) -> dict[str, Field]:
    """Return an event's fields by their keys, in the order of a line."""
    shape = inspect.type_info(event)
    assert isinstance(shape, inspect.StructType)
    lacking = _NEWER.get(event, ())
    return {
        field.encode_name: _field(field.encode_name, field.type)._replace(
            needed=field.required and field.encode_name not in lacking
        )
        for field in shape.fields
    }


def _field(name: str, shape: inspect.Type) -> Field:
    match shape:
        case inspect.UnionType(types=(inner, inspect.NoneType())):
            return _field(name, inner)._replace(nullable=True)
        case inspect.IntType(le=most) if most is not None:
            return Field(name, int, most)
        case inspect.FloatType(le=most) if most is not None:
            return Field(name, float, most)
        case inspect.StrType(pattern=pattern):
            return Field(name, str, pattern=re.compile(pattern) if pattern is not None else None)
        case inspect.BoolType():
            return Field(name, bool)
    raise AssertionError(f"{name} is of no type that an event's fields have")


NUMBER_MAX = (1 << 63) - 1

_TIME, _SIDE, _NAME = "t-ns", "side", "event"
_HEAD_NAMES = frozenset({_TIME, _SIDE, _NAME})
_HEAD = (Field(_NAME, str), Field(_SIDE, str), Field(_TIME, int, NUMBER_MAX))
_FIELDS: Mapping[str, Mapping[str, Field]] = {
    name: fields_of(event) for name, event in events.KINDS.items()
}


def read_saved(path: Path, tell: Callable[[str], None]) -> Iterator[Event]:
    """Yield a file's events in the order of its lines.

    A last line without its end is what a full disk or a killed writer leaves: it is left out.

    Args:
        path: The file.
        tell: Is told of such a line.

    Raises:
        LocalProtocolError: The file cannot be read, or a line is no event: which, and why.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES_MAX + 1):
                number += 1
                where = f"{path}, line {number}"
                if number > EVENT_COUNT_MAX:
                    raise LocalProtocolError(f"{where}: more than {EVENT_COUNT_MAX} events")
                if number > 1 and _is_unfinished(line):
                    tell(f"{where}: the last line is unfinished and left out")
                elif line.strip():
                    yield parse_event(line, where)
            if not number:
                raise LocalProtocolError(f"{path} is empty")
    except OSError as error:
        raise LocalProtocolError(f"{path}: {error.strerror}") from error


def read_all(path: Path) -> Iterator[Event]:
    """Yield a file's events, as `read_saved`, for who needs all that were told.

    Raises:
        LocalProtocolError: As there, and for an unfinished last line.
    """
    return read_saved(path, _refuse)


def _refuse(what: str) -> None:
    raise LocalProtocolError(what)


def _is_unfinished(line: bytes) -> bool:
    """Return whether a line, as `readline` returns it, is a file's last one and not whole."""
    if line.endswith(b"\n") or len(line) > LINE_BYTES_MAX:
        return False
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return True
    return False


def parse_spooled(lines: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events of a run's own lines; what a full disk tore is left out.

    Two processes write to one file: of a line that had no room in whole, the next goes on.
    """
    for line in lines:
        try:
            event = parse_event(line, "the spool")
        except LocalProtocolError:
            continue
        yield event


def parse_event(line: bytes, where: str) -> Event:
    """Return the event of a line.

    Args:
        line: With or without its end.
        where: What a complaint begins with.

    Raises:
        LocalProtocolError: It is none.
    """
    if len(line) > LINE_BYTES_MAX:
        raise LocalProtocolError(f"{where}: longer than {LINE_BYTES_MAX} bytes, this is no event")
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LocalProtocolError(f"{where}: no JSON: {error.msg}") from error
    if not isinstance(event, dict):
        raise LocalProtocolError(f"{where}: no JSON object")
    for field in _HEAD:
        _check(event, field, where)
    fields = _FIELDS.get(event[_NAME])
    if fields is not None:
        for field in fields.values():
            if field.needed or field.name in event:
                _check(event, field, where)
        for name in event:
            if name not in fields and name not in _HEAD_NAMES:
                raise LocalProtocolError(f"{where}: {event[_NAME]} has no {name[:40]!r}")
    return event


def _check(event: Event, field: Field, where: str) -> None:
    name, kind = field.name, field.kind
    value: Any = event.get(name)
    if value is None and field.nullable and name in event:
        return
    # JSON has one kind of number, and Python's booleans are whole ones.
    kinds: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if type(value) not in kinds:
        seen = "is missing" if value is None else f"is {str(value)[:40]!r}"
        raise LocalProtocolError(f"{where}: {name!r} {seen}, not {_WORDS[kind]}")
    if kind in {int, float} and not 0 <= value <= field.most:
        raise LocalProtocolError(f"{where}: {name!r} cannot be {value}")
    if field.pattern is not None and not field.pattern.fullmatch(value):
        if name == "channel":
            raise LocalProtocolError(f"{where}: there is no channel {value[:40]!r}")
        raise LocalProtocolError(f"{where}: {name!r} cannot be {value[:40]!r}")


_WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
}
