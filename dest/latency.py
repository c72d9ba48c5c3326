"""Why waits were long: the stages that each divides into, and the figures of all.  Pure.

`detect`: from the touch until the engine knows.  `request`: until the source has read the request.
`postponed`: the policy put it off.  `queue`: it waited for its turn, behind other pages.  `send`:
the page's bytes were being handed to the socket.  `receive`: from then until the last of them is
here.  `place` and `wake`: as they say.  `broken`: from a break until the page is asked for again.

The source tells how long a request was in each of its stages, and when it came by its own clock
(`dest.offset` says what that is here); what is left is on the way.  So no stage needs a clock that
both sides share, but for where `request` ends and `receive` begins.

None is negative and together they are the wait: what happened before the vCPU touched the page, or
was noted only after it ran again, takes none of its time.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hdrh.histogram import HdrHistogram

from dest.faults import Wait
from dest.trips import Said
from guest.latency import new_histogram, record_latencies, summarize
from protocol.report import LATENCY_BIN_COUNT, STAGES, StageSummary, Summary

# The vCPU runs again and may touch the next page, which is heard of when its last wait is recorded;
# into eight histograms one by one that takes as long as to ask for the page.
_GATHERED_WAITS = 1024

Part = tuple[str, int]

# From when a page is asked for until it is here.
_AT_SOURCE = ("request", "postponed", "queue", "send", "receive")


def stages_ns(wait: Wait) -> dict[str, int]:
    """Return how long a complete wait was in each stage, in nanoseconds."""
    lengths_ns = dict.fromkeys(STAGES, 0)
    for stage, length_ns in parts_of(wait):
        lengths_ns[stage] += length_ns
    return lengths_ns


def parts_of(wait: Wait) -> list[Part]:
    """Return the stages of a complete wait in the order of time; after a break they begin anew."""
    assert wait.last_byte_ns is not None
    assert wait.placed_ns is not None
    assert wait.wake_ns is not None
    wake_ns = max(wait.wake_ns, wait.fault_ns)
    # A vCPU may join a wait that goes on, and may run again before the engine has noted why it can:
    # no mark is outside the wait or before the one before it.
    detect_ns = min(max(wait.detect_ns, wait.fault_ns), wake_ns)
    last_byte_ns = min(max(wait.last_byte_ns, detect_ns), wake_ns)
    placed_ns = min(max(wait.placed_ns, last_byte_ns), wake_ns)
    parts = [("detect", detect_ns - wait.fault_ns)]
    begin_ns = detect_ns
    for each in wait.trip.rounds if wait.trip is not None else ():
        ended_ns = min(max(each.ended_ns, begin_ns), last_byte_ns)
        again_ns = last_byte_ns if each.again_ns is None else each.again_ns
        again_ns = min(max(again_ns, ended_ns), last_byte_ns)
        if each.said is None:
            # The request, or its answer, did not get through.
            parts.append(("request", ended_ns - begin_ns))
        else:
            parts += _said(begin_ns, ended_ns, each.said)
        parts.append(("broken", again_ns - ended_ns))
        begin_ns = again_ns
    parts += _last_round(wait, begin_ns, last_byte_ns)
    parts += [("place", placed_ns - last_byte_ns), ("wake", wake_ns - placed_ns)]
    return parts


def _last_round(wait: Wait, begin_ns: int, end_ns: int) -> list[Part]:
    """Return the stages from when a page was asked for until it was here."""
    trip = wait.trip
    if trip is None:
        return [("receive", end_ns - begin_ns)]
    if trip.said is None:
        return _in_frames(begin_ns, end_ns, trip.urgent_ns, trip.queue_us, trip.send_us)
    if trip.said.came_ns >= end_ns:
        # The page was here before the source could know that it was asked for.
        return [("receive", end_ns - begin_ns)]
    return _said(begin_ns, end_ns, trip.said)


def _said(begin_ns: int, end_ns: int, said: Said) -> list[Part]:
    """Divide a stretch of time as the source says."""
    came_ns = said.came_ns
    queued_ns = came_ns + said.postponed_ns
    sending_ns = queued_ns + said.queued_ns
    marks_ns = (came_ns, queued_ns, sending_ns, sending_ns + said.sending_ns)
    edges_ns = [begin_ns, *(min(max(mark, begin_ns), end_ns) for mark in marks_ns), end_ns]
    lengths_ns = [end - begin for begin, end in pairwise(edges_ns)]
    return list(zip(_AT_SOURCE, lengths_ns, strict=True))


def _in_frames(
    begin_ns: int, end_ns: int, urgent_ns: int | None, queue_us: int, send_us: int
) -> list[Part]:
    """Divide it by what the heads of urgent frames say; without one nothing is known but the end.

    Of a source that tells nothing else, an older one or a QEMU, `request` lasts until the first
    urgent bytes are back.
    """
    if urgent_ns is None:
        return [("receive", end_ns - begin_ns)]
    urgent_ns = min(max(urgent_ns, begin_ns), end_ns)
    queue_ns = min(queue_us * 1000, urgent_ns - begin_ns)
    send_ns = min(send_us * 1000, end_ns - urgent_ns)
    return [
        ("request", urgent_ns - begin_ns - queue_ns),
        ("queue", queue_ns),
        ("send", send_ns),
        ("receive", end_ns - urgent_ns - send_ns),
    ]


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
        """Take a complete wait; return its `stages_ns`."""
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
        """Have all waits in the histograms."""
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
