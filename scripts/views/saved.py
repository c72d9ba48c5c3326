"""Reads a file of events, as `--events` writes it, and says where it is none.

What is checked is what the views rely on: time, side and name of each line, and the fields of the
events that they know.  Events of other names are let through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from protocol import events
from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import BLOCK_COUNT_MAX, CHUNK_BYTES_MAX, GUEST_BYTES_MAX, VCPU_COUNT_MAX
from protocol.report import STAGES

Event = dict[str, Any]

# The longest line that a side writes has a bitmap of 8 KiB in base64.
LINE_BYTES_MAX = 16 * 1024
# A guest of 64 GiB whose every huge page goes ten times makes a million.
EVENT_COUNT_MAX = 10_000_000

_Fields = dict[str, type]

_HEAD: _Fields = {"event": str, "side": str, "t-ns": int}
_PAGE: _Fields = {"block": int, "page": int}
_SENT: _Fields = {**_PAGE, "channel": str, "urgent": bool}

# The fields without which an event of that name says nothing.
_NEEDED: dict[str, _Fields] = {
    events.RUN: {"policy": str, "vcpus": int, "chunk-bytes": int, "program": str},
    events.RAM_BLOCK: {"block": int, "name": str, "length-bytes": int, "page-bytes": int},
    events.STATE: {"state": str},
    events.PROGRESS: {"remaining-bytes": int, "precopy-bytes": int, "postcopy-bytes": int},
    events.DOWNTIME: {"ms": float},
    events.MISSING: {"block": int, "pages-per-bit": int, "bits": str},
    events.PAGE_REQUEST: _PAGE,
    events.PAGE_START: _SENT,
    events.PART_SENT: _SENT,
    events.PAGE_SENT: _SENT,
    events.PREEMPT: _SENT,
    events.BOOST: _SENT,
    events.PAGE_PLACED: _PAGE,
    events.VCPU_WAIT: {"vcpu": int, **_PAGE},
    events.VCPU_WAKE: {"vcpu": int, **_PAGE, "latency-us": float},
}

# Fields that those events may have, and may lack.
_EXTRA: _Fields = {
    "pages": int, "boosted": bool, "fault-ns": int, "channel-bytes": int, "remaining-bytes": int,
    "done": float, "ms": float,
    **{f"{stage}-us": float for stage in STAGES},
    "answer": str, "behind": str, "behind-count": int, "parts-us": str,
}  # fmt: skip

# Numbers are never negative, and below this.
_NUMBER_END = 1 << 63
_ENDS = {
    "vcpu": VCPU_COUNT_MAX,
    "vcpus": VCPU_COUNT_MAX + 1,
    "block": BLOCK_COUNT_MAX,
    "page": GUEST_BYTES_MAX // TARGET_PAGE_BYTES,
    # As many as one frame carries.
    "pages": CHUNK_BYTES_MAX // TARGET_PAGE_BYTES + 1,
    "length-bytes": GUEST_BYTES_MAX + 1,
}
# Texts that views read on.
_FORMS = {
    "behind": re.compile(r"\d{1,3}:\d{1,15}(?: \d{1,3}:\d{1,15}){0,63}", re.ASCII),
    "parts-us": re.compile(
        rf"(?:{'|'.join(STAGES)}) \d{{1,15}}\.\d{{3}}"
        rf"(?:, (?:{'|'.join(STAGES)}) \d{{1,15}}\.\d{{3}})*",
        re.ASCII,
    ),
}
_CHANNELS = frozenset(channel.value for channel in Channel)


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
    """Tell whether a line, as `readline` returns it, is a file's last one and not whole."""
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
    for name, kind in _HEAD.items():
        _check(event, name, kind, where)
    needed = _NEEDED.get(event["event"])
    if needed is not None:
        for name, kind in needed.items():
            _check(event, name, kind, where)
        for name in _EXTRA.keys() & event.keys():
            _check(event, name, _EXTRA[name], where)
    return event


def _check(event: Event, name: str, kind: type, where: str) -> None:
    value: Any = event.get(name)
    # JSON has one kind of number, and Python's booleans are whole ones.
    kinds: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if type(value) not in kinds:
        seen = "is missing" if value is None else f"is {str(value)[:40]!r}"
        raise LocalProtocolError(f"{where}: {name!r} {seen}, not {_WORDS[kind]}")
    if kind in {int, float} and not 0 <= value < _ENDS.get(name, _NUMBER_END):
        raise LocalProtocolError(f"{where}: {name!r} cannot be {value}")
    if name in _FORMS and not _FORMS[name].fullmatch(value):
        raise LocalProtocolError(f"{where}: {name!r} cannot be {value[:40]!r}")
    if name == "channel" and value not in _CHANNELS:
        raise LocalProtocolError(f"{where}: there is no channel {str(value)[:40]!r}")


_WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
}
