"""How a run ended is one word and one figure in all views."""

from typing import Any

import pytest

from scripts.views.causes import breaks_ns, lost_bytes, reason_of, status_of
from scripts.views.embed import embed
from scripts.views.outputs import history_of
from tests.stories import MS, ZERO_NS, Story, broken_once, half_sent


def states(*told: tuple[str, str]) -> list[dict[str, Any]]:
    """Return the story of these states of sides, a millisecond each."""
    story = Story()
    for ms, (side, state) in enumerate(told):
        story.tell(ms, side, "state", state=state)
    return story.events


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ([("source", "active"), ("dest", "active"), ("dest", "completed")], "completed"),
        # A source that is cancelled fails its destination, and one that fails cancels the other.
        ([("source", "cancelling"), ("dest", "failed"), ("source", "cancelled")], "cancelled"),
        ([("dest", "failed"), ("source", "cancelling"), ("source", "cancelled")], "failed"),
        ([("source", "completed"), ("dest", "failed")], "failed"),
        ([("source", "cancelled"), ("dest", "completed")], "cancelled"),
        # Killed, or cut off: the last word of the source, if there is one.
        ([("source", "active"), ("dest", "setup")], "active"),
        ([("dest", "postcopy-active"), ("dest", "postcopy-paused")], "postcopy-paused"),
        ([], "?"),
    ],
)
def test_a_run_has_one_status(told: list[tuple[str, str]], status: str) -> None:
    """Who ended badly first says why."""
    history = history_of(states(*told))
    assert status_of(history) == status
    assert embed(history, "a run")["status"] == status


def test_a_bad_end_has_a_reason() -> None:
    """The source's, where both sides ended alike; else that of the side that did so first."""
    story = Story()
    assert reason_of(history_of(story.events)) == ""
    story.tell(1, "dest", "state", state="cancelling", reason="the source ended it: enough")
    story.tell(2, "source", "state", state="cancelled", reason="enough")
    assert reason_of(history_of(story.events)) == "enough"
    assert embed(history_of(story.events), "a run")["reason"] == "enough"
    story = Story()
    story.tell(1, "dest", "state", state="failed", reason="no room")
    story.tell(2, "source", "state", state="cancelled", reason="called off")
    assert reason_of(history_of(story.events)) == "no room"


def test_the_downtime_is_the_reports() -> None:
    """As the source tells it; where it does not, what the two sides' events say; or nothing."""
    events = half_sent()
    told = {"t-ns": events[-1]["t-ns"], "side": "source", "event": "downtime", "ms": 2.1}
    assert embed(history_of([*events, told]), "a run")["downtime_us"] == 2100
    assert embed(history_of(events), "a run")["downtime_us"] == 2000
    events = [event for event in events if event["event"] != "guest-run"]
    assert embed(history_of(events), "a run")["downtime_us"] is None


def test_the_guests_own_clock_is_told_where_it_has_one() -> None:
    """What it saw of its move stands beside the host's downtime, and is left out without it."""
    events = half_sent()
    assert embed(history_of(events), "a run")["guest_blackout_us"] is None
    told = {
        "t-ns": events[-1]["t-ns"], "side": "dest", "event": "guest-clock",
        "blackout-us": 2100.5, "stall-us": 900.0,
    }  # fmt: skip
    run = embed(history_of([*events, told]), "a run")
    assert (run["guest_blackout_us"], run["guest_stall_us"]) == (2100.5, 900.0)


def test_lost_memory_is_told() -> None:
    """As much as the destination says."""
    story = Story()
    assert lost_bytes(history_of(story.events)) == 0
    story.tell(5, "dest", "memory-lost", target_pages=3, bytes=12288)
    assert lost_bytes(history_of(story.events)) == 12288
    assert embed(history_of(story.events), "a run")["lost_bytes"] == 12288


def test_what_only_the_source_tells_is_not_counted_without_it() -> None:
    """A QEMU tells of no preemptions; that is not the same as none."""
    plain = embed(history_of(half_sent()), "a run")
    assert (plain["preempted"], plain["boosted"]) == (1, 1)
    alone = [event for event in half_sent() if event["side"] == "dest"]
    # The process that drives a QEMU tells of states alone.
    alone.append({"t-ns": alone[-1]["t-ns"], "side": "source", "event": "state", "state": "active"})
    plain = embed(history_of(alone), "a run")
    assert (plain["preempted"], plain["boosted"]) == (None, None)
    assert plain["since"] == "the first event"


def test_a_break_lasts_until_the_run_goes_on() -> None:
    """From the first connection that the source lost; the last break may have no end."""
    at_ns = [ZERO_NS + ms * MS for ms in (51, 102, 300)]
    assert breaks_ns(history_of(half_sent())) == []
    assert breaks_ns(history_of(broken_once())) == [(at_ns[0], at_ns[1])]
    story = Story()
    story.events = broken_once()
    for ms, channel in ((300, "postcopy"), (301, "precopy")):
        story.tell(ms, "source", "channel-lost", channel=channel, reason="again")
    assert breaks_ns(history_of(story.events)) == [(at_ns[0], at_ns[1]), (at_ns[2], None)]
    alone = [event for event in broken_once() if event["side"] == "dest"]
    assert breaks_ns(history_of(alone)) == [(ZERO_NS + 50 * MS, None)]
