"""What a vCPU does: deterministic programs whose whole state is one step number.

Every vCPU owns one 8-byte slot in every target page and touches no other word: no two vCPUs race
for a word though all share all pages.  An access reads the vCPU's slot, compares it with what
must be there, and sometimes writes a new value.  The values that a slot goes through are its
*versions*: version 0 is what the guest was filled with, version v what the v-th write of its vCPU
put there.

Which version a slot has at step n follows from n alone.  Bands (guest/bands.py) say how often the
vCPU was at this page before, r times; and of its first r visits to a page it writes in
floor(r * write_ratio + phase), with a phase from 0 to 1 that is the page's own.  So the state that
crosses in a migration is the number n, and the destination knows what every read must find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guest.bands import Bands
from guest.pattern import WORDS_PER_TARGET_PAGE, Pattern, Words, chain, key_of
from guest.spec import PROGRAM_NAMES, ProgramSpec
from guest.states import STEP_MAX
from guest.trace import Trace
from protocol.geometry import Geometry
from protocol.limits import VCPU_COUNT_MAX

__all__ = ["PROGRAM_NAMES", "AccessBatch", "Program", "ProgramSpec"]

# Write ratios and phases count in units of 2**-24: visits times ratio then fits in 64 bits.
RATIO_BITS = 24
_RATIO_SHIFT = np.uint64(RATIO_BITS)
_PHASE_SHIFT = np.uint64(64 - RATIO_BITS)
assert ((STEP_MAX + 2) << RATIO_BITS).bit_length() <= 64

_SLOT_BYTES = 64
_SLOT_WORDS = np.uint64(_SLOT_BYTES // 8)
assert VCPU_COUNT_MAX * int(_SLOT_WORDS) == WORDS_PER_TARGET_PAGE

_ONE = np.uint64(1)


@dataclass(frozen=True, eq=False)
class AccessBatch:
    """Consecutive accesses of one vCPU, as arrays of the same length.

    Attributes:
        flat_pages: The flat target page of each access.
        slot_offsets: The byte offset in that target page of the vCPU's 8-byte slot.
        is_write: Whether the access writes `new_values` after it has read.
        expected: What the slot must hold before the access.
        has_expected: False where that is unknown (an image guest, not written yet).
        new_values: What the slot holds after the access, where `is_write`.
    """

    flat_pages: Words
    slot_offsets: Words
    is_write: NDArray[np.bool_]
    expected: Words
    has_expected: NDArray[np.bool_]
    new_values: Words

    def __len__(self) -> int:
        """Return how many accesses these are."""
        return len(self.flat_pages)


class Program:
    """A program over a guest: arithmetic only, no memory is touched."""

    def __init__(self, spec: ProgramSpec, geometry: Geometry) -> None:
        """Prepare to tell the accesses of the vCPUs of such a guest."""
        self.spec = spec
        self._pattern = Pattern(spec.seed)
        self._slot_key = key_of(spec.seed, 4)
        self._vcpu_keys = [key_of(spec.seed, 5, vcpu) for vcpu in range(spec.vcpu_count)]
        self._ratio = np.uint64(round(spec.write_ratio * (1 << RATIO_BITS)))
        self._bands: Bands | None = None
        self._recorded: list[Recorded] = []
        if spec.trace is not None:
            self._recorded = [record(spec.trace, vcpu) for vcpu in range(spec.vcpu_count)]
        elif spec.name != "scripted":
            self._bands = Bands(spec.name, geometry.target_page_count, spec.vcpu_count, spec.seed)

    def batch(self, vcpu: int, first_step: int, count: int) -> AccessBatch:
        """Return the accesses first_step to first_step + count - 1 of a vCPU.

        Fewer at the end of a trace, and none for "scripted".
        """
        return self._accesses(vcpu, *self.touches(vcpu, first_step, count))

    def touches(
        self, vcpu: int, first_step: int, count: int
    ) -> tuple[Words, Words, NDArray[np.bool_]]:
        """Return of such accesses the flat target pages, their versions, and which of them write.

        That is all for who has no memory in which anything could be found.
        """
        if self._bands is not None:
            visits = self._bands.visits(vcpu, first_step, count)
            keys = chain(self._vcpu_keys[vcpu], visits.flat_pages)
            scaled = visits.rounds * self._ratio + (keys >> _PHASE_SHIFT)
            before, after = scaled >> _RATIO_SHIFT, (scaled + self._ratio) >> _RATIO_SHIFT
            return visits.flat_pages, before, after > before
        if self._recorded:
            recorded = self._recorded[vcpu]
            part = slice(first_step, first_step + count)
            return recorded.flat_pages[part], recorded.versions[part], recorded.is_write[part]
        nothing = np.zeros(0, dtype=np.uint64)
        return nothing, nothing, nothing.astype(np.bool_)

    def dues_ns(
        self, vcpu: int, first_step: int, step: int, count: int
    ) -> NDArray[np.int64] | None:
        """Return when the accesses from `step` on are due, as many as `batch` would tell of.

        Both a rate and a trace's times begin anew where a vCPU does: who stood still is not behind.
        An access of a trace is due as long after the one before it, or for the first of all after
        the start of the program, as the trace says.

        Args:
            vcpu: Whose.
            first_step: Where the vCPU stood when it began to run, which time counts from.
            step: The first of these accesses.
            count: How many, at most.

        Returns:
            Nanoseconds, not going back; None if each is due when the one before it has ended.
        """
        if self._recorded and (times_ns := self._recorded[vcpu].times_ns) is not None:
            began_ns = times_ns[first_step - 1] if 0 < first_step <= len(times_ns) else 0
            return times_ns[step : step + count] - began_ns
        rate = self.spec.access_rate(vcpu)
        if not rate:
            return None
        steps = np.arange(step - first_step, step - first_step + count)
        return (steps * (1e9 / rate)).astype(np.int64)

    def first_reads(self, vcpu: int, flat_pages: Words) -> AccessBatch:
        """Return reads of slots that their vCPU has never written: what "scripted" vCPUs do."""
        versions = np.zeros(len(flat_pages), dtype=np.uint64)
        return self._accesses(vcpu, flat_pages, versions, versions.astype(np.bool_))

    def _accesses(
        self, vcpu: int, flat_pages: Words, versions: Words, is_write: NDArray[np.bool_]
    ) -> AccessBatch:
        """Return accesses to these pages, whose slots have these versions before."""
        slots = (chain(self._slot_key, flat_pages) + np.uint64(vcpu)) % np.uint64(VCPU_COUNT_MAX)
        keys = chain(self._vcpu_keys[vcpu], flat_pages)
        first = self._pattern.initial_values(flat_pages, slots * _SLOT_WORDS)
        is_first = versions == 0
        return AccessBatch(
            flat_pages=flat_pages,
            slot_offsets=slots * np.uint64(_SLOT_BYTES),
            is_write=is_write,
            expected=np.where(is_first, first, chain(keys, versions)),
            has_expected=np.logical_not(is_first & self.spec.image),
            new_values=chain(keys, versions + _ONE),
        )


@dataclass(frozen=True, eq=False)
class Recorded:
    """One vCPU's accesses of a trace, the version that each finds, and when it is due."""

    flat_pages: Words
    versions: Words
    is_write: NDArray[np.bool_]
    times_ns: NDArray[np.int64] | None


def record(trace: Trace, vcpu: int) -> Recorded:
    """Return a vCPU's accesses of a trace, each with what it finds."""
    own = trace.vcpus == vcpu
    flat_pages, is_write = trace.flat_pages[own], trace.is_write[own]
    # The version that an access finds is the number of earlier writes to its page.  Sorted by page,
    # stably, that is a running count of writes minus what it was at the page's first access.
    order = np.argsort(flat_pages, kind="stable")
    writes = is_write[order].astype(np.uint64)
    earlier = np.cumsum(writes) - writes
    _, starts, lengths = np.unique(flat_pages[order], return_index=True, return_counts=True)
    versions = np.empty(len(flat_pages), dtype=np.uint64)
    versions[order] = earlier - np.repeat(earlier[starts], lengths)
    times_ns = None if trace.times_ns is None else trace.times_ns[own]
    return Recorded(flat_pages, versions, is_write, times_ns)
