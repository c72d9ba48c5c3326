"""Imports what DAMON has seen, as text: regions of memory, and how often each was found accessed.

    damo record PID, damo report access --raw_form (or, with an older damo, damo report raw)
    perf record -e damon:damon_aggregated, perf script

Both are documented where they are made: damo's USAGE.md, and Documentation/admin-guide/mm/damon/
usage.rst of the kernel.  A target is a vCPU.

DAMON looks at one page of a region in each sampling interval, takes it for the whole region, and
tells in how many samples of an aggregation interval it was accessed.  So every piece of --step
bytes of a region is accessed so often, evenly over that interval: an estimate, in which the order
inside an interval means nothing.  A trace point tells only when an interval ended: it began when
the one before it did, and the first of a target is all at its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from guest.access_line import WrongLineError
from guest.trace import TIMED_ACCESS_COUNT_MAX
from scripts.traces.found import ADDRESS_MAX, CLOCK_NS_MAX, Found, Wishes, parse_clock, quoted

_TRACE_POINT = "damon_aggregated:"
_POINT = re.compile(
    r".*?(?P<time>[0-9]{1,12}\.[0-9]{6,9}):\s+(?:damon:)?" + _TRACE_POINT +
    r"\s+target_id=(?P<target>[0-9]{1,20}) nr_regions=(?P<regions>[0-9]{1,10}) "
    r"(?P<start>[0-9]{1,20})-(?P<end>[0-9]{1,20}): (?P<count>[0-9]{1,10})(?: [0-9]{1,10})?\s*"
)  # fmt: skip
_REGION = re.compile(
    r"(?P<start>[0-9a-f]{1,16})-(?P<end>[0-9a-f]{1,16})\s*\([^)]*\):?\s+(?P<count>-?[0-9]{1,10})"
    r"(?:\s+-?[0-9]{1,10})?\s*"
)
_FIELD = re.compile(r"(?P<name>[a-z_ ]+):\s*(?P<value>.*?)\s*")
_PASSED_OVER = frozenset({"data source", "monitoring_duration"})

_UNITS_NS = {
    "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9,
    "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9,
}  # fmt: skip


@dataclass
class _Snapshot:
    """An aggregation interval, as far as it is known while its regions come.

    Attributes:
        left: How many regions are still to come.
    """

    target: str = ""
    start_ns: int = 0
    end_ns: int = 0
    left: int = 0


def import_damon(lines: Iterator[str], wishes: Wishes) -> Iterator[Found]:
    """Yield the accesses that regions stand for.

    Raises:
        WrongLineError: A line is of neither form.
    """
    raw = _Raw()
    points: dict[str, _Snapshot] = {}
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        if _TRACE_POINT in line:
            yield from _take_point(line, points, wishes.step_bytes)
        else:
            yield from raw.take(line, wishes.step_bytes)


class _Raw:
    """Reads what `damo report access --raw_form` prints, a line at a time."""

    def __init__(self) -> None:
        self._base_ns = 0
        self._now = _Snapshot()

    def take(self, line: str, step_bytes: int) -> Iterator[Found]:
        region = _REGION.fullmatch(line)
        if region is not None:
            if not self._now.left:
                raise WrongLineError("a region, and nr_regions promises none")
            self._now.left -= 1
            start, end = int(region["start"], 16), int(region["end"], 16)
            yield from _spread(self._now, (start, end), int(region["count"]), step_bytes)
            return
        field = _FIELD.fullmatch(line)
        if field is None:
            raise WrongLineError(f"not a line of damo's raw form: {quoted(line)}")
        self._take_field(field["name"], field["value"])

    def _take_field(self, name: str, value: str) -> None:
        match name:
            case "base_time_absolute":
                self._base_ns, self._now = _duration_ns(value), _Snapshot()
            case "monitoring_start":
                self._now = _Snapshot(start_ns=self._base_ns + _duration_ns(value))
            case "monitoring_end":
                self._now.end_ns = self._base_ns + _duration_ns(value)
                if self._now.end_ns < self._now.start_ns:
                    raise WrongLineError("it ended before it started")
            case "target_id":
                self._now.target = value
            case "nr_regions":
                self._now.left = _count(value)
            case _ if name not in _PASSED_OVER:
                raise WrongLineError(f"not a field of damo's raw form: {quoted(name)}")


def _duration_ns(text: str) -> int:
    """Return nanoseconds of `8 m 59.809 s`, or of a number, which is nanoseconds already."""
    words = text.replace(",", "").split()
    if len(words) == 1:
        return parse_clock(words[0], 1)
    pairs = list(zip(words[::2], words[1::2], strict=False))
    if not pairs or len(words) % 2 or any(unit not in _UNITS_NS for _, unit in pairs):
        raise WrongLineError(f"{quoted(text)} is not a time")
    total = sum(parse_clock(number, _UNITS_NS[unit]) for number, unit in pairs)
    if total > CLOCK_NS_MAX:
        raise WrongLineError(f"{quoted(text)} is not a time")
    return total


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text):
        raise WrongLineError(f"{quoted(text)} is not a number of regions")
    return int(text)


def _take_point(line: str, points: dict[str, _Snapshot], step_bytes: int) -> Iterator[Found]:
    match = _POINT.fullmatch(line)
    if match is None:
        raise WrongLineError(f"not as the kernel writes damon_aggregated: {quoted(line)}")
    time_ns, target = parse_clock(match["time"]), match["target"]
    snapshot = points.get(target)
    if snapshot is None or not snapshot.left:
        start_ns = min(snapshot.end_ns, time_ns) if snapshot is not None else time_ns
        snapshot = points[target] = _Snapshot(target, start_ns, time_ns, int(match["regions"]))
    snapshot.left = max(snapshot.left - 1, 0)
    yield from _spread(
        snapshot, (int(match["start"]), int(match["end"])), int(match["count"]), step_bytes
    )


def _spread(
    snapshot: _Snapshot, region: tuple[int, int], count: int, step_bytes: int
) -> Iterator[Found]:
    """Yield a region's accesses: each piece of it so often, evenly over the interval."""
    start, end = region
    if not start < end <= ADDRESS_MAX + 1:
        raise WrongLineError(f"{start:#x}-{end:#x} is no region")
    # damo writes -1 for a snapshot that it made up.
    if count < 1:
        return
    first = (start // step_bytes + 1) * step_bytes
    inner = range(first, end, step_bytes)
    pieces = 1 + len(inner)
    total = pieces * count
    if total > TIMED_ACCESS_COUNT_MAX:
        raise WrongLineError(
            f"{total} accesses for one region; a larger --step makes fewer of {end - start} bytes"
        )
    length_ns = snapshot.end_ns - snapshot.start_ns
    for number in range(total):
        piece = number % pieces
        yield Found(
            address=inner[piece - 1] if piece else start,
            time_ns=snapshot.start_ns + length_ns * number // total,
            owner=f"target {snapshot.target}",
        )
