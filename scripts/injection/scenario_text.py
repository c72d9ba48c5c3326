"""Where things stand in a scenario's text, so that what is wrong with it can be told by its line.

`tomllib` says nothing about lines once a text is well-formed; so the few shapes that a scenario has
(headers, `key = value` at a line's beginning) are looked for in the text itself.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protocol.errors import LocalProtocolError, MidstreamError
from protocol.units import parse_duration_ms

# A scenario is written by a person; a longer file is something else.
_TEXT_BYTES_MAX = 1 << 20

_HEADER = re.compile(r"\s*\[(?P<array>\[?)\s*[\"']?(?P<name>[A-Za-z0-9_-]+)")
_KEY = re.compile(r"\s*[\"']?(?P<name>[A-Za-z0-9_:-]+)[\"']?\s*[.=]")
_SYNTAX_ERROR = re.compile(r"(?P<reason>.*) \(at (?:line (?P<line>[0-9]+)|end of document).*\)")

Lines = Mapping[tuple[str, int, str], int]


class ScenarioError(MidstreamError):
    """A scenario file is wrong; the message says where and why."""

    exit_status = 2


@dataclass(frozen=True)
class Where:
    """A table of a scenario file.

    Attributes:
        path: The file.
        lines: The line of (section, number of it, key); the key of a header is "".
        section: "migration", "step", "expect", or "" for the file's beginning.
        number: Which of the steps, from 1; 0 elsewhere.
    """

    path: Path
    lines: Lines
    section: str = ""
    number: int = 0

    def inside(self, section: str, number: int = 0) -> Where:
        """Return another section of the same file."""
        return replace(self, section=section, number=number)

    def line_of(self, key: str) -> int:
        """Return the line of a key, or of what it should be in."""
        for place in ((self.section, self.number, key), (self.section, self.number, "")):
            if place in self.lines:
                return self.lines[place]
        return 1

    def wrong(self, key: str, reason: str) -> ScenarioError:
        """Return the error that says what is wrong with a key of this table."""
        return ScenarioError(f"{self.path}:{self.line_of(key)}: {reason}")

    def check_keys(self, table: Mapping[str, Any], known: Collection[str], what: str) -> None:
        """Refuse keys that nobody would heed.

        Raises:
            ScenarioError: There is one.
        """
        for key in table:
            if key not in known:
                raise self.wrong(key, f"{what} has no {key!r}; it has: {', '.join(known)}")

    def duration_ms(self, key: str, value: object, what: str) -> float:
        """Return a time longer than nothing.

        Raises:
            ScenarioError: It is none.
        """
        duration_ms = self.duration_or_zero_ms(key, value, what)
        if not duration_ms:
            raise self.wrong(key, f"{what} is no time at all")
        return duration_ms

    def duration_or_zero_ms(self, key: str, value: object, what: str) -> float:
        """Return a time.

        Raises:
            ScenarioError: It is none.
        """
        if not isinstance(value, str):
            raise self.wrong(key, f'{what} is not a time such as "200ms"')
        try:
            return parse_duration_ms(value)
        except LocalProtocolError as error:
            raise self.wrong(key, f"{what}: {error}") from error


def read_toml(path: Path) -> tuple[dict[str, Any], Where]:
    """Return what a file holds, and where.

    Raises:
        ScenarioError: It cannot be read, or is no TOML.
    """
    text = _read_text(path)
    try:
        return tomllib.loads(text), Where(path, find_lines(text))
    except tomllib.TOMLDecodeError as error:
        match = _SYNTAX_ERROR.fullmatch(str(error))
        line = int((match and match["line"]) or text.rstrip("\n").count("\n") + 1)
        reason = match["reason"] if match else str(error)
        raise ScenarioError(f"{path}:{line}: no TOML: {reason}") from error


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_TEXT_BYTES_MAX + 1)
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}") from error
    if len(data) > _TEXT_BYTES_MAX:
        raise ScenarioError(f"{path}:1: the file is longer than {_TEXT_BYTES_MAX >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ScenarioError(f"{path}:{line}: this is not UTF-8") from error


def find_lines(text: str) -> dict[tuple[str, int, str], int]:
    """Return the line of each header and of each key that begins a line."""
    lines: dict[tuple[str, int, str], int] = {}
    section, number = "", 0
    arrays = 0
    for line, content in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(content):
            section, number = header["name"], 0
            if header["array"]:
                arrays += 1
                number = arrays
            lines.setdefault((section, number, ""), line)
        elif key := _KEY.match(content):
            lines.setdefault((section, number, key["name"]), line)
    return lines
