"""Reads the [[step]] tables of `--steps`: scripted faults and the moments they happen at.

[[step]]
when = { page = 5, received = 0.25 }   # the first moment a quarter of page 5 is here
fault = [9]                            # vCPUs touch these pages, in this order
[[step]]
when = { requested = 9 }               # also: placed = 9
fault = [5, "rom:3"]                   # a page of another RAMBlock than the first: "BLOCK:PAGE"

The file may be a whole scenario; what else it says is not heeded, but its steps must be such steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dest.script import WrittenStep
from scripts.injection.moments import PAGE_KINDS, name_pages, read_moment
from scripts.injection.scenario_text import SECTIONS, Where, read_toml

_STEP_KEYS = ("when", "fault")


def read_steps(path: Path) -> tuple[WrittenStep, ...]:
    """Return the steps of a file.

    Raises:
        ScenarioError: The file cannot be read, or a step is wrong: where, and why.
    """
    table, where = read_toml(path)
    where.check_keys(table, SECTIONS, "a file of steps")
    steps = where.tables("step", table)
    return tuple(_step(step, where.inside("step", number)) for number, step in enumerate(steps, 1))


def _step(table: dict[str, Any], where: Where) -> WrittenStep:
    where.check_keys(table, _STEP_KEYS, "a step of --steps")
    for key in _STEP_KEYS:
        if key not in table:
            raise where.wrong("", f"a step has exactly `when` and `fault`, this one has no {key}")
    moment = read_moment(table["when"], where)
    if moment is None:
        raise where.wrong("when", f"when is none of {', '.join(PAGE_KINDS)}")
    faults = name_pages(table["fault"], where, "fault")
    place = f"{where.path}:{where.line_of('')}"
    return WrittenStep(moment.what, moment.page, faults, moment.share, place)
