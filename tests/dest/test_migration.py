"""The destination's steps, against a source that is played by hand and may lie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgpack
import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dest.admission import Session
from dest.channel import InChannel
from dest.config import DestConfig
from dest.hosted import Room
from dest.keeping import Keeper
from dest.midstream import MidstreamPeer
from dest.migration import Migration
from dest.peer import Plan
from dest.script import Step
from guest.digest import digest
from guest.interface import GuestEvent, Mismatch
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.slices import finish
from guest.states import VcpuState, decode_states
from guest.streams.tcp import TcpStream
from protocol import events
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MidstreamError,
    PeerAborted,
    RemoteProtocolError,
    root_cause,
)
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.messages import (
    Abort,
    Account,
    Bye,
    Discard,
    End,
    Finished,
    PageData,
    PageRequest,
    PassAck,
    PassEnd,
    Ready,
    Running,
    SwitchOver,
    Verdict,
)
from protocol.policy import preset
from protocol.states import Event, Lifecycle
from tests.bounds import BOUND_SECONDS
from tests.guests import (
    HUGE,
    KIB,
    FakeGuest,
    bytes_of,
    fake_guest,
    patterned_memory,
    small_geometry,
)
from tests.sides import SESSION, HandSource
from tests.sockets import Peer, tcp_pair
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
PER_PAGE = HUGE // TARGET_PAGE_BYTES


class Rig:
    """A destination's migration in its surroundings, and the source that speaks to it."""

    def __init__(
        self, source: HandSource, memory: GuestMemory, guest: FakeGuest, steps: tuple[Step, ...]
    ) -> None:
        """Put what does not need connections together."""
        self.source = source
        self.memory = memory
        self.guest = guest
        self.events = Recorder()
        self.lifecycle = Lifecycle(self.events)
        self.lifecycle.fire(Event.CONNECTED)
        self.session = Session(SESSION)
        self.plan = Plan(memory.geometry, preset(source.policy), source.chunk_bytes, source.spec)
        self.steps = steps
        self.migration: Migration
        self.cause: BaseException | None = None

    def connect(
        self, name: Channel, sockets: tuple[trio.socket.SocketType, trio.socket.SocketType]
    ) -> None:
        """Have a connection that has said hello."""
        channel = self.session.channels[name] = InChannel(TcpStream(sockets[0]))
        channel.name = name
        self.source.peers[name] = Peer(sockets[1])

    async def run(self) -> None:
        """Receive and close; keep why that fails, and end the connections as a session does."""
        try:
            peer = MidstreamPeer(DestConfig(host="", port=0))
            peer.begin(self.session, self.plan)
            room = Room(self.memory, self.guest.handle, Keeper(self.memory, None), "")
            self.migration = Migration(
                peer, self.plan, room, self.lifecycle, self.events, self.steps, wait_seconds=0.0
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.migration.watch)
                await self.migration.run()
                nursery.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - kept for the test
            self.cause = root_cause(error)
        for channel in self.session.channels.values():
            channel.close()


@asynccontextmanager
async def make_rig(
    policy: str = "ordered",
    steps: tuple[Step, ...] = (),
    vcpu_count: int = 4,
    seconds: float = BOUND_SECONDS,
    *,
    both: bool = False,
) -> AsyncIterator[Rig]:
    """Run a migration that a test is the source of; the block is bounded."""
    geometry = small_geometry()
    with (
        patterned_memory(geometry) as theirs,
        GuestMemory.create(geometry, "base") as memory,
        fake_guest(geometry, ProgramSpec(vcpu_count=vcpu_count)) as guest,
        tcp_pair(seconds=seconds) as first,
        tcp_pair(seconds=seconds) as second,
    ):
        source = HandSource(theirs, policy)
        source.spec = guest.spec
        rig = Rig(source, memory, guest, steps)
        rig.connect(PRE, first)
        if both or policy != "vanilla":
            rig.connect(POST, second)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.run)
            await source.main.expect(Ready)
            yield rig


async def test_postcopy_to_its_end() -> None:
    """The guest is loaded and runs before its memory is there; at the end both sides agree."""
    async with make_rig() as rig:
        source = rig.source
        await source.start_postcopy()
        await source.main.expect(Running)
        assert rig.guest.calls == ["load", "run"]
        assert rig.guest.states == tuple(VcpuState(vcpu, 0) for vcpu in range(4))
        assert not rig.guest.board.present.any()
        rig.guest.fault(1, 3 * PER_PAGE + 9)
        assert await source.main.expect(PageRequest) == PageRequest(block=0, page=3, target_page=9)
        await source.send_page(POST, PageId(0, 3), urgent=True)
        await source.send_rest(PageId(0, 3))
        await source.end(postcopy_pages=1)
        total = source.geometry.target_page_count
        assert await source.main.expect(Finished) == Finished(
            pages=36, target_pages=total, data_bytes=total * TARGET_PAGE_BYTES
        )
        message, payload = await source.main.receive()
        assert isinstance(message, Account)
        assert payload
        await source.say_verdict()
        assert bytes_of(rig.memory) == bytes_of(source.memory)
        source.close()
    assert rig.cause is None
    assert rig.events.states == ["setup", "active", "device", "postcopy-active", "completed"]
    assert rig.guest.calls == ["load", "run", "pause"]
    # Only there can what it did be done over again.
    assert not rig.guest.stopped_anywhere
    assert rig.guest.woken == [1]


async def test_the_guest_is_heard_until_it_stands() -> None:
    """However much vCPUs have to say at the end, all of it counts, and none waits to be heard."""
    async with make_rig() as rig:
        source = rig.source
        await source.send_rest()
        await source.switch_over(postcopy=False)
        await source.main.expect(Running)
        rig.guest.last_words = [Mismatch(0, 1, step, expected=2, seen=3) for step in range(300)]
        await source.end()
        await source.hear_account()
        await source.say_verdict()
        source.close()
    assert rig.cause is None
    assert len(rig.events.of(events.Mismatch)) == 300


async def test_precopy_alone() -> None:
    """Passes are acknowledged, the switch-over finds all pages there, and no page is asked for."""
    async with make_rig() as rig:
        source = rig.source
        await source.send_rest()
        await source.main.send(PassEnd(index=0))
        assert await source.main.expect(PassAck) == PassAck(index=0)
        await source.switch_over(postcopy=False)
        await source.main.expect(Running)
        assert rig.guest.board.present.all()
        await source.end()
        account = await source.hear_account()
        assert list(account.digests) == finish(digest(source.memory))
        assert decode_states(account.states, 4) == rig.guest.states
        assert account.part.placement == "simulated"
        await source.say_verdict()
        source.close()
    assert rig.cause is None
    assert rig.events.states == ["setup", "active", "device", "completed"]


async def test_one_stream_needs_no_second_end() -> None:
    """With one channel everything comes over it, requested pages too."""
    async with make_rig("vanilla") as rig:
        source = rig.source
        await source.start_postcopy()
        await source.main.expect(Running)
        rig.guest.fault(0, 0)
        await source.main.skip_to(PageRequest)
        await source.send_rest()
        await source.end()
        await source.hear_account()
        await source.say_verdict()
        source.close()
    assert rig.cause is None


async def test_a_guest_that_runs_faults_before_running_is_said() -> None:
    """A request may come before Running, and is answered all the same."""
    async with make_rig() as rig:
        source = rig.source
        rig.guest.fault(0, 0)  # All is present yet: the touch just is done.
        rig.events.on(events.State, lambda: rig.guest.fault(2, PER_PAGE), state="postcopy-active")
        await source.start_postcopy()
        said = [(await source.main.receive())[0] for _ in range(2)]
        request = PageRequest(block=0, page=1, target_page=0)
        (running,) = [message for message in said if isinstance(message, Running)]
        assert sorted(said, key=repr) == sorted([running, request], key=repr)
        assert running.run_ns > 0
        source.close()


async def test_the_last_to_wake_is_counted() -> None:
    """A vCPU that waited for the very last page is in the figures, though it says so late."""
    async with make_rig() as rig:
        source = rig.source
        rig.guest.drowsy = True
        await source.start_postcopy()
        await source.main.expect(Running)
        rig.guest.fault(0, 0)
        await source.send_rest()
        await source.end()
        await source.main.skip_to(Finished)
        await wait_all_tasks_blocked()
        rig.guest.say_awake()
        message, payload = await source.main.receive()
        assert isinstance(message, Account)
        assert payload
        source.close()
    assert rig.migration.hosted.engine.waits.latencies.faults.count == 1


async def test_a_vcpu_that_never_wakes_is_not_waited_for(mock_clock: MockClock) -> None:
    """Who does not say that it runs again holds up the account for a second at most."""
    async with make_rig() as rig:
        source = rig.source
        rig.guest.drowsy = True
        await source.start_postcopy()
        await source.main.expect(Running)
        rig.guest.fault(0, 0)
        await source.send_rest()
        await source.end()
        await source.main.skip_to(Finished)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.main.expect, Account)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            mock_clock.jump(1)
        source.close()


Lie = Callable[[HandSource], Awaitable[None]]


async def send_a_page_twice(source: HandSource) -> None:
    """Send what the guest may have written to since."""
    await source.start_postcopy()
    await source.send_page(PRE, PageId(0, 0))
    await source.send_page(PRE, PageId(0, 0))


async def send_a_page_over_both_channels(source: HandSource) -> None:
    """Send the halves of a page over two connections."""
    await source.start_postcopy()
    await source.send_bytes(PRE, 0, 0, 256 * KIB)
    await source.send_bytes(POST, 0, 256 * KIB, 256 * KIB)


async def send_a_page_again_over_the_other_channel(source: HandSource) -> None:
    """Send a page that is placed once more, over the other connection."""
    await source.start_postcopy()
    await source.send_page(PRE, PageId(0, 0))
    await source.send_page(POST, PageId(0, 0))


async def send_outside_the_guest(source: HandSource) -> None:
    """Send bytes behind the end of a block."""
    await source.start_postcopy()
    await source.main.send(PageData(payload_bytes=4096, block=0, offset=4 * HUGE), bytes(4096))


async def end_with_pages_missing(source: HandSource) -> None:
    """Count right, and leave a page out."""
    await source.start_postcopy()
    await source.send_page(PRE, PageId(0, 0))
    await source.main.send(End(target_pages=PER_PAGE, data_bytes=HUGE))
    await source.second.send(End(target_pages=0, data_bytes=0))


async def end_in_the_middle_of_a_page(source: HandSource) -> None:
    """Count right, and leave a chunk out."""
    await source.start_postcopy()
    await source.send_rest(PageId(0, 0))
    await source.send_bytes(PRE, 0, 0, 256 * KIB)
    count = source.geometry.target_page_count - PER_PAGE + 64
    await source.main.send(End(target_pages=count, data_bytes=count * TARGET_PAGE_BYTES))
    await source.second.send(End(target_pages=0, data_bytes=0))


async def count_too_many_pages(source: HandSource) -> None:
    """Say that more was sent than came."""
    await source.start_postcopy()
    await source.send_rest()
    count = source.geometry.target_page_count + 1
    await source.main.send(End(target_pages=count, data_bytes=count * TARGET_PAGE_BYTES))


async def count_on_the_wrong_channel(source: HandSource) -> None:
    """Say that what came over one channel went over the other."""
    await source.start_postcopy()
    await source.send_rest()
    await source.end(postcopy_pages=1)


async def switch_over_with_pages_missing(source: HandSource) -> None:
    """Say that precopy was complete, though pages are stale."""
    count = 8 * PER_PAGE // 8
    bits = b"\x01" + bytes(count // 8 - 1)
    await source.main.send(Discard(payload_bytes=len(bits), block=0, first=0, count=count), bits)
    await source.switch_over(postcopy=False)


async def go_on_after_a_complete_precopy(source: HandSource) -> None:
    """Send pages to a guest that runs and misses none."""
    await source.send_rest()
    await source.switch_over(postcopy=False)
    await source.send_page(PRE, PageId(0, 0))


async def send_early_over_the_postcopy_channel(source: HandSource) -> None:
    """Use the postcopy channel in precopy."""
    await source.send_page(POST, PageId(0, 0))


async def send_no_device_state(source: HandSource) -> None:
    """Hand a guest over that has no state."""
    await source.main.send(SwitchOver(payload_bytes=3, postcopy=True), b"\xc1\xc1\xc1")


async def send_the_state_of_other_vcpus(source: HandSource) -> None:
    """Hand a guest over that has another number of vCPUs."""
    state = msgpack.packb([[0, 0]])
    await source.main.send(SwitchOver(payload_bytes=len(state), postcopy=True), state)


async def switch_over_twice(source: HandSource) -> None:
    """Hand the guest over again while it runs."""
    await source.start_postcopy()
    await source.switch_over(postcopy=True)


async def end_before_the_switch_over(source: HandSource) -> None:
    """End a migration that did not happen."""
    await source.send_rest()
    await source.end()


LIES: list[tuple[Lie, str]] = [
    (send_a_page_twice, "came again"),
    (send_a_page_over_both_channels, "came over both channels"),
    (send_a_page_again_over_the_other_channel, "came again"),
    (send_outside_the_guest, "outside the guest"),
    (end_with_pages_missing, "bytes are missing"),
    (end_in_the_middle_of_a_page, "bytes are missing"),
    (count_too_many_pages, "the source counts"),
    (count_on_the_wrong_channel, "the source counts"),
    (switch_over_with_pages_missing, "pages are missing though precopy is said to be complete"),
    (go_on_after_a_complete_precopy, "target pages at 0 of block 0 came again"),
    (send_early_over_the_postcopy_channel, "PageData on the postcopy channel in state active"),
    (send_no_device_state, "device state"),
    (send_the_state_of_other_vcpus, "device state"),
    (switch_over_twice, "SwitchOver on the precopy channel in state postcopy-active"),
    (end_before_the_switch_over, "channel in state active"),
]


@pytest.mark.parametrize(("lie", "reason"), LIES, ids=lambda each: getattr(each, "__name__", ""))
async def test_a_source_that_lies_is_refused(lie: Lie, reason: str) -> None:
    """Whatever a source says that is not so, the destination ends with the source's fault."""
    async with make_rig() as rig:
        # The destination may close while there is still something to say.
        with suppress(OSError):
            await lie(rig.source)
        await rig.source.main.wait_closed()
    assert isinstance(rig.cause, RemoteProtocolError), repr(rig.cause)
    assert reason in str(rig.cause)
    assert "completed" not in rig.events.states


async def vanish_in_precopy(source: HandSource) -> None:
    """Go while the guest is the source's."""
    await source.send_page(PRE, PageId(0, 0))


async def vanish_in_postcopy(source: HandSource) -> None:
    """Go with pages missing."""
    await source.start_postcopy()
    await source.send_page(PRE, PageId(0, 0))


async def vanish_after_the_last_page(source: HandSource) -> None:
    """Go when everything was sent, without the End."""
    await source.start_postcopy()
    await source.send_rest()


async def vanish_between_the_ends(source: HandSource) -> None:
    """Go with one channel ended."""
    await source.start_postcopy()
    await source.send_rest()
    count = source.geometry.target_page_count
    await source.main.send(End(target_pages=count, data_bytes=count * TARGET_PAGE_BYTES))


async def vanish_before_the_verdict(source: HandSource) -> None:
    """Go when the account is due to be compared."""
    await source.start_postcopy()
    await source.send_rest()
    await source.end()
    await source.hear_account()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "before",
    [
        vanish_in_precopy,
        vanish_in_postcopy,
        vanish_after_the_last_page,
        vanish_between_the_ends,
        vanish_before_the_verdict,
    ],
)
async def test_a_source_that_vanishes_is_a_lost_connection(before: Lie, how: str) -> None:
    """An end of file, or a reset, is never success, however much has come."""
    async with make_rig() as rig:
        await before(rig.source)
        for peer in rig.source.peers.values():
            getattr(peer, how)()
    assert isinstance(rig.cause, ConnectionLost), repr(rig.cause)


async def test_one_lost_connection_is_enough() -> None:
    """With the postcopy connection gone the migration is over, though the other one lives."""
    async with make_rig() as rig:
        await rig.source.start_postcopy()
        rig.source.second.close()
    assert isinstance(rig.cause, ConnectionLost)
    assert "postcopy connection" in str(rig.cause)


async def test_an_abort_is_the_sources_word() -> None:
    """A reason that comes with the end is kept, though both connections end at once."""
    async with make_rig() as rig:
        await rig.source.start_postcopy()
        await rig.source.main.send(Abort(reason="cancelled by its user", cancelled=True))
        await wait_all_tasks_blocked()
        rig.source.close()
    assert isinstance(rig.cause, PeerAborted)


async def say_bye(source: HandSource) -> None:
    """Say what the destination should say."""
    await source.main.send(Bye())


async def say_a_verdict_without_a_report(source: HandSource) -> None:
    """Say a verdict whose payload is none."""
    await source.main.send(Verdict(payload_bytes=1, equal=True), b"\x80")


async def fall_silent(source: HandSource) -> None:
    """Say nothing for longer than any comparison takes."""
    await wait_all_tasks_blocked()
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(CLOSING_SECONDS_MAX)


@pytest.mark.parametrize(
    ("closing", "reason"),
    [
        (say_bye, "Bye came where Verdict was due"),
        (say_a_verdict_without_a_report, "SourcePart has no"),
        (fall_silent, "no verdict in 600 s"),
    ],
)
async def test_a_wrong_verdict_is_refused(closing: Lie, reason: str, mock_clock: MockClock) -> None:
    """The session is complete only when the source has said how the memories compare."""
    async with make_rig(seconds=10 * CLOSING_SECONDS_MAX) as rig:
        source = rig.source
        await source.start_postcopy()
        await source.send_rest()
        await source.end()
        await source.hear_account()
        await closing(source)
        await source.main.wait_closed()
    assert isinstance(rig.cause, RemoteProtocolError)
    assert reason in str(rig.cause)


async def test_a_source_that_does_not_close_is_not_waited_for(mock_clock: MockClock) -> None:
    """After Bye the destination waits a moment for the source to close first, and no longer."""
    async with make_rig() as rig:
        source = rig.source
        await source.start_postcopy()
        await source.send_rest()
        await source.end()
        await source.hear_account()
        await source.say_verdict()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.main.wait_closed)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            mock_clock.jump(2)
    assert rig.cause is None


async def test_a_guest_that_dies_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the vCPUs' process is gone there is nothing to migrate."""

    async def receive() -> GuestEvent:
        await trio.lowlevel.checkpoint()
        raise GuestFailed("the guest process was killed by SIGKILL")

    async with make_rig() as rig:
        monkeypatch.setattr(rig.guest, "receive", receive)
        rig.guest.fault(0, 0)
        await rig.source.main.wait_closed()
    assert isinstance(rig.cause, GuestFailed)


async def test_what_the_guest_finds_is_in_the_account() -> None:
    """A wrong read is told as an event, and the first one in words at the end."""
    async with make_rig() as rig:
        source = rig.source
        await source.start_postcopy()
        await source.main.expect(Running)
        rig.guest.tell(Mismatch(2, 77, 5, 0xAA, 0xBB))
        rig.guest.tell(Mismatch(3, 78, 6, 0xAA, 0xBB))
        rig.guest.board.vcpu_words[2, 4] = 1
        await source.send_rest()
        await source.end()
        account = await source.hear_account()
        assert account.first_mismatch == (
            "vCPU 2 read 0xbb in target page 77 on the destination, 0xaa must be there"
        )
        assert account.part.mismatches == 1
        assert rig.events.of(events.Mismatch) == [
            {"vcpu": 2, "target_page": 77, "step": 5},
            {"vcpu": 3, "target_page": 78, "step": 6},
        ]
        source.close()


STEPS = (
    Step("received", PageId(0, 1), (PageId(0, 3), PageId(1, 2)), share=0.5),
    Step("requested", PageId(0, 3), (PageId(0, 2),)),
    Step("placed", PageId(0, 3), (PageId(0, 0),)),
)


@pytest.fixture
def _touching_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests whose vCPUs touch what they are told to at once."""

    async def touch(self: FakeGuest, vcpu: int, flat: int) -> None:
        await trio.lowlevel.checkpoint()
        self.fault(vcpu, flat)

    monkeypatch.setattr(FakeGuest, "touch", touch)


@pytest.mark.usefixtures("_touching_guest")
async def test_scripted_faults_come_at_their_moments() -> None:
    """A step's pages are touched when its moment has come, in order, and each is asked for."""
    async with make_rig(steps=STEPS) as rig:
        source = rig.source
        await source.start_postcopy()
        await source.main.expect(Running)
        half = HUGE // 2
        for offset in range(0, half - 256 * KIB, 256 * KIB):
            await source.send_bytes(PRE, 0, HUGE + offset, 256 * KIB)
        await wait_all_tasks_blocked()
        assert rig.events.of(events.VcpuWait) == []
        await source.send_bytes(PRE, 0, HUGE + half - 256 * KIB, 256 * KIB)
        asked = [await source.main.expect(PageRequest) for _ in range(3)]
        assert [(each.block, each.page) for each in asked] == [(0, 3), (1, 2), (0, 2)]
        await source.send_page(POST, PageId(0, 3), urgent=True)
        last = await source.main.expect(PageRequest)
        assert (last.block, last.page) == (0, 0)
        source.close()


@pytest.mark.usefixtures("_touching_guest")
async def test_scripts_speak_of_pages_under_any_policy() -> None:
    """Where target pages are placed by themselves, a step's moment is still that of its page."""
    async with make_rig("critical-first", STEPS) as rig:
        source = rig.source
        await source.start_postcopy()
        await source.main.expect(Running)
        for eighth in (3, 1, 2):
            await source.send_bytes(PRE, 0, HUGE + eighth * 256 * KIB, 256 * KIB)
        await wait_all_tasks_blocked()
        assert rig.events.of(events.VcpuWait) == []
        await source.send_bytes(PRE, 0, HUGE, 256 * KIB)
        asked = [await source.main.expect(PageRequest) for _ in range(3)]
        assert [(each.block, each.page) for each in asked] == [(0, 3), (1, 2), (0, 2)]
        await source.send_bytes(POST, 0, 3 * HUGE, TARGET_PAGE_BYTES, urgent=True)
        await wait_all_tasks_blocked()
        # Its vCPU runs again, and its page is not placed.
        assert [each["page"] for each in rig.events.of(events.VcpuWake)] == [3]
        rest = HUGE - TARGET_PAGE_BYTES
        for offset in range(0, rest, 252 * KIB):
            start = 3 * HUGE + TARGET_PAGE_BYTES + offset
            assert len(rig.events.of(events.PagePlaced)) == 0
            await source.send_bytes(PRE, 0, start, min(rest - offset, 252 * KIB))
        last = await source.main.expect(PageRequest)
        assert (last.block, last.page) == (0, 0)
        source.close()


async def test_a_resent_page_counts_on_both_channels() -> None:
    """With a page that went again the migration ends well, each channel with the counts it had."""
    async with make_rig("resend") as rig:
        source = rig.source
        await source.start_postcopy()
        await source.main.expect(Running)
        # Half of page 2, then all of it, and everything else.
        await source.send_bytes(PRE, 0, 2 * HUGE, 256 * KIB)
        await source.send_page(POST, PageId(0, 2), urgent=True)
        await source.send_bytes(PRE, 0, 2 * HUGE + 256 * KIB, 256 * KIB)
        await source.send_rest(PageId(0, 2))
        total = source.geometry.target_page_count
        first = total - PER_PAGE + 512 * KIB // TARGET_PAGE_BYTES
        for peer, count in ((source.main, first), (source.second, PER_PAGE)):
            data_bytes = count * TARGET_PAGE_BYTES
            await peer.send(End(target_pages=count, data_bytes=data_bytes))
        finished = await source.main.expect(Finished)
        assert finished.target_pages == first + PER_PAGE
        assert bytes_of(rig.memory) == bytes_of(source.memory)
        placed = [(each["block"], each["page"]) for each in rig.events.of(events.PagePlaced)]
        assert placed.count((0, 2)) == 1
        source.close()


async def test_steps_need_a_guest_that_takes_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script for a guest that follows a program ends the migration, it is not ignored."""

    async def touch(*_: Any) -> None:  # noqa: ANN401 - whatever it is told
        await trio.lowlevel.checkpoint()
        raise GuestFailed("vCPUs of the program 'uniform' take no orders")

    monkeypatch.setattr(FakeGuest, "touch", touch)
    async with make_rig(steps=STEPS) as rig:
        await rig.source.start_postcopy()
        with suppress(OSError):
            await rig.source.send_page(PRE, PageId(0, 1))
        await rig.source.main.wait_closed()
    assert isinstance(rig.cause, MidstreamError)
    assert "take no orders" in str(rig.cause)


async def test_a_connection_that_the_policy_has_not_is_not_read() -> None:
    """A second connection of a source with one stream brings nothing, and is not waited for."""
    async with make_rig("vanilla", both=True) as rig:
        source = rig.source
        del source.peers[POST]
        await source.start_postcopy()
        await source.send_rest()
        await source.end()
        await source.hear_account()
        await source.say_verdict()
        source.close()
    assert rig.cause is None


async def test_time_and_memory_are_reported() -> None:
    """The account has what this side measured: placement, backing, reads and processor time."""
    async with make_rig() as rig:
        source = rig.source
        await source.start_postcopy()
        await source.main.expect(Running)
        for vcpu in range(4):
            rig.guest.board.vcpu_words[vcpu, :5] = np.array([50, 30 + vcpu, 2, 7, 0])
        await source.send_rest()
        await source.end()
        part = (await source.hear_account()).part
        assert (part.backing, part.placement) == ("base", "simulated")
        assert (part.reads, part.reads_unchecked) == (4 * 30 + 6, 8)
        assert part.cpu_seconds > 0
        assert rig.lifecycle.state.value == "completed"
        source.close()
