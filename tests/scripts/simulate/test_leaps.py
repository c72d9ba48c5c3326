"""Stretches of the background in one step: the same run as frame by frame, and no more events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.policy import PRESETS
from scripts.simulate.kernel import ModelFrame
from scripts.simulate.leaps import Leaps
from scripts.simulate.run import NOBODY, Point, Report, Run
from tests.guests import HUGE
from tests.points import point

# A guest that hardly faults.
IDLE: dict[str, Any] = {"model": "native", "link": "25Gbit/s", "vcpus": "1", "access_rate": "0.001"}
WHOLE = ("vanilla", "own-channel", "drop", "ordered", "parallel", "resend", "split")


class Seen:
    """A run, and what is told of it that is no frame of the background: when, and what."""

    def __init__(self, which: Point, *, leaps: bool) -> None:
        """Run it."""
        run = Run(replace(which, leaps=leaps), lambda _: NOBODY)
        self.told: list[tuple[Any, ...]] = []
        agenda = run.agenda

        def noting(what: str, do: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*arguments: Any) -> Any:  # noqa: ANN401
                self.told.append((what, agenda.now_ns, agenda.used_ns, *map(str, arguments)))
                return do(*arguments)

            return noted

        presence = run.dest.presence
        presence.touch = noting("touch", presence.touch)  # type: ignore[method-assign]
        presence.on_wake = noting("wake", presence.on_wake)
        run.source.hear = noting("hear", run.source.hear)  # type: ignore[method-assign]
        run.run()
        self.report: Report = run.report()
        self.ended_ns = agenda.now_ns
        self.present = bytes(presence.present)
        self.events = agenda.count


def both(which: Point) -> tuple[Seen, Seen]:
    """Return a run with leaps and one without, of which everything else is the same."""
    with_leaps, without = Seen(which, leaps=True), Seen(which, leaps=False)
    assert with_leaps.told == without.told
    assert with_leaps.report == without.report
    assert with_leaps.ended_ns == without.ended_ns
    assert with_leaps.present == without.present
    return with_leaps, without


@contextmanager
def longer_heads_from(offset: int | None) -> Iterator[None]:
    """Have the heads of pages from a place on be longer, as those beyond 4 GiB are."""
    measure = ModelFrame._measure

    def measured(frame: ModelFrame) -> None:
        measure(frame)
        if offset is not None and frame.chunk is not None and frame.chunk.span.offset >= offset:
            frame.head_bytes += 4
            frame.length += 4

    with patch.object(ModelFrame, "_measure", measured):
        yield


# What a window is of: so many frames, or some bytes more, so that it matters how long heads are.
WINDOWS = st.builds(
    lambda frames, more: (f"receive-buffer-bytes={frames * HUGE + more}",),
    st.integers(1, 12), st.integers(0, 400),
)  # fmt: skip
POINTS = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(sorted(PRESETS)),
        "model": st.sampled_from(["native", "reference"]),
        "size": st.integers(1, 200).map(lambda count: f"{2 * count}MiB"),
        "link": st.tuples(
            st.sampled_from(["333Mbit/s", "1Gbit/s", "10Gbit/s", "25Gbit/s", "100Gbit/s"]),
            st.sampled_from(
                ["", ",rtt=1ms", ",rtt=10ms", ",queue=fifo", ",rtt=3ms,queue=fq_codel"]
            ),
        ).map("".join),
        "vcpus": st.integers(1, 5).map(str),
        "access_rate": st.sampled_from(["0", "0.5", "10", "200"]),
        "chunk_size": st.sampled_from(["8MiB", "2MiB", "512KiB"]),
        "seed": st.integers(0, 99).map(str),
        "changes": st.one_of(st.just(()), WINDOWS),
    }
)
PLACES = st.one_of(st.none(), st.integers(0, 200).map(lambda count: count * HUGE))


@settings(max_examples=40, deadline=None)
@given(POINTS, PLACES)
def test_a_run_is_the_same_with_and_without(values: dict[str, Any], longer_from: int) -> None:
    """Whatever is told of it comes at the same nanosecond, and the reports are equal."""
    with longer_heads_from(longer_from):
        both(point(**values))


@pytest.mark.parametrize("head_bytes", range(19, 25))
def test_it_is_the_same_where_a_few_bytes_fill_a_window(head_bytes: int) -> None:
    """Frames whose heads are longer fill one that as many others do not: so long none is passed.

    It is larger than what repeats itself, so that both kinds wait there while frames come again.
    """
    frames = 140
    window = f"receive-buffer-bytes={frames * (HUGE + head_bytes) + 2}"
    values = {**IDLE, "link": "100Gbit/s", "size": f"{18 * frames}MiB"}
    with longer_heads_from(4 * frames * HUGE):
        with_leaps, without = both(point(changes=(window,), **values))
    assert with_leaps.events < without.events


@pytest.mark.parametrize("policy", [*WHOLE, "critical-first"])
def test_events_do_not_grow_with_the_pages(policy: str) -> None:
    """Of a guest that does not fault four times the pages take hardly more events."""
    with_leaps, without = both(point(policy=policy, size="1GiB", **IDLE))
    larger = Seen(point(policy=policy, size="4GiB", **IDLE), leaps=True)
    assert without.events > 512 * 5
    # Each of the pages that it has more takes five where nothing is passed.
    assert larger.events < with_leaps.events + 512


@pytest.mark.parametrize(
    ("model", "link", "size"),
    [
        ("reference", "1Gbit/s", "1GiB"),
        ("reference", "25Gbit/s", "2GiB"),
        ("native", "10Gbit/s,queue=fifo", "1GiB"),
        ("native", "25Gbit/s,rtt=10ms", "2GiB"),
        # What nobody has read there fills the buffer first.
        ("native", "100Gbit/s", "8GiB"),
    ],
)
def test_whatever_the_limit_is_it_is_gone_over(model: str, link: str, size: str) -> None:
    """The link, the round trip, or either side's processor: frames repeat themselves."""
    with_leaps, without = both(point(**{**IDLE, "size": size, "model": model, "link": link}))
    assert with_leaps.events < without.events / 2


def test_cost_grows_with_the_faults_where_the_destination_is_the_limit() -> None:
    """A guest twice as large, with no more faults, takes no more events."""
    larger, smaller = (
        Seen(
            point(
                model="native", link="100Gbit/s", size=size, vcpus="64", access_rate=rate
            ), leaps=True,
        )
        for size, rate in (("32GiB", "1"), ("16GiB", "2"))
    )  # fmt: skip
    faults = [each.report["midstream"]["faults"]["count"] for each in (larger, smaller)]
    assert faults[0] == pytest.approx(faults[1], rel=0.1)
    assert larger.events < 1.2 * smaller.events
    # A page alone would take ten.
    assert larger.events < 5 * (32 << 30) // HUGE


def test_what_was_asked_for_before_does_not_stop_it() -> None:
    """Of a guest full of pages that are gone, whatever their number, the rest goes in few steps."""
    values = {**IDLE, "link": "10Gbit/s", "size": "2GiB", "vcpus": "4", "program": "sequential"}
    scattered = {**values, "program": "uniform", "vcpus": "64"}
    for which in (values, scattered):
        with_leaps, without = both(point(**which))
        assert with_leaps.events < without.events / 2


def test_heads_of_two_lengths_beside_each_other_do_not_stop_it() -> None:
    """What waits to be read may be of before 4 GiB and of behind; few steps will do."""
    with_leaps, without = both(point(**{**IDLE, "link": "100Gbit/s", "size": "6GiB"}))
    assert with_leaps.events < without.events / 2


def test_a_guest_of_two_blocks_and_frames_of_two_lengths() -> None:
    """A row ends with its block, and where the head of a frame grows by what it says."""
    which = point(size="a=64MiB@2MiB,b=8GiB@2MiB,c=1MiB@4KiB", **IDLE)
    with_leaps, without = both(which)
    assert with_leaps.events < without.events / 10


@pytest.mark.parametrize(
    "changes", [{"changes": ("noise-ns=1000",)}, {"link": "10Gbit/s,loss=0.1%"}]
)
def test_where_there_is_chance_nothing_repeats_itself(changes: dict[str, Any]) -> None:
    """What is drawn for each frame is drawn."""
    with_leaps, without = both(point(size="128MiB", **{**IDLE, **changes}))
    assert with_leaps.events == without.events


@pytest.mark.parametrize("part", ["_state", "_glance"])
def test_what_is_not_as_it_was_is_not_gone_over(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that is never the same again lets nothing be gone over, and the run is the same."""
    numbers = iter(range(1 << 30))
    monkeypatch.setattr(Leaps, part, lambda *_: (next(numbers),))
    with_leaps, without = both(point(size="256MiB", **IDLE))
    assert with_leaps.events == without.events


def test_a_state_that_is_not_looked_at_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were all taken for as it was when it is not, the runs would differ: the comparison can fail.

    Without the states all that is left to go by is how far one processor is.
    """
    monkeypatch.setattr(Leaps, "_state", lambda *_: ())
    monkeypatch.setattr(Leaps, "_glance", lambda *_: ())
    with pytest.raises(AssertionError):
        both(point(size="256MiB", vcpus="4", access_rate="20", link="10Gbit/s"))
