"""What memory must be now: a program's writes follow from its vCPUs' steps alone.

At the end of a migration the source still has the memory of the switch-over, and learns where the
vCPUs stand on the destination.  With their writes replayed its memory must equal the destination's.
And how many target pages differ from the guest's image by now is counted without any memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guest.memory import GuestMemory
from guest.pattern import Words
from guest.programs import AccessBatch, Program
from guest.slices import Job
from guest.states import VcpuState
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.pageset import PageSet

# Some ten milliseconds, and a few megabytes of arrays.
_BATCH_STEPS = 1 << 16
# To count, some two million steps: half a second, which nobody minds at the end of a migration.
_BATCH_COUNT_MAX = 32

_WORDS_PER_TARGET_PAGE = np.uint64(TARGET_PAGE_BYTES // 8)


def replay(
    memory: GuestMemory,
    program: Program,
    from_states: tuple[VcpuState, ...],
    to_states: tuple[VcpuState, ...],
) -> Job[None]:
    """Apply to `memory` all writes between two states of all vCPUs; yields steps.

    The time it takes grows with the steps: some 0.2 us each, a twentieth of what the vCPU took.

    Raises:
        RemoteProtocolError: `to_states`, which the peer sent, lie before `from_states`, or are not
            of the same vCPUs.
    """
    if [state.vcpu for state in from_states] != [state.vcpu for state in to_states]:
        raise RemoteProtocolError("the closing states are not of the guest's vCPUs")
    for before, after in zip(from_states, to_states, strict=True):
        if after.step < before.step:
            raise RemoteProtocolError(
                f"vCPU {after.vcpu} went back from step {before.step} to {after.step}"
            )
    for before, after in zip(from_states, to_states, strict=True):
        for step in range(before.step, after.step, _BATCH_STEPS):
            count = min(_BATCH_STEPS, after.step - step)
            batch = program.batch(before.vcpu, step, count)
            if not len(batch):
                break  # A trace has ended; what is left are steps that nobody made.
            _apply(memory, batch)
            yield count


def _apply(memory: GuestMemory, batch: AccessBatch) -> None:
    """Make the writes of a batch, in order."""
    pages, values = batch.flat_pages[batch.is_write], batch.new_values[batch.is_write]
    words = (batch.slot_offsets[batch.is_write]) // np.uint64(8)
    for block, base in enumerate(memory.geometry.target_page_bases):
        count = memory.geometry.blocks[block].target_page_count
        own = (pages >= base) & (pages < base + count)
        indices: Words = (pages[own] - np.uint64(base)) * _WORDS_PER_TARGET_PAGE + words[own]
        # Of several writes to one word the last stays: NumPy assigns in the order of the indices.
        memory.words(block)[indices] = values[own]


def find_accessed(
    program: Program,
    geometry: Geometry,
    from_states: tuple[VcpuState, ...],
    to_states: tuple[VcpuState, ...],
) -> Job[tuple[PageSet, bool]]:
    """Find the target pages that vCPUs have touched between two states of them; yields steps.

    Returns:
        The target pages, and whether they are all: some millions of steps are looked at.
    """
    touched = np.zeros(geometry.target_page_count, dtype=np.bool_)
    left, is_whole = _BATCH_COUNT_MAX, True
    for before, after in zip(from_states, to_states, strict=True):
        for step in range(before.step, after.step, _BATCH_STEPS):
            if not left:
                is_whole = False
                break
            count = min(_BATCH_STEPS, after.step - step)
            batch = program.batch(before.vcpu, step, count)
            if not len(batch):
                break  # A trace has ended.
            touched[batch.flat_pages] = True
            left -= 1
            yield count
    pages = PageSet(geometry)
    pages.add_flat(np.flatnonzero(touched))
    return pages, is_whole


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
    """Count the target pages that vCPUs have written to up to these states; yields steps.

    That takes time in proportion to the steps: after some millions it is left at "at least".
    """
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
