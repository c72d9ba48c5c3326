"""Pages of the background that go in a row: told at once, or frame by frame, it comes to the same.

The engine is told what streams took of one frame after the other, or by `run_on` that they took as
many whole; then both are asked the same things, and must answer alike.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.channels import Channel
from protocol.events import ignore
from protocol.geometry import Span
from protocol.policy import PRESETS
from source.commands import Room
from source.jobs import Lane
from tests.guests import HUGE
from tests.source.stage import PLENTY, Stage

PRE = Channel.PRECOPY
# Of the small guest: four huge pages, and 32 base pages behind them.
PAGES = 4
# When the second is under way, so many are ahead.
AHEAD = 2
WHOLE_CHUNK = 2 * HUGE
# Of a frame that is under way, what its stream took.
TOOK = 5000


def lane_of(stage: Stage) -> Lane:
    """Return the lane of the background."""
    return stage.scheduler.lanes[-1]


def begun(policy: str, *, tracks: bool = True, heard: bool = False) -> Stage:
    """Return a stage whose background waits for room, with a part of its first frame gone."""
    stage = Stage(
        policy, tracks=tracks, keeps_behind=True, chunk_bytes=WHOLE_CHUNK,
        emit=None if heard else ignore, postcopy=True,
    )  # fmt: skip
    # Parts of pages go in runs that are short until it is known how fast they go.
    stage.scheduler.keep_runs(WHOLE_CHUNK)
    stage.pipes[PRE].room = TOOK
    for lane in stage.scheduler.lanes:
        stage.run(lane)
    # The first frame's head is shorter than those of all others.
    walk(stage, 1)
    return stage


def walk(stage: Stage, count: int) -> None:
    """Have a stream take so many frames whole, and of the next as much as of the first."""
    lane = lane_of(stage)
    for _ in range(count):
        write = stage.engine._frames.writes[lane]
        stage.give_room(PRE, write.frame.length - write.frame.sent + TOOK)
        stage.over(lane)


def leap(stage: Stage, count: int) -> None:
    """Say that of as many."""
    lane = lane_of(stage)
    (row,) = stage.engine.ahead(lane, count)
    assert row.length == count * HUGE
    write = stage.engine.run_on(lane, row)
    assert write.frame.sent == TOOK
    assert write.frame is stage.outlets[PRE].open_frame


def facts(stage: Stage) -> dict[str, Any]:
    """Return all that is known of how far an engine is."""
    overtaking = stage.engine.gate.overtaking
    return {
        "lies": overtaking and list(overtaking._sent),
        "remaining": list(stage.scheduler.remaining.bitmaps(1 << 20)),
        "unsent": stage.engine.remaining_bytes,
        "counts": stage.scheduler.counts,
        "outlets": [
            (each.bytes_sent, each.target_pages_sent, each.data_bytes_sent)
            for each in stage.outlets.values()
        ],
    }


@pytest.mark.parametrize("policy", sorted(PRESETS))
@given(data=st.data())
def test_telling_at_once_is_as_telling_of_each(policy: str, data: st.DataObject) -> None:
    """What is sent next, what is answered, and what is told of requests are the same."""
    stages = begun(policy), begun(policy)
    gone = 0
    for _ in range(data.draw(st.integers(1, 2))):
        count = data.draw(st.integers(0, AHEAD - gone))
        if count:
            walk(stages[0], count)
            leap(stages[1], count)
            gone += count
        assert facts(stages[0]) == facts(stages[1])
    page = data.draw(st.integers(0, PAGES - 1))
    answers = [stage.request(page, target_page=7) for stage in stages]
    assert answers[0] == answers[1]
    for stage in stages:
        for pipe in stage.pipes.values():
            pipe.room = PLENTY
        for _ in range(20):
            stage.now_ns += 1_000_000_000
            for lane in list(stage.waits):
                stage.over(lane)
    assert facts(stages[0]) == facts(stages[1])
    assert stages[0].engine.remaining_bytes == 0
    told = [stage.engine.last_answers(stage.now_ns) for stage in stages]
    assert told[0] == told[1]


def test_a_row_ends_where_pages_are_gone() -> None:
    """What was asked for and sent is in no row, and the scan goes on behind it."""
    stage = begun("ordered")
    assert stage.engine.ahead(Lane.ALL, 99) == [Span(0, 2 * HUGE, 2 * HUGE)]
    assert stage.engine.ahead(Lane.ALL, 1) == [Span(0, 2 * HUGE, HUGE)]
    # A page that lacks something is no more than a part of one.
    stage.scheduler.remaining.remove(Span(0, 3 * HUGE + 8192, 4096))
    assert stage.engine.ahead(Lane.ALL, 99) == [Span(0, 2 * HUGE, HUGE)]


@pytest.mark.parametrize("policy", sorted(PRESETS))
def test_rows_are_told_one_after_the_other(policy: str) -> None:
    """Where a page between them went already, it is passed over, as frame by frame."""
    stages = begun(policy), begun(policy)
    for stage in stages:
        stage.scheduler.remaining.remove(Span(0, 2 * HUGE, HUGE))
    assert stages[1].engine.ahead(lane_of(stages[1]), 9) == [Span(0, 3 * HUGE, HUGE)]
    walk(stages[0], 1)
    leap(stages[1], 1)
    assert facts(stages[0]) == facts(stages[1])
    # The scan begins anew where it may, and ends where it began.
    gone, behind = Span(0, 0, HUGE), Span(0, 2 * HUGE, HUGE)
    for stage in stages:
        stage.scheduler.remaining.add(gone)
        stage.scheduler.remaining.add(behind)
        stage.scheduler._background._cursor = 0, 0
    lane = lane_of(stages[1])
    rows = stages[1].engine.ahead(lane, 9)
    assert rows == [gone, behind]
    walk(stages[0], 2)
    for row in rows:
        stages[1].engine.run_on(lane, row)
    assert facts(stages[0]) == facts(stages[1])


def test_where_something_is_to_be_decided_there_is_no_row() -> None:
    """A request, a limit, somebody who hears of each page, and base pages: one frame at a time."""
    assert begun("ordered", heard=True).engine.ahead(Lane.ALL, 9) == []
    limited = begun("ordered")
    limited.engine.gate.pacer.set_rate(1000, limited.now_ns)
    assert limited.engine.ahead(Lane.ALL, 9) == []
    asked = begun("ordered")
    assert asked.engine.ahead(Lane.ALL, 9)
    asked.pipes[Channel.POSTCOPY].room = 100
    asked.request(2)
    assert asked.engine.ahead(Lane.ALL, 9) == []
    at_the_end = begun("ordered")
    walk(at_the_end, AHEAD)
    assert at_the_end.engine.ahead(Lane.ALL, 9) == []
    walk(at_the_end, 1)
    assert at_the_end.wait == Room(PRE)
    assert at_the_end.engine.ahead(Lane.ALL, 9) == []
