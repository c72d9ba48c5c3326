"""Reads the file of a sweep: which command, which options are the same, and which are axes.

    command = "simulate"             # or "migrate", for real runs

    [options]                        # of all runs
    size = "64GiB"

    [axes]                           # one run for each combination
    policy = ["ordered", "critical-first", "mine.py:MINE"]
    link = ["1Gbit/s", "10Gbit/s"]
    rtt = ["0", "1ms"]               # joins the link, as loss and queue do
    vcpus = [1, 4]
    seed = "0..9"

Every point is read as its command would read it before anything runs; a complaint names the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import click

from protocol.errors import LocalProtocolError
from protocol.text import did_you_mean
from scripts.injection.scenario_text import Where, quoted, read_toml
from scripts.sweep.kinds import KINDS, LINK_PARTS, SET, Job, Kind

# Each is read before the first runs.
POINTS_MAX = 100_000

_SECTIONS = ("command", "options", "axes")
_SPAN = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")

# Of options that complaints are about, what else may have made up their values.
_PARTS = {"link": LINK_PARTS, "program": ("accesses",)}

# A value of an axis, as it was written.
Value = str | int | float | bool | list[str]


@dataclass(frozen=True)
class Sweep:
    """The runs that a file asks for.

    Attributes:
        kind: The command.
        axes: The values of each axis, by its name.
        jobs: What is to be run: one a point, the last axis changing fastest.
    """

    kind: Kind
    axes: Mapping[str, Sequence[Value]]
    jobs: Sequence[Job]


def read_sweep(path: Path) -> Sweep:
    """Return the sweep that a file describes, every point of it looked at.

    Raises:
        ScenarioError: It is wrong, or one of its runs could not begin; in which line.
        MidstreamError: The code that would run cannot be read.
    """
    table, where = read_toml(path)
    where.check_keys(table, _SECTIONS, "a sweep")
    command = table.get("command", "simulate")
    if command not in KINDS:
        known = ", ".join(KINDS)
        raise where.wrong("command", f"command is {quoted(command)}, and not one of: {known}")
    kind = KINDS[command]
    options, axes = _table(table, "options", where), _table(table, "axes", where)
    fixed, in_axes = where.inside("options"), where.inside("axes")
    for key, value in options.items():
        _check_value(kind, key, value, fixed)
    spread = {key: _values(kind, key, value, in_axes) for key, value in axes.items()}
    if not spread:
        raise where.wrong("axes", "a sweep has no axis: write [axes] with an option in it")
    for key in options.keys() & axes.keys():
        raise in_axes.wrong(key, f"{key} is one of the options, too")
    count = prod(map(len, spread.values()))
    if count > POINTS_MAX:
        raise in_axes.wrong("", f"{count:,} points, and a sweep has at most {POINTS_MAX:,}")
    return Sweep(kind, spread, list(_jobs(kind, options, spread, where)))


def _jobs(
    kind: Kind, options: Mapping[str, Value], axes: Mapping[str, Sequence[Value]], where: Where
) -> Iterator[Job]:
    for values in product(*axes.values()):
        point = {**options, **dict(zip(axes, values, strict=True))}
        try:
            yield kind.job(point, where.path.parent)
        except click.BadParameter as error:
            raise _blamed(error, point, axes, where) from error
        except LocalProtocolError as error:
            raise where.wrong("", str(error)) from error


def _blamed(
    error: click.BadParameter, point: Mapping[str, Value], axes: Mapping[str, object], where: Where
) -> LocalProtocolError:
    """Return the complaint about a point, with the line of what it is about."""
    named = str(error.param_hint or "").replace("--", "").split(" or ")
    named += [part for whole, parts in _PARTS.items() if whole in named for part in parts]
    there = [name for name in named if name in point]
    # Of several, one whose value is complained about, then one that changes from run to run.
    there.sort(key=lambda name: (repr(str(point[name])) not in error.message, name not in axes))
    key = there[0] if there else ""
    shown = f" (of the point {_shown(point, axes)})" if axes.keys() - {key} else ""
    inside = where.inside("options" if key in point and key not in axes else "axes")
    return inside.wrong(key, f"{key or named[0] or 'a point'}: {error.message}{shown}")


def _shown(point: Mapping[str, Value], axes: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={point[name]}" for name in axes)


def _table(table: Mapping[str, Any], name: str, where: Where) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise where.wrong(name, f"{name} is not a table, write [{name}]")
    return value


def _values(kind: Kind, key: str, value: object, where: Where) -> Sequence[Value]:
    """Return an axis's values.

    Raises:
        ScenarioError: There is no such axis, it is empty or not an array, or a value is wrong.
    """
    _check_key(kind, key, where)
    if isinstance(value, str) and (span := _SPAN.fullmatch(value)):
        first, last = int(span[1]), int(span[2])
        if last < first or last - first >= POINTS_MAX:
            raise where.wrong(key, f"{key}: {value} is empty, or longer than {POINTS_MAX:,}")
        value = list(range(first, last + 1))
    if not isinstance(value, list):
        raise where.wrong(key, f'{key} is no axis: write an array, or whole numbers as "0..9"')
    if not value:
        raise where.wrong(key, f"{key} is an empty axis")
    seen = set()
    for each in value:
        _check_value(kind, key, each, where)
        if repr(each) in seen:
            raise where.wrong(key, f"{key} has {quoted(each)} twice")
        seen.add(repr(each))
    return value


def _check_value(kind: Kind, key: str, value: object, where: Where) -> None:
    """Refuse what no option's value could be, whatever the option.

    Raises:
        ScenarioError: That is so.
    """
    _check_key(kind, key, where)
    if key == SET:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in parts):
            raise where.wrong(key, f"{key}: {quoted(value)} is neither NAME=VALUE nor an array")
    elif key in kind.switches:
        if not isinstance(value, bool):
            raise where.wrong(key, f"{key}: {quoted(value)} is neither true nor false")
    elif isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise where.wrong(key, f"{key}: {quoted(value)} is neither a text nor a number")


def _check_key(kind: Kind, key: str, where: Where) -> None:
    if key not in kind.names:
        hint = did_you_mean(key, kind.names)
        raise where.wrong(key, f"{kind.command} has no option {quoted(key)} for a sweep{hint}")
