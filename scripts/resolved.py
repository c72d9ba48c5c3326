"""Options as a report has them: with one unit for each kind of value, and what names stand for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from protocol.errors import MidstreamError
from protocol.units import parse_bytes, parse_duration_ms, parse_geometry, parse_rate

Plain = dict[str, Any]
# Makes of what was typed what a report says.
Reader = Callable[[str], Any]


def resolved(
    values: Mapping[str, Any],
    kinds: Mapping[str, str],
    keys: Mapping[str, str] = MappingProxyType({}),
) -> Plain:
    """Return every option with the value that it has, in one unit for each kind.

    Sizes are bytes, rates bytes a second, times milliseconds; the unit is the end of the key.  What
    `auto` came to is not said here: it may be another on another machine, and has its own field.

    Args:
        values: By their names in Python, as typed or by default.
        kinds: What each is called in the help.
        keys: What each is called where it is typed, if that is another name.
    """
    plain: Plain = {}
    for name, value in values.items():
        unit, read = _UNITS.get(name) or _UNITS.get(kinds.get(name, ""), ("", printable))
        plain[keys.get(name, key_of(name)) + unit] = None if value is None else _read(read, value)
    plain |= _blocks(values)
    if "postcopy_after" in values and values["postcopy_after"] is None:
        # Imported late: whoever has options has it by now.
        from scripts.options import postcopy_after_of  # noqa: PLC0415

        plain["postcopy-after"] = number_of(postcopy_after_of(values))
    return plain | _policies(plain)


def _read(read: Reader, value: Any) -> Any:  # noqa: ANN401 - of whatever kind
    """Return what a value means, as it was typed if it means nothing: then it is refused."""
    try:
        if isinstance(value, str):
            return read(value)
    except MidstreamError:
        pass
    return text_of(value)


def _sizes(text: str) -> list[int]:
    return [parse_bytes(size) for size in text.split(",")]


def _names(text: str) -> list[str]:
    return [printable(name.strip()) for name in text.split(",") if name.strip()]


def number_of(text: str) -> int | float | str:
    """Return the number that a text is, whole where it is; of one that is none the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return printable(text)


def _numbers(text: str) -> list[int | float | str]:
    return [number_of(each) for each in text.split(",")]


def _time_ms(text: str) -> float:
    return 0 if text == "0" else parse_duration_ms(text)


def _size(text: str) -> int:
    return parse_geometry(text, "4KiB").length_bytes


def _link(text: str) -> Plain | None:
    from scripts.links.spec import parse_link  # noqa: PLC0415

    spec = parse_link(text)
    if not spec:
        return None
    told: Plain = {"bytes-per-second": spec.bytes_per_second, "queue": spec.queue or "auto"}
    return told | {"rtt-ms": spec.rtt_us / 1000, "loss": spec.loss}


# By an option's name, or by what its value is called: the end of the key, and who reads it.
_UNITS: Mapping[str, tuple[str, Reader]] = {
    "size": ("-bytes", _size),
    "access_rate": ("-per-second", _numbers),
    "SIZE": ("-bytes", parse_bytes),
    "SIZES": ("-bytes", _sizes),
    "RATE": ("-bytes-per-second", parse_rate),
    "TIME": ("-ms", _time_ms),
    "N": ("", number_of),
    "RATIO": ("", number_of),
    "NAMES": ("", _names),
    "RATE[,...]": ("", _link),
}


def _blocks(values: Mapping[str, Any]) -> Plain:
    size, page_size = values.get("size"), values.get("page_size")
    if not (isinstance(size, str) and isinstance(page_size, str)):
        return {}
    try:
        blocks = parse_geometry(size, page_size).blocks
    except MidstreamError:
        return {}
    return {
        "blocks": [
            {"name": block.name, "length-bytes": block.length_bytes, "page-bytes": block.page_bytes}
            for block in blocks
        ]
    }


def _policies(asked: Plain) -> Plain:
    """Return what policies' names stand for: another version, or file, may mean something else.

    Args:
        asked: The options; `policy` is one, or several where it may be typed again and again.
    """
    from scripts.policies import WrongPolicy, policy_of  # noqa: PLC0415
    from scripts.policy_definitions import definition_of  # noqa: PLC0415

    policy, several = asked.get("policy"), asked.get("policies")
    names = [*several] if isinstance(several, list) else []
    names += policy if isinstance(policy, list) else []
    told: Plain = {}
    # A name that is wrong is refused elsewhere.
    with suppress(WrongPolicy):
        if isinstance(policy, str):
            told["policy-switches"] = list(policy_of(policy).switches)
            told["policy-definition"] = definition_of(policy)
        if names:
            told["policy-definitions"] = {name: definition_of(name) for name in names}
    return told


def key_of(name: str) -> str:
    """Return what an option that Python calls so is called where it is typed."""
    return name.replace("_", "-")


def text_of(value: Any) -> Any:  # noqa: ANN401 - what JSON has
    """Return a value as JSON has it, what is a text as it was typed."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (tuple, list)):
        return [text_of(each) for each in value]
    return printable(os.fspath(value) if isinstance(value, os.PathLike) else str(value))


def printable(text: str) -> str:
    """Return a text that any reader of JSON takes; a file's name may have bytes of no character."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
