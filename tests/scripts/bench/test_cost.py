"""What a migration takes of both machines, and how both sides are watched."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from scripts.bench.cost import Sampler, measure_cost, process_clock
from scripts.bench.figure import Plan
from scripts.options import DEST, SOURCE


def test_a_real_run_is_watched(plan: Plan) -> None:
    """Processor time while pages are sent is part of that in all; both sides' memory is seen."""
    sending, in_all, source, dest = measure_cost(replace(plan, page_sizes=("4KiB",)))

    assert 0 < sending.values[0] < in_all.values[0]
    assert sending.ratios[0] > 0
    assert source.values[0] > 1
    assert dest.values[0] > 1


def test_a_process_clock_is_that_of_the_process() -> None:
    """Of this process it goes as its own does."""
    before = time.process_time()
    seen = time.clock_gettime(process_clock(os.getpid()))
    after = time.process_time()

    assert before <= seen <= after


def test_time_between_samples_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two moments counts what was used between them, also between two looks."""
    sampler = Sampler()
    looks = iter([(100, 1.0), (200, 2.0), (300, 6.0)])
    for at_ns, seconds in looks:
        monkeypatch.setattr(time, "monotonic_ns", lambda at_ns=at_ns: at_ns)
        monkeypatch.setattr(time, "clock_gettime", lambda _, seconds=seconds: seconds)
        sampler._sample(SOURCE, os.getpid())
    monkeypatch.undo()

    assert sampler.cpu_seconds(SOURCE, 150, 250) == 2.5
    assert sampler.peak_bytes(SOURCE) > 0
    with pytest.raises(ValueError, match="not watched"):
        sampler.cpu_seconds(SOURCE, 150, 350)
    with pytest.raises(ValueError, match="dest was not watched"):
        sampler.cpu_seconds(DEST, 150, 250)


def test_nobody_to_watch_is_no_error() -> None:
    """A block that starts no migration ends, having seen nothing."""
    with Sampler() as sampler:
        pass

    assert sampler.peak_bytes(DEST) == 0
