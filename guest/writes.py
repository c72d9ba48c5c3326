"""How many target pages a guest has written to since it began: what differs from its image by now.

A program's writes follow from its vCPUs' steps alone, so neither the image nor the memory is looked
at.  That takes time in proportion to the steps: after some millions it is left at "at least".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guest.programs import Program
from guest.slices import Job
from guest.states import VcpuState
from protocol.geometry import Geometry

# As of a replay: some ten milliseconds each.
_BATCH_STEPS = 1 << 16
# Some two million steps: half a second, which nobody minds at the end of a migration.
_BATCH_COUNT_MAX = 32


@dataclass(frozen=True)
class Written:
    """What a guest has written to.

    Attributes:
        target_pages: How many target pages.
        is_whole: No more than that; else the vCPUs have made more steps than were looked at.
    """

    target_pages: int
    is_whole: bool

    def to_plain(self) -> dict[str, int | bool]:
        """Return this as a report has it."""
        return {"changed-target-pages": self.target_pages, "at-least": not self.is_whole}


def count_written(
    program: Program, geometry: Geometry, states: tuple[VcpuState, ...]
) -> Job[Written]:
    """Count the target pages that vCPUs have written to up to these states; yields steps."""
    written = np.zeros(geometry.target_page_count, dtype=np.bool_)
    left = _BATCH_COUNT_MAX
    for state in states:
        for step in range(0, state.step, _BATCH_STEPS):
            if written.all():
                return Written(len(written), is_whole=True)
            if not left:
                return Written(int(np.count_nonzero(written)), is_whole=False)
            count = min(_BATCH_STEPS, state.step - step)
            batch = program.batch(state.vcpu, step, count)
            if not len(batch):
                break  # A trace has ended.
            written[batch.flat_pages[batch.is_write]] = True
            left -= 1
            yield count
    return Written(int(np.count_nonzero(written)), is_whole=True)
