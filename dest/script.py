"""Scripted faults: which pages vCPUs touch, and at which moment of the migration.

A step has a trigger and a list of pages.  When the trigger first comes true its pages are touched,
one vCPU each, in the order given; a step fires once.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, PageId
from protocol.text import did_you_mean

# Far more than any guest has pages.
_DIGITS_MAX = 18


@dataclass(frozen=True)
class PageName:
    """A page as a person writes it.

    Attributes:
        block: A RAMBlock's name, or its number; empty for the first.
        index: Which page of the block.
    """

    block: str
    index: int

    def __str__(self) -> str:  # type: ignore[explicit-override]
        """Return it as it is written."""
        return f"{self.block}:{self.index}" if self.block else str(self.index)

    def find(self, geometry: Geometry) -> PageId:
        """Return the page in a guest of that geometry; a block's name goes before its number.

        Raises:
            LocalProtocolError: There is no such block, or it has not so many pages.
        """
        page = PageId(self._find_block(geometry), self.index)
        if not geometry.has_page(page):
            block = geometry.blocks[page.block]
            raise LocalProtocolError(
                f"page {self} is outside the guest: {block.name} has {page_count(block.page_count)}"
            )
        return page

    def _find_block(self, geometry: Geometry) -> int:
        names = [block.name for block in geometry.blocks]
        if not self.block:
            return 0
        if self.block in names:
            return names.index(self.block)
        if _is_number(self.block) and int(self.block) < len(names):
            return int(self.block)
        hint = did_you_mean(self.block, names)
        raise LocalProtocolError(
            f"the guest has no block {self.block!r} for page {self}{hint}; "
            f"it has: {', '.join(names)}"
        )


def read_page_name(value: object) -> PageName | None:
    """Return the page that a number N, or a text "N" or "BLOCK:N", names; None if it is neither."""
    if type(value) is int and 0 <= value < 10**_DIGITS_MAX:
        return PageName("", value)
    if not isinstance(value, str):
        return None
    block, colon, number = value.rpartition(":")
    if not _is_number(number) or (colon and not block):
        return None
    return PageName(block, int(number))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX


@dataclass(frozen=True)
class Step:
    """One step of a script.

    Attributes:
        what: "received", "requested" or "placed".
        page: The page whose progress the step waits for.
        share: For "received", which share of the page's bytes must be here, over 0 to 1.
        faults: The pages to touch then.
    """

    what: str
    page: PageId
    faults: tuple[PageId, ...]
    share: float = 1.0


@dataclass(frozen=True)
class WrittenStep:
    """A step before it is known what guest comes: its pages have names.

    Attributes:
        what: As a `Step`'s, and `share` too.
        where: Where it stands, as FILE:LINE.
    """

    what: str
    page: PageName
    faults: tuple[PageName, ...]
    share: float = 1.0
    where: str = ""


def find_steps(
    written: tuple[WrittenStep, ...], geometry: Geometry, program: str
) -> tuple[Step, ...]:
    """Return the steps for a guest.

    Raises:
        LocalProtocolError: It has a program of its own, or not the pages that a step names.
    """
    if written and program != "scripted":
        raise LocalProtocolError(f"steps need a guest whose program is scripted, not {program}")
    return tuple(
        Step(
            step.what,
            _find(step.page, step, geometry),
            tuple(_find(fault, step, geometry) for fault in step.faults),
            step.share,
        )
        for step in written
    )


def page_count(count: int) -> str:
    """Return a number of pages in words."""
    return "1 page" if count == 1 else f"{count} pages"


def _find(name: PageName, step: WrittenStep, geometry: Geometry) -> PageId:
    try:
        return name.find(geometry)
    except LocalProtocolError as error:
        raise LocalProtocolError(f"{step.where}: {error}") from error


class Script:
    """The steps that have not fired; told what happens, answers with what to touch."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        """Start with no step fired."""
        self._pending = list(steps)

    @property
    def done(self) -> bool:
        """Whether every step has fired."""
        return not self._pending

    def happened(self, what: str, page: PageId, share: float) -> list[PageId]:
        """Note a happening; return the pages to touch now, in order.

        Args:
            what: "received", "requested" or "placed".
            page: Where it happened.
            share: Which share of the page is here.
        """
        due = [step for step in self._pending if _fires(step, what, page, share)]
        self._pending = [step for step in self._pending if step not in due]
        return [fault for step in due for fault in step.faults]


def _fires(step: Step, what: str, page: PageId, share: float) -> bool:
    if (step.what, step.page) != (what, page):
        return False
    return what != "received" or share >= step.share
