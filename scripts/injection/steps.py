"""The grammar of steps that needs no guest, and what `--steps` has of it: scripted faults.

[[step]]
when = { page = 5, received = 0.25 }   # the first moment a quarter of page 5 is here
fault = [9]                            # vCPUs touch these pages, in this order
[[step]]
when = { requested = 9 }               # also: placed = 9
fault = [5, "rom:3"]                   # a page of another RAMBlock than the first: "BLOCK:PAGE"

The file may be a whole scenario; what else it says is not heeded, but its steps must be such steps.
A destination learns only from its source what guest comes, so pages are names here (dest/script).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from dest.script import PageName, WrittenStep, read_page_name
from scripts.injection.scenario_text import SECTIONS, Where, quoted, read_toml

# The moments of a page, which the destination itself knows.
PAGE_KINDS = ("{ page, received }", "{ requested }", "{ placed }")


class Moment(NamedTuple):
    """A moment of a page.

    Attributes:
        what: "received", "requested" or "placed".
        share: For "received", which share of the page must be here, over 0 to 1.
    """

    what: str
    page: PageName
    share: float = 1.0


def read_moment(value: Any, where: Where) -> Moment | None:  # noqa: ANN401 - whatever the file holds
    """Return the moment of a page that a step's `when` names, None if it names another kind.

    Raises:
        ScenarioError: It is no table, or what it says of the page cannot be.
    """
    if not isinstance(value, dict):
        raise where.wrong("when", "when is not a table such as { placed = 9 }")
    match value:
        case {"page": page, "received": share, **rest} if not rest:
            # True is 1 to Python.
            if type(share) not in (int, float) or not 0 < share <= 1:
                raise where.wrong(
                    "when", f"received = {quoted(share)} is not a share over 0 and up to 1"
                )
            return Moment("received", name_page(page, where, "when"), float(share))
        case {"requested": page, **rest} if not rest:
            return Moment("requested", name_page(page, where, "when"))
        case {"placed": page, **rest} if not rest:
            return Moment("placed", name_page(page, where, "when"))
    return None


def name_page(value: object, where: Where, key: str) -> PageName:
    """Return the page that a value names: N of the first block, or "BLOCK:N".

    Raises:
        ScenarioError: It is not written like that.
    """
    page = read_page_name(value)
    if page is None:
        raise where.wrong(key, f'{quoted(value)} is no page: a number, or "BLOCK:NUMBER"')
    return page


def name_pages(value: object, where: Where, key: str) -> tuple[PageName, ...]:
    """Return the pages that a list names.

    Raises:
        ScenarioError: It is no list, is empty, or one of them is no page.
    """
    if not isinstance(value, list) or not value:
        raise where.wrong(key, f"{key} is not a list of pages")
    return tuple(name_page(item, where, key) for item in value)


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
