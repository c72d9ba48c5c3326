"""How much of a time a thread ran, or waited for a processor."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from guest import processor
from guest.processor import ProcessorUse, Reading, Share, read_thread


def use_of(*readings: Reading) -> ProcessorUse:
    """Return a use whose clocks read so, one after the other."""
    left = list(readings)
    return ProcessorUse(lambda: left.pop(0))


def test_shares_are_of_the_time_from_the_beginning_to_the_end() -> None:
    """What came before counts for nothing, and nothing that comes after `finish`."""
    use = use_of(Reading(100, 50, 10), Reading(1100, 350, 110), Reading(9000, 9000, 9000))
    use.finish()
    use.finish()
    assert use.share() == Share(0.3, 0.1)
    assert use_of(Reading(0, 0, 0), Reading(10, 4, 6)).share() == Share(0.4, 0.6)


def test_what_was_for_nothing_does_not_count() -> None:
    """Rounds of a loop that found nothing are no work, and who lets others run does not wait."""
    use = use_of(Reading(0, 0, 0), Reading(1000, 600, 300))
    use.finish()
    assert use.share(500, 200) == Share(0.1, 0.1)
    assert use.share(900, 900) == Share(0.0, 0.0)


def test_clocks_that_disagree_a_little_make_no_share_over_one() -> None:
    """The kernel counts run and wait at its own moments."""
    share = use_of(Reading(0, 0, 0), Reading(100, 90, 30)).share()
    assert share == pytest.approx((0.9, 0.1))
    assert use_of(Reading(5, 0, 0), Reading(5, 1, 1)).share() == Share()


def test_the_threads_own_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that works has run by so much; where the kernel tells nothing, libc's clock does."""
    before = read_thread()
    begun = time.thread_time_ns()
    while time.thread_time_ns() < begun + 20_000_000:
        pass
    after = read_thread()
    # The kernel's own figure is brought up to date once a tick, which is 10 ms at most.
    assert 5_000_000 < after.ran_ns - before.ran_ns <= after.at_ns - before.at_ns + 10_000_000
    monkeypatch.setattr(processor, "_SCHEDSTAT", tmp_path / "none")
    told = read_thread()
    assert told.ran_ns > 0
    assert told.waited_ns == 0
