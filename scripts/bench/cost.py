"""The cost of a migration on both machines: processor time and memory of its own.

Processor time is that between the first page and the destination's word that all have come, when
the plain pair does its work, too.  Starting, populating memory and proving that it is right are
outside of it; they are in the figure "in all".

Both sides are watched from outside: a process's processor clock can be read by others
(clock_getcpuclockid(3)), to the nanosecond.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Self

import numpy as np

from scripts.bench.figure import Figure, Limit, Plan, Target
from scripts.figures.memory_use import anonymous_bytes, command_of, descendants
from scripts.figures.raw_pair import measure
from scripts.figures.runs import Record, migrate_with_events
from scripts.options import DEST, SOURCE

# A pass over a GiB takes some hundred of these; looking takes a fiftieth of one.
_SAMPLE_SECONDS = 0.005
# Sides are looked for until both are found, and that is slower.
_SEARCH_SECONDS = 0.05

# The clock of all threads of a process, by scheduled time (include/linux/posix-timers.h).
_CPUCLOCK_SCHED = 2


def process_clock(pid: int) -> int:
    """Return the id of a process's processor clock."""
    return (~pid << 3) | _CPUCLOCK_SCHED


class Sampler:
    """Samples the sides that this process's children start, while its block runs."""

    def __init__(self) -> None:
        """Prepare; the block begins to look."""
        self._times_ns: dict[str, list[int]] = {SOURCE: [], DEST: []}
        self._cpu_seconds: dict[str, list[float]] = {SOURCE: [], DEST: []}
        self._peak_bytes = {SOURCE: 0, DEST: 0}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def cpu_seconds(self, side: str, begin_ns: int, end_ns: int) -> float:
        """Return what a side used between two moments of the monotonic clock.

        Raises:
            ValueError: It was not seen at both.
        """
        times_ns = self._times_ns[side]
        if not times_ns or not times_ns[0] <= begin_ns <= end_ns <= times_ns[-1]:
            raise ValueError(f"the {side} was not watched all that time")
        used = np.interp([begin_ns, end_ns], times_ns, self._cpu_seconds[side])
        return float(used[1] - used[0])

    def peak_bytes(self, side: str) -> int:
        """Return the most memory of its own that was seen of a side."""
        return self._peak_bytes[side]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        pids: dict[str, int] = {}
        while len(pids) < len(self._peak_bytes) and not self._stopped.wait(_SEARCH_SECONDS):
            commands = {command_of(pid): pid for pid in descendants(os.getpid())}
            pids = {
                side: commands[f"scripts {side}"]
                for side in self._peak_bytes
                if f"scripts {side}" in commands
            }
        while not self._stopped.wait(_SAMPLE_SECONDS):
            for side, pid in pids.items():
                self._sample(side, pid)

    def _sample(self, side: str, pid: int) -> None:
        try:
            cpu_seconds = time.clock_gettime(process_clock(pid))
        except OSError:
            return  # It has ended.
        self._times_ns[side].append(time.monotonic_ns())
        self._cpu_seconds[side].append(cpu_seconds)
        self._peak_bytes[side] = max(self._peak_bytes[side], anonymous_bytes(pid))


SECTION = "cost"

_GUEST = {"program": "scripted", "vcpus": "1", "postcopy-after": "never"}
_CPU_RATIO = 1.5
_SIDES = (SOURCE, DEST)


def measure_cost(plan: Plan) -> list[Figure]:
    """Measure the plain pair and a migration by precopy for each page size, in turn.

    Raises:
        MigrationError: A run failed.
    """
    gib = plan.length_bytes / (1 << 30)
    plain: list[float] = []
    rows: dict[str, list[tuple[float, float, Sampler]]] = {size: [] for size in plan.page_sizes}
    for number in range(1, plan.runs + 1):
        plan.say(f"{SECTION}: run {number} of {plan.runs}")
        plain.append(measure(plan.length_bytes, "auto", plan.link).cpu_seconds / gib)
        for page_size, runs in rows.items():
            with Sampler() as sampler:
                report, events = migrate_with_events({**_GUEST, **plan.shape(page_size)})
            cpu = report["midstream"]["cpu-seconds"]
            runs.append((_while_sending(sampler, events) / gib, sum(cpu.values()) / gib, sampler))
    limit = Limit("the plain pair", tuple(plain))
    return [figure for size, runs in rows.items() for figure in _figures(size, runs, limit)]


def _while_sending(sampler: Sampler, events: list[Record]) -> float:
    """Return the processor seconds of both sides while pages were under way."""
    begin_ns = next(
        event["t-ns"]
        for event in events
        if (event["side"], event.get("state")) == (SOURCE, "active")
    )
    end_ns = next(event["t-ns"] for event in events if event["event"] == "pass-end")
    return sum(sampler.cpu_seconds(side, begin_ns, end_ns) for side in _SIDES)


def _figures(
    page_size: str, runs: list[tuple[float, float, Sampler]], limit: Limit
) -> list[Figure]:
    sending, in_all, samplers = zip(*runs, strict=True)
    figures = [
        Figure(
            SECTION, f"CPU per GiB while sending, {page_size} pages, both sides", "s", sending,
            limit, Target(_CPU_RATIO),
        ),
        Figure(SECTION, f"CPU per GiB in all, {page_size} pages, both sides", "s", in_all),
    ]  # fmt: skip
    for side in _SIDES:
        peaks = tuple(sampler.peak_bytes(side) / (1 << 20) for sampler in samplers)
        name = f"memory of its own, {page_size} pages, {side}"
        figures.append(Figure(SECTION, name, "MiB", peaks))
    return figures
