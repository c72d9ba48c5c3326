"""Where things stand in a scenario's text, so that what is wrong with it can be told by its line.

`tomllib` says nothing about lines once a text is well-formed; so the few shapes that a scenario has
(headers, `key = value` at a line's beginning) are looked for in the text itself.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protocol.errors import LocalProtocolError
from protocol.text import did_you_mean
from protocol.units import parse_duration_ms
from scripts.files import read_bounded

# A scenario is written by a person; a longer file is something else.
_TEXT_BYTES_MAX = 1 << 20

_HEADER = re.compile(r"\s*\[(?P<array>\[?)\s*[\"']?(?P<name>[A-Za-z0-9_-]+)")
_KEY = re.compile(r"\s*[\"']?(?P<name>[A-Za-z0-9_:-]+)[\"']?\s*[.=]")
_LONG_NUMBER = re.compile(r"[0-9_]{1000,}")
_SYNTAX_ERROR = re.compile(r"(?P<reason>.*) \(at (?:line (?P<line>[0-9]+)|end of document).*\)")

# The sections of a scenario's file.
SECTIONS = ("name", "timeout", "source", "migration", "step", "expect")

# What TOML itself has as whole numbers.
_WHOLE_NUMBER_BITS = 64

# A scenario has tables in arrays, and no more; a text of brackets alone is none.
_DEPTH_MAX = 8

_TOO_LARGE = "a whole number has 64 bits, this one has more"

# What a complaint repeats of a value.
_QUOTED_CHARS_MAX = 60

Lines = Mapping[tuple[str, int, str], int]


class ScenarioError(LocalProtocolError):
    """A scenario file, or one of steps, is wrong; the message says where and why."""

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
        here = (self.section, self.number)
        if (*here, key) in self.lines:
            return self.lines[*here, key]
        if not self.section:
            # A key before all sections may be one: a table, or an array of them.
            for (section, _, name), line in self.lines.items():
                if section == key and not name:
                    return line
        return self.lines.get((*here, ""), 1)

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
                hint = did_you_mean(key, known)
                listed = ", ".join(known)
                raise self.wrong(key, f"{what} has no {quoted(key)}{hint}; it has: {listed}")

    def tables(self, key: str, table: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return an array of tables, empty if there is none.

        Raises:
            ScenarioError: It is something else.
        """
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self.wrong(key, f"{key} is not an array of tables, write [[{key}]]")
        return value

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
    where = Where(path, find_lines(text))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _SYNTAX_ERROR.fullmatch(str(error))
        line = int((match and match["line"]) or text.rstrip("\n").count("\n") + 1)
        reason = match["reason"] if match else str(error)
        raise ScenarioError(f"{path}:{line}: no TOML: {reason}") from error
    except RecursionError:
        line = _first_line(
            text, lambda content: content.count("[") + content.count("{") > _DEPTH_MAX
        )
        raise ScenarioError(f"{path}:{line}: this is nested too deep") from None
    except ValueError:
        # Python refuses to read a number of thousands of digits.
        line = _first_line(text, lambda content: _LONG_NUMBER.search(content) is not None)
        raise ScenarioError(f"{path}:{line}: {_TOO_LARGE}") from None
    for key, value in table.items():
        _check_value(value, where, key)
    return table, where


def _first_line(text: str, is_it: Callable[[str], bool]) -> int:
    """Return the number of the first line that is like that, 1 if none is."""
    return next((line for line, each in enumerate(text.splitlines(), 1) if is_it(each)), 1)


def _check_value(value: Any, where: Where, key: str, depth: int = 0) -> None:  # noqa: ANN401
    """Refuse values that TOML has and nothing here could take: they would fail where they are used.

    Raises:
        ScenarioError: A whole number is too large, a number is none, a text has a NUL in it, or
            tables lie in each other too deep.
    """
    if depth > _DEPTH_MAX:
        raise where.wrong(key, "this is nested too deep")
    if isinstance(value, dict):
        if not where.section:
            where, key = where.inside(key), ""
        for name, each in value.items():
            # Of what lies deeper, the line is that of what it lies in.
            _check_value(each, where, key or name, depth + 1)
    elif isinstance(value, list):
        is_section = not where.section and all(isinstance(each, dict) for each in value)
        for number, each in enumerate(value, 1):
            place, name = (where.inside(key, number), "") if is_section else (where, key)
            _check_value(each, place, name, depth + 1)
    elif isinstance(value, int) and value.bit_length() >= _WHOLE_NUMBER_BITS:
        raise where.wrong(key, _TOO_LARGE)
    elif isinstance(value, float) and math.isnan(value):
        raise where.wrong(key, "nan is not a number")
    elif isinstance(value, str) and "\0" in value:
        raise where.wrong(key, f"{quoted(value)} has a NUL character in it")


def quoted(value: object) -> str:
    """Return a value as a complaint repeats it, not too long."""
    text = repr(value)
    return text if len(text) <= _QUOTED_CHARS_MAX else f"{text[:_QUOTED_CHARS_MAX]}..."


def _read_text(path: Path) -> str:
    try:
        data = read_bounded(path, _TEXT_BYTES_MAX)
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
