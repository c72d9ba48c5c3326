"""A migration phase by phase: what is said in which order, what goes, and what is refused."""

from __future__ import annotations

import pytest

from protocol import events
from protocol.channels import Channel
from protocol.errors import GaveUp, MigrationError, RemoteProtocolError
from protocol.geometry import PageId
from protocol.messages import (
    Discard,
    Message,
    PageData,
    PageRequest,
    PassAck,
    PassEnd,
    Ready,
    Running,
    Setup,
    SwitchOver,
)
from protocol.policy import PRESETS, preset
from source.convergence import SwitchRule
from tests.guests import KIB, small_geometry
from tests.source.playbook import (
    AFTER_ONE_PASS,
    ALL_CAPABILITIES,
    AT_ONCE,
    POST,
    PRE,
    PRECOPY_ONLY,
    SMALL,
    STATE,
    Instead,
    Play,
)

PAGES = SMALL.target_page_count


def test_precopy_alone() -> None:
    """A pass and its acknowledgement, the switch-over with nothing left, the end."""
    play = Play(rule=PRECOPY_ONLY)
    play.transfer()
    assert play.story == [
        "Setup", "hear",
        "start log", "drain", "PassEnd", "hear", "harvest",
        "SwitchOverAhead", "hear",
        "stop guest", "harvest", "drain", "SwitchOver",
        "drain", "hear", "End", "End over postcopy", "hear", "stop log",
    ]  # fmt: skip
    assert play.is_equal
    assert play.events.states == ["setup", "active", "device", "completed"]
    meter = play.phases.meter
    assert meter.pass_count == 1
    assert meter.bytes_at_stop is not None
    assert meter.bytes_at_stop > SMALL.length_bytes
    assert play.phases.guest_side == "dest"


def test_postcopy_at_once() -> None:
    """Without a pass every target page is discarded, and sent once after the switch-over."""
    play = Play(rule=AT_ONCE, capabilities=())
    play.transfer()
    assert play.story == [
        "Setup", "hear", "start log", "stop guest", "harvest", "Discard", "SwitchOver",
        "keep little", "drain", "hear", "End", "End over postcopy", "hear", "stop log",
    ]  # fmt: skip
    assert play.is_equal
    (discard,) = [message for _, message in play.dest.heard if isinstance(message, Discard)]
    assert (discard.first, discard.count) == (0, PAGES)
    assert play.dest.finished().target_pages == PAGES
    assert play.events.states == ["setup", "active", "device", "postcopy-active", "completed"]
    assert play.phases.meter.pass_count == 0


@pytest.mark.parametrize("policy", PRESETS)
@pytest.mark.parametrize("rule", [AT_ONCE, AFTER_ONE_PASS, PRECOPY_ONLY])
def test_every_policy_brings_all_of_it(policy: str, rule: SwitchRule) -> None:
    """Whatever both sides can do, each target page goes, and what is written comes again."""
    play = Play(small_geometry(), ALL_CAPABILITIES, policy=preset(policy), rule=rule)
    play.at["harvest"] = lambda: play.write(3, 1025)
    play.transfer()
    assert play.is_equal
    assert play.dest.heard_types(PRE)[-1] == "End"


def ask(*pages: PageRequest) -> Instead:
    """Return a destination whose vCPUs fault as soon as they run."""
    return lambda _: [*pages, Running()]


def test_requests_of_postcopy_are_served() -> None:
    """A page asked for comes urgently over the postcopy channel, though Running is not yet said."""
    play = Play(small_geometry(), postcopy_bandwidth=KIB)
    play.dest.instead[SwitchOver] = ask(PageRequest(block=0, page=3, target_page=5))
    play.transfer()
    assert play.is_equal
    urgent = [
        small_geometry().page_of(message.block, message.offset // 4096)
        for name, message in play.dest.heard
        if name is POST and isinstance(message, PageData) and message.urgent
    ]
    assert set(urgent) == {PageId(0, 3)}
    assert play.events.of(events.PageSent)[0]["page"] == 3


def test_a_request_says_which_target_page() -> None:
    """Under a critical policy what comes urgently is the target page that the request names."""
    play = Play(small_geometry(), policy=preset("critical-first"))
    play.dest.instead[SwitchOver] = ask(PageRequest(block=0, page=3, target_page=5))
    play.transfer()
    assert play.is_equal
    (urgent,) = [message for name, message in play.dest.heard if name is POST][:-1]
    assert isinstance(urgent, PageData)
    assert (urgent.block, urgent.offset) == (0, 3 * (2 << 20) + 5 * 4096)
    assert (urgent.payload_bytes, urgent.urgent) == (4096, True)


def test_what_is_written_meanwhile_comes_again() -> None:
    """After a pass only what was written since is discarded and sent once more."""
    play = Play(rule=AFTER_ONE_PASS)
    play.at["PassEnd"] = lambda: play.write(25)
    play.transfer()
    assert play.is_equal
    assert sum(isinstance(message, Discard) for _, message in play.dest.heard) == 1
    assert play.dest.finished().target_pages == PAGES + 1
    assert play.phases.meter.dirty_sync_count == 2


def test_what_is_written_last_goes_before_the_switch_over() -> None:
    """Precopy alone sends what the guest wrote until it stopped, and only then hands it over."""
    play = Play(rule=PRECOPY_ONLY)
    play.at["stop guest"] = lambda: play.write(31)
    play.transfer()
    assert play.is_equal
    assert play.dest.heard_types(PRE) == [
        "Setup", "PageData", "PassEnd", "SwitchOverAhead", "PageData", "SwitchOver", "End",
    ]  # fmt: skip
    assert play.dest.finished().target_pages == PAGES + 1


def test_who_wants_checksums_gets_no_migration_without_them() -> None:
    """A destination that knows none hears nothing."""
    play = Play(checksum=True)
    with pytest.raises(MigrationError, match="knows no checksums"):
        play.transfer()
    assert play.story == []


def test_one_channel_has_one_end() -> None:
    """A policy without a postcopy channel sends everything, and its End, over the other."""
    play = Play(policy=preset("vanilla"))
    play.transfer()
    assert play.is_equal
    assert play.story.count("End") == 1
    assert "End over postcopy" not in play.story


def test_a_silent_destination_is_taken_for_dead_where_both_sides_say_so() -> None:
    """Signs of life are given from Ready on, and only where they are in force."""
    for capabilities, count in (((), 0), (("keepalive",), 1)):
        play = Play(capabilities=capabilities)
        play.transfer()
        assert play.story.count("keep alive") == count


OUT_OF_STEP: list[tuple[type[Message], list[Message], SwitchRule, str]] = [
    (PassEnd, [PassAck(index=1)], PRECOPY_ONLY, "pass 1 was acknowledged, not pass 0"),
    (PassEnd, [Ready()], PRECOPY_ONLY, "Ready came where PassAck was due"),
    (
        Setup, [PageRequest(block=0, page=0, target_page=0)], PRECOPY_ONLY,
        "PageRequest came in state setup",
    ),
    (
        PassEnd, [PageRequest(block=0, page=0, target_page=0)], PRECOPY_ONLY,
        "PageRequest came in state active",
    ),
    (
        SwitchOver, [PageRequest(block=0, page=64, target_page=0)], AFTER_ONE_PASS,
        "page 64 of block 0 is outside the guest",
    ),
    (SwitchOver, [Ready()], AFTER_ONE_PASS, "Ready came where Running was due"),
    (SwitchOver, [Running()] * 17, AFTER_ONE_PASS, "Running came while nothing was awaited"),
]  # fmt: skip


@pytest.mark.parametrize(("at", "answers", "rule", "reason"), OUT_OF_STEP)
def test_a_destination_out_of_step_is_refused(
    at: type[Message], answers: list[Message], rule: SwitchRule, reason: str
) -> None:
    """An answer that no correct destination gives at that point ends the migration."""
    play = Play(rule=rule)
    play.dest.instead[at] = lambda _: answers
    with pytest.raises(RemoteProtocolError, match=reason):
        play.transfer()


def test_only_requests_come_over_the_postcopy_channel() -> None:
    """All else that the destination says goes over the other."""
    play = Play()
    play.at["SwitchOver"] = lambda: play.hear(Channel.POSTCOPY, Running())
    with pytest.raises(RemoteProtocolError, match="Running came while nothing was awaited"):
        play.transfer()


def test_the_precopy_limit_holds_until_the_guest_stops() -> None:
    """A pass keeps to its bandwidth; what is sent while the guest stands still does not."""
    play = Play(rule=PRECOPY_ONLY, bandwidth=8 * SMALL.length_bytes)
    began_ns, stopped_ns = play.now_ns, 0

    def stop() -> None:
        nonlocal stopped_ns
        stopped_ns = play.now_ns
        play.write(*range(PAGES))

    play.at["stop guest"] = stop
    play.transfer()
    assert play.is_equal
    # The first burst is free.
    assert (stopped_ns - began_ns) / 1e9 == pytest.approx(0.125, abs=0.03)
    assert play.now_ns == stopped_ns


def test_the_device_state_crosses_as_it_is() -> None:
    """What the guest was when it stopped is what is handed over."""
    play = Play()
    seen: list[bytes] = []
    play.dest.on_state = seen.append
    play.transfer()
    assert seen == [STATE]


def test_precopy_that_does_not_converge_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that stays dirty is not migrated for ever."""
    monkeypatch.setattr("source.convergence.PASS_COUNT_MAX", 3)
    play = Play(rule=SwitchRule(postcopy_after=None, downtime_ms_max=-1))
    with pytest.raises(GaveUp) as caught:
        play.transfer()
    assert str(caught.value).startswith("given up after")
    assert "in pass 4, with 0 B left to send; the guest runs on at the source" in str(caught.value)
    assert "stop guest" not in play.story
