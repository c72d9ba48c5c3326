"""Who comes back after a break: only the destination that was left, and what it lacks is sent."""

from __future__ import annotations

import pytest

from protocol import events
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.limits import RECOVER_SECONDS_MAX
from protocol.messages import Message, PageRequest, Ready, Running, Standing, SwitchOver
from protocol.missing import HeldParts, held_parts, missing_maps
from protocol.pageset import PageSet
from protocol.policy import preset
from source.resumption import Lacking, Resumption, lost_bytes
from source.scheduler import Scheduler
from source.steps import LATE, Do, Now, Received, Within
from tests.source.playbook import SMALL, Play

GEOMETRY = Geometry((RamBlock("ram", 16 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),))


def pages(first: int, stop: int) -> PageSet:
    """Return a set of target pages."""
    found = PageSet(GEOMETRY)
    if first < stop:
        found.add(Span(0, first * TARGET_PAGE_BYTES, (stop - first) * TARGET_PAGE_BYTES))
    return found


def left(scheduler: Scheduler, unsent: PageSet) -> Resumption:
    """Return what is known after a break that left all but four target pages to miss."""
    resumption = Resumption(GEOMETRY, preset("ordered"), scheduler)
    resumption.hand_over(pages(4, 16))
    scheduler.add(unsent, postcopy=True)
    return resumption


def new_scheduler() -> Scheduler:
    """Return a scheduler with nothing to send."""
    return Scheduler(GEOMETRY, preset("ordered"), TARGET_PAGE_BYTES)


def standing_of(missing: PageSet, *, running: bool = True) -> tuple[Standing, Lacking]:
    """Return what a destination says that lacks some pages, and none in part."""
    standing = Standing(running=running, target_pages=len(missing), dropped_bytes=0)
    return standing, Lacking(missing, {})


@pytest.mark.parametrize("seen", ["running", "running early", "asking", "nothing"])
def test_who_says_that_no_guest_runs_there(seen: str) -> None:
    """A destination that was seen to run the guest is not one that does not.

    Where nothing was seen the guest is handed over anew, if need be to a stranger; the one that was
    left is known again all the same, though it holds what went before that.
    """
    play = Play()
    said: dict[str, list[Message]] = {
        "running": [Running()], "running early": [Running()],
        "asking": [PageRequest(block=0, page=3, target_page=0)], "nothing": [],
    }  # fmt: skip
    play.dest.instead[SwitchOver] = lambda _: said[seen]
    play.at["End"] = cut
    if seen == "running early":
        # It was heard, and its turn has not come.
        play.events.on(events.PageSent, cut)
    with pytest.raises(ConnectionLost) as caught:
        play.transfer()
    play.end_epoch(caught.value)
    resumption = play.phases.resumption
    nothing = standing_of(PageSet(SMALL), running=False)
    if seen != "nothing":
        with pytest.raises(RemoteProtocolError, match="ran the guest and says that it does no"):
            resumption.check(*nothing)
        return
    resumption.check(*nothing)
    play.dest.running = False
    play.at.clear()
    play.at["Discard"] = cut
    with pytest.raises(ConnectionLost):
        play.resume()
    missing = PageSet(SMALL)
    missing.fill()
    missing.remove(SMALL.span_of(0, range(5)))
    resumption.check(*standing_of(missing))


def cut() -> None:
    """Lose the connection."""
    raise ConnectionLost("cut")


def heard(*said: tuple[Message, bytes]) -> tuple[Standing, Lacking]:
    """Have a destination say something after a break, and then nothing."""
    now = Now(0)
    steps = Resumption(SMALL, preset("ordered"), new_scheduler()).hear_standing(now)
    answers = iter(said)
    step = next(steps)
    try:
        while True:
            assert step == Within(Do.HEAR, RECOVER_SECONDS_MAX - now.seconds)
            now.ns += 10**9
            answer = next(answers, None)
            step = steps.send(LATE if answer is None else Received(*answer, now.ns))
    except StopIteration as end:
        found: tuple[Standing, Lacking] = end.value
        return found


def test_what_the_destination_says() -> None:
    """The maps, the parts and the Standing become what it lacks and a word."""
    missing = PageSet(SMALL)
    missing.add(SMALL.span_of(0, range(1, 3)))
    missing.add(SMALL.span_of(0, range(5, 6)))
    held = {(0, 1): 7, (0, 5): 4095}
    standing = Standing(running=True, target_pages=len(missing), dropped_bytes=3)
    parts: list[tuple[Message, bytes]] = [(part, b"") for part in held_parts(held)]
    said, found = heard(*missing_maps(missing), *parts, (standing, b""))
    assert said == standing
    assert len(found.missing) == len(missing)
    assert not found.missing.count_beyond(missing)
    assert found.held == held


def test_something_else_is_refused() -> None:
    """Nothing but maps and parts may come before the Standing."""
    with pytest.raises(RemoteProtocolError, match="Ready came where Standing was due"):
        heard((Ready(), b""))


def test_a_destination_that_says_nothing() -> None:
    """Who connects and says nothing is given up after a while, in all."""
    with pytest.raises(ConnectionLost, match="did not say in 30 s what it has"):
        heard(*missing_maps(PageSet(SMALL)))


def test_what_it_lacks_is_what_goes_then() -> None:
    """What is missing there is to be sent, and what of it had gone is counted as lost."""
    scheduler = new_scheduler()
    resumption = left(scheduler, pages(10, 16))
    standing, _ = standing_of(pages(7, 16))
    lacking = Lacking(pages(7, 16), {(0, 8): 96})
    resumption.check(standing, lacking)
    assert scheduler.counts.lost_bytes == 0
    resumption.take(standing, lacking)
    assert resumption.runs_there
    assert scheduler.counts.lost_bytes == 3 * TARGET_PAGE_BYTES - 96
    assert resumption.rest_bytes == TARGET_PAGE_BYTES - 96
    assert scheduler.remaining_bytes == 8 * TARGET_PAGE_BYTES


def test_dropped_bytes_are_counted_once() -> None:
    """A destination says what it dropped since its beginning, and never less than before."""
    scheduler = new_scheduler()
    resumption = left(scheduler, pages(4, 16))
    lacking = Lacking(pages(4, 16), {})
    for dropped_bytes in (100, 100, 250):
        standing = Standing(running=True, target_pages=12, dropped_bytes=dropped_bytes)
        resumption.check(standing, lacking)
        resumption.take(standing, lacking)
        assert scheduler.counts.resent_bytes == dropped_bytes
    standing = Standing(running=True, target_pages=12, dropped_bytes=249)
    with pytest.raises(RemoteProtocolError, match="takes back what it dropped"):
        resumption.check(standing, lacking)


def test_a_hand_over_anew_may_find_more_there() -> None:
    """Only where the guest was handed over again can more be there than is known to have gone."""
    more = standing_of(pages(12, 16))
    resumption = left(new_scheduler(), pages(10, 16))
    with pytest.raises(RemoteProtocolError, match="said to be there that never went"):
        resumption.check(*more)
    scheduler = new_scheduler()
    resumption = left(scheduler, pages(10, 16))
    resumption.hand_over_again()
    assert scheduler.remaining_bytes == 0
    scheduler.add(pages(4, 16), postcopy=True)
    resumption.check(*more)
    resumption.take(*more)
    assert scheduler.remaining_bytes == 4 * TARGET_PAGE_BYTES


def whole(first: int, stop: int) -> Lacking:
    """Return what a destination lacks that holds no target page in part."""
    return Lacking(pages(first, stop), {})


@pytest.mark.parametrize(
    ("unsent", "missing", "lost"),
    [
        (pages(8, 16), pages(8, 16), 0),
        (pages(8, 16), pages(5, 16), 3),
        (pages(16, 16), pages(16, 16), 0),
        (pages(16, 16), pages(2, 16), 14),
    ],
)
def test_what_went_and_did_not_arrive(unsent: PageSet, missing: PageSet, lost: int) -> None:
    """Lost is what is missing there though it is not waiting here."""
    actual = lost_bytes(pages(2, 16), unsent, {}, Lacking(missing, {}), goes_twice=False)
    assert lost * TARGET_PAGE_BYTES == actual


def test_another_guest_misses_more() -> None:
    """A destination that misses what it had at the switch-over is not the one that was left."""
    with pytest.raises(RemoteProtocolError, match="2 target pages are said to be missing that"):
        lost_bytes(pages(2, 16), pages(8, 16), {}, whole(0, 16), goes_twice=False)


def test_another_guest_holds_more() -> None:
    """A destination that holds what never went is not the one that was left, but for a policy."""
    with pytest.raises(RemoteProtocolError, match="4 target pages are said to be there that never"):
        lost_bytes(pages(0, 16), pages(8, 16), {}, whole(12, 16), goes_twice=False)
    assert not lost_bytes(pages(0, 16), pages(8, 16), {}, whole(12, 16), goes_twice=True)
    in_part = Lacking(pages(12, 16), {(0, 13): 96})
    assert lost_bytes(pages(0, 16), pages(8, 16), {}, in_part, goes_twice=True) == 0


def test_of_what_is_there_in_part_only_the_rest_is_lost() -> None:
    """Bytes that are there are not lost, nor is a rest of which none was sent since."""
    held = {(0, 5): 1000, (0, 6): 96}
    lacking = Lacking(pages(5, 16), held)
    assert lacking.untouched().count_beyond(pages(7, 16)) == 0
    assert len(lacking.untouched()) == 9
    lost = lost_bytes(pages(2, 16), pages(8, 16), {}, lacking, goes_twice=False)
    assert lost == 3 * TARGET_PAGE_BYTES - 1096
    lost = lost_bytes(pages(2, 16), pages(8, 16), {(0, 5): 1000}, lacking, goes_twice=False)
    assert lost == 2 * TARGET_PAGE_BYTES - 96


@pytest.mark.parametrize(
    ("rests", "held", "complaint"),
    [
        ({(0, 5): 1000}, {}, "other parts of target pages are said to be there than were"),
        ({(0, 5): 1000}, {(0, 5): 1001}, "other parts of target pages"),
        ({}, {(0, 9): 1}, "parts of target pages are said to be there that never went"),
    ],
)
def test_another_guest_holds_other_parts(rests: HeldParts, held: HeldParts, complaint: str) -> None:
    """A destination that holds parts which it cannot hold is not the one that was left."""
    lacking = Lacking(pages(5, 16), held)
    with pytest.raises(RemoteProtocolError, match=complaint):
        lost_bytes(pages(2, 16), pages(8, 16), rests, lacking, goes_twice=False)
