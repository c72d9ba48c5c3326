"""Scripted faults: which pages vCPUs touch, and at which moment of the migration.

A step has a trigger and a list of pages.  When the trigger first comes true its pages are touched,
one vCPU each, in the order given; a step fires once.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, PageId


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


def check_steps(steps: tuple[Step, ...], geometry: Geometry, program: str) -> None:
    """Check that a guest can follow the steps.

    Raises:
        LocalProtocolError: It has a program of its own, or not the pages that a step names.
    """
    if steps and program != "scripted":
        raise LocalProtocolError(f"steps need a guest whose program is scripted, not {program}")
    for number, step in enumerate(steps, 1):
        for page in (step.page, *step.faults):
            if not geometry.has_page(page):
                raise LocalProtocolError(
                    f"step {number}: the guest has no page {page.index} in block {page.block}"
                )


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
        """Take a happening; return the pages to touch now, in order.

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
