"""When the destination is told of its requests, by playbooks of the engine that sends."""

from __future__ import annotations

from protocol.channels import Channel
from source.commands import Until
from source.telling import TELL_NS, TOLD_TOGETHER, UNTOLD_COUNT_MAX
from tests.source.stage import PLENTY, Stage, waiting

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY


def ask_for_small_pages(stage: Stage, count: int) -> None:
    """Have so many base pages requested, one after the other, and served."""
    for index in range(count):
        stage.request(index, block=1)


def test_requests_are_told_of_before_a_frame_of_the_background() -> None:
    """Several together, when nobody waits for bytes."""
    stage = waiting(tracks=True)
    ask_for_small_pages(stage, TOLD_TOGETHER - 1)
    stage.request(31, 30, block=1)
    assert stage.pipes[PRE].answers == stage.pipes[POST].answers == []
    stage.give_room(PRE, PLENTY)
    assert stage.over()[:2] == ["turn", f"tell postcopy {TOLD_TOGETHER + 1}"]
    assert [each.page for each in stage.pipes[POST].answers][-2:] == [31, 30]


def test_where_requests_never_run_out_they_are_told_of_now_and_then() -> None:
    """Once enough is untold, behind a page and before the next, though its bytes wait."""
    stage = waiting(tracks=True)
    stage.request(*range(UNTOLD_COUNT_MAX + 2), block=1)
    told = stage.story.index(f"tell postcopy {UNTOLD_COUNT_MAX}")
    urgent = [number for number, each in enumerate(stage.story) if each.startswith("urgent")]
    assert sum(number < told for number in urgent) == UNTOLD_COUNT_MAX
    assert sum(number > told for number in urgent) == 2


def test_nothing_is_told_before_urgent_bytes_that_could_go() -> None:
    """Those that wait for room are not held up by what goes over the other channel."""
    stage = waiting("critical-first", tracks=True)
    stage.request(0, block=1)
    stage.now_ns += TELL_NS
    assert stage.engine.tell_by_itself(stage.now_ns) == Until(stage.now_ns + TELL_NS)
    stage.now_ns += TELL_NS
    # Its frame lies open on the one channel, and the other has nothing to hold up.
    tell = stage.engine.tell_by_itself(stage.now_ns)
    assert not isinstance(tell, Until)
    assert tell is not None
    assert tell.channels == (POST,)
    stage.engine.told(went=False)
    # A page that waits for room on that channel leaves none.
    stage.pipes[POST].room = 0
    stage.request(2, target_page=3)
    stage.now_ns += TELL_NS
    assert stage.engine.tell_by_itself(stage.now_ns) == Until(stage.now_ns + TELL_NS)


def test_what_no_channel_takes_is_told_later() -> None:
    """It is kept, in order, and tried again with the next occasion, not for ever with this one."""
    stage = waiting(tracks=True)
    for pipe in stage.pipes.values():
        pipe.refuses_short = True
    ask_for_small_pages(stage, TOLD_TOGETHER)
    stage.give_room(PRE, PLENTY)
    story = stage.over()
    assert story[:3] == ["turn", f"tell nowhere {TOLD_TOGETHER}", story[2]]
    assert story[2].startswith("background")
    assert stage.engine.telling.untold_count == TOLD_TOGETHER
    assert [each.page for each in stage.engine.last_answers(1)] == list(range(TOLD_TOGETHER))


def test_after_the_last_word_nothing_is_told() -> None:
    """End comes next: a request that is late has no answer."""
    stage = Stage(tracks=True)
    stage.run()
    assert stage.engine.last_answers(stage.now_ns) == []
    stage.request(2)
    assert stage.engine.telling.untold_count == 0
    assert stage.engine.tell_by_itself(stage.now_ns) is None
