"""Waits that are over: what the source says of them, their figures.  Pure.

A wait ends when its vCPU runs, and is told when all is known of it: the source says how a request
was answered when nobody waits for bytes, which may be somewhat later.

The source says by its own clock when a request came.  Two machines' monotonic clocks have nothing
to do with each other.  But nothing is read before it is written: a page request bounds the
difference from above, what the source says of its own time bounds it from below, and the smallest
delay of either direction says how closely.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from dest.faults import FaultTable
from dest.trips import Said, Wait, parts_of, stages_ns
from guest.latency import new_histogram, record_latencies, summarize
from protocol import events
from protocol.errors import RemoteProtocolError
from protocol.events import Emit
from protocol.geometry import Geometry, PageId
from protocol.messages import RequestAnswer, SourceTime
from protocol.page_messages import ANSWERS
from protocol.report import LATENCY_BIN_COUNT, STAGES, StageSummary, Summary

# As the stages of a wait are named in its event.
_STAGES_US = tuple(f"{name}_us" for name in STAGES)

# The vCPU runs again and may touch the next page, which is heard of when its last wait is recorded;
# into eight histograms one by one that takes as long as to ask for the page.
_GATHERED_WAITS = 1024

# How fast two clocks may drift apart, in nanoseconds a second: as far as NTP slews one.
_DRIFT_NS = 500_000


class ClockOffset:
    """The difference of two clocks, as closely as messages have told it so far."""

    def __init__(self) -> None:
        """Know nothing."""
        self._low_ns: int | None = None
        self._high_ns: int | None = None
        self._told_ns = 0

    @property
    def ahead_ns(self) -> int:
        """How far the source's clock is ahead of this one.

        The middle of what is possible, so half the difference of the two directions' smallest
        delays may be wrong.  But nothing, if that is possible: two processes of one machine share
        a clock, and no other two happen to agree.
        """
        low, high = self._low_ns, self._high_ns
        if low is None or high is None:
            return low if low is not None else high if high is not None else 0
        return 0 if low <= 0 <= high else (low + high) // 2

    def here(self, source_ns: int) -> int:
        """Return what the source's clock has said, by this side's."""
        return source_ns - self.ahead_ns

    def went(self, sent_ns: int, came_ns: int, now_ns: int) -> None:
        """Narrow the offset by a message to the source.

        Args:
            sent_ns: When it was sent, by this side's clock.
            came_ns: When it was read, by the source's.
            now_ns: The time.
        """
        self._drift(now_ns)
        high_ns = came_ns - sent_ns
        if self._high_ns is None or high_ns < self._high_ns:
            self._high_ns = high_ns
            if self._low_ns is not None and self._low_ns > high_ns:
                # A clock was stopped or set: the newest word counts.
                self._low_ns = None

    def came(self, sent_ns: int, now_ns: int) -> None:
        """Narrow the offset by a message of the source.

        Args:
            sent_ns: When it was sent, by the source's clock.
            now_ns: When it was read, by this side's: the time.
        """
        self._drift(now_ns)
        low_ns = sent_ns - now_ns
        if self._low_ns is None or low_ns > self._low_ns:
            self._low_ns = low_ns
            if self._high_ns is not None and self._high_ns < low_ns:
                self._high_ns = None

    def _drift(self, now_ns: int) -> None:
        """Widen the bounds by what the clocks may have drifted since they were told."""
        drift_ns = max(now_ns - self._told_ns, 0) * _DRIFT_NS // 10**9
        self._told_ns = now_ns
        if self._low_ns is not None:
            self._low_ns -= drift_ns
        if self._high_ns is not None:
            self._high_ns += drift_ns


class Latencies:
    """Collects complete waits."""

    def __init__(self, vcpu_count: int) -> None:
        """Start with none."""
        # Named here, the class is loaded before a source is awaited and not when one has come.
        self._faults: HdrHistogram = new_histogram()
        self._stages: dict[str, HdrHistogram] = {stage: new_histogram() for stage in STAGES}
        # What is not in the histograms yet: of each wait its length, and those of its stages.
        self._gathered: list[tuple[int, ...]] = []
        self._bins = [0] * LATENCY_BIN_COUNT
        self._vcpu_ns = [0] * vcpu_count
        self._vcpu_waits = [0] * vcpu_count

    def record(self, wait: Wait) -> dict[str, int]:
        """Record a complete wait; return its `stages_ns`."""
        stages, vcpu, latency_ns = stages_ns(wait), wait.vcpu, wait.latency_ns
        self._gathered.append((latency_ns, *stages.values()))
        if len(self._gathered) == _GATHERED_WAITS:
            self._sort_in()
        bin_index = max(latency_ns // 1000, 1).bit_length() - 1
        self._bins[min(bin_index, LATENCY_BIN_COUNT - 1)] += 1
        self._vcpu_ns[vcpu] += latency_ns
        self._vcpu_waits[vcpu] += 1
        return stages

    def _sort_in(self) -> None:
        """Sort all waits into the histograms."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            histograms = (self._faults, *self._stages.values())
            for histogram, values_ns in zip(histograms, np.array(gathered).T, strict=True):
                record_latencies(histogram, values_ns)

    @property
    def faults(self) -> Summary:
        """All waits, fault to wake-up."""
        self._sort_in()
        return summarize(self._faults)

    @property
    def stages(self) -> tuple[StageSummary, ...]:
        """Each stage of all waits, in the order in which they happen."""
        self._sort_in()
        return tuple(
            StageSummary(stage, summarize(histogram)) for stage, histogram in self._stages.items()
        )

    @property
    def bins(self) -> tuple[int, ...]:
        """Counts by power-of-two microseconds; below 2 us is the first, the rest the last."""
        return tuple(self._bins)

    @property
    def mean_ns(self) -> int:
        """Mean wait of all vCPUs."""
        return sum(self._vcpu_ns) // max(sum(self._vcpu_waits), 1)

    @property
    def vcpu_mean_ns(self) -> tuple[int, ...]:
        """Mean wait of each vCPU, 0 for one that never waited."""
        return tuple(
            total_ns // max(waits, 1)
            for total_ns, waits in zip(self._vcpu_ns, self._vcpu_waits, strict=True)
        )

    @property
    def blocktime_ms(self) -> float:
        """Sum over all vCPUs of the time they slept for pages."""
        return sum(self._vcpu_ns) / 1e6


class Waits:
    """Takes the source's words and the fault table's waits, and tells of those that are complete.

    Attributes:
        latencies: Their figures.
    """

    def __init__(
        self,
        geometry: Geometry,
        units: Geometry,
        faults: FaultTable,
        emit: Emit,
        vcpu_count: int,
    ) -> None:
        """Start with none.

        Args:
            geometry: The guest's blocks.
            units: The same in what is requested at once: pages, or target pages.
            faults: Who waits.
            emit: Takes events.
            vcpu_count: How many may wait.
        """
        self.latencies = Latencies(vcpu_count)
        self._geometry = geometry
        self._units = units
        self._faults = faults
        self._emit = emit
        self._is_heard = events.is_heard(emit)
        self._offset = ClockOffset()

    def take_word(self, message: RequestAnswer | SourceTime, now_ns: int) -> None:
        """Enter what the source says of its time, or of a request.

        Args:
            message: Its word.
            now_ns: The time here.

        Raises:
            RemoteProtocolError: Nobody agreed to it, or it makes no sense.
        """
        if not self._faults.is_told:
            raise RemoteProtocolError(f"{type(message).__name__} came though nobody agreed to it")
        if isinstance(message, SourceTime):
            self._offset.came(message.now_ns, now_ns)
        else:
            self._take_answer(message, now_ns)

    def tell(self, wait: Wait) -> None:
        """Count a wait of which all is known, and tell of it."""
        stages_ns = self.latencies.record(wait)
        if not self._is_heard:
            return
        lengths_us = [length_ns / 1000 for length_ns in stages_ns.values()]
        fields: dict[str, Any] = dict(zip(_STAGES_US, lengths_us, strict=True))
        trip = wait.trip
        if trip is not None and (said := trip.said_of_copy) is not None:
            fields["answer"] = said.answer
            if said.behind_count:
                fields["behind_count"] = said.behind_count
            # A source that many pages went by knows how many, and of none any more which.
            if said.behind:
                behind = (f"{page.block}:{page.index}" for page in said.behind)
                fields["behind"] = " ".join(behind)
        if trip is not None and trip.rounds:
            # What was asked for more than once went through its stages more than once.
            parts = (f"{stage} {length / 1000:.3f}" for stage, length in parts_of(wait) if length)
            fields["parts_us"] = ", ".join(parts)
        first = self._units.page_span(wait.page).target_pages.start
        self._emit(
            events.VcpuWake(
                vcpu=wait.vcpu, block=wait.page.block,
                page=self._geometry.page_of(wait.page.block, first).index,
                fault_ns=wait.fault_ns, latency_us=wait.latency_ns / 1000, **fields,
            )
        )  # fmt: skip

    def tell_rest(self) -> None:
        """Report the waits of which the source has not said all, and will not any more."""
        for wait in self._faults.take_untold():
            self.tell(wait)

    def _take_answer(self, message: RequestAnswer, now_ns: int) -> None:
        pages = [(message.block, message.page), *message.behind]
        if message.answer not in ANSWERS or not all(map(self._has_page, pages)):
            raise RemoteProtocolError("RequestAnswer: an answer, or a page, that there is not")
        per_page = self._geometry.blocks[message.block].target_pages_per_page
        if message.target_page >= per_page:
            raise RemoteProtocolError("RequestAnswer: its page has no such target page")
        target_page = message.page * per_page + message.target_page
        unit = self._units.page_of(message.block, target_page)
        self._offset.came(message.told_ns, now_ns)
        asked_ns = self._faults.asked_ns(unit)
        if asked_ns is not None and not message.interrupted:
            self._offset.went(asked_ns, message.came_ns, now_ns)
        said = Said(
            message.answer, self._offset.here(message.came_ns), message.queued_ns,
            message.postponed_ns, message.sending_ns,
            tuple(PageId(*page) for page in message.behind), message.behind_count,
            message.first_queued_ns,
        )  # fmt: skip
        for wait in self._faults.said(unit, said, interrupted=message.interrupted):
            self.tell(wait)

    def _has_page(self, page: tuple[int, int]) -> bool:
        blocks = self._geometry.blocks
        index, number = page
        if index >= len(blocks):
            return False
        return number < blocks[index].length_bytes // blocks[index].page_bytes
