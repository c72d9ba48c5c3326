"""The destination's steps, against a source that is played by hand, to their end."""

from __future__ import annotations

import numpy as np

from guest.digest import digest
from guest.interface import Mismatch
from guest.slices import finish
from guest.states import VcpuState, decode_states
from protocol import events
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.messages import Account, End, Finished, PageRequest, PassAck, PassEnd, Running
from tests.dest_migrations import PER_PAGE, POST, PRE, make_rig
from tests.guests import HUGE, KIB, bytes_of


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
