"""The grammar that a scenario's steps and those of `--steps` share, as far as it needs no guest.

A destination learns only from its source what guest comes, so pages are names here (dest/script).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dest.script import PageName, read_page_name
from scripts.injection.scenario_text import Where, quoted

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
