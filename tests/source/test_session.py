"""A whole source against a destination that is played by hand: how it ends, whoever ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guest.interface import GuestEvent
from protocol import events
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MidstreamError,
    PeerAborted,
)
from protocol.geometry import Geometry
from protocol.messages import (
    Abort,
    End,
    Message,
    PageData,
    PassEnd,
    Setup,
    SwitchOver,
    Verdict,
)
from protocol.report import Result
from source.convergence import SwitchRule
from source.session import SourceSession
from tests.bounds import bare, nothing_left
from tests.guests import KIB, MIB, FakeGuests, bytes_of, patterned_memory, small_geometry
from tests.sides import HandDest, hand_dest, source_config
from tests.sockets import unused_port
from tests.stories import Recorder

AFTER_ONE_PASS = SwitchRule(postcopy_after=1, downtime_ms_max=0)
PRECOPY_ONLY = SwitchRule(postcopy_after=None, downtime_ms_max=300)


pytestmark = pytest.mark.usefixtures("guests")


class Rig:
    """A source, and the destination that it migrates to."""

    def __init__(self, dest: HandDest, geometry: Geometry, **changes: Any) -> None:  # noqa: ANN401
        """Prepare; `run` migrates."""
        self.dest = dest
        self.events = Recorder()
        self.session = SourceSession(source_config(geometry, dest.port, **changes), self.events)
        self.scope = trio.CancelScope()

    async def run(self) -> Result | None:
        """Migrate; return None when that was cancelled."""
        with self.scope:
            return await self.session.run()
        return None

    async def fail(self) -> MidstreamError:
        """Migrate and return why that fails."""
        with pytest.raises(MidstreamError) as caught:
            await self.run()
        return bare(caught.value)


@asynccontextmanager
async def make_rig(**changes: Any) -> AsyncIterator[Rig]:  # noqa: ANN401 - of the configuration
    """Prepare a source and a hand-played destination; nothing of either may stay."""
    # What Python and trio open once.
    await trio.to_thread.run_sync(int)
    geometry = small_geometry()
    with nothing_left():
        async with hand_dest(geometry) as dest:
            yield Rig(dest, geometry, **changes)
            dest.close()


def aborts(dest: HandDest) -> list[Abort]:
    """Return the Aborts that a destination heard."""
    return [message for _, message in dest.heard if isinstance(message, Abort)]


async def test_a_migration_to_its_end(guests: FakeGuests) -> None:
    """A source fills its guest, runs it, moves it, and reports what both sides counted."""
    async with make_rig(rule=AFTER_ONE_PASS) as rig:
        result = await rig.run()
        assert result is not None
        assert result.problem is None
        assert result.report["status"] == "completed"
        assert result.report["midstream"]["verified"]["digest-equal"] is True
        assert result.report["ram"]["total"] == small_geometry().length_bytes
        with patterned_memory(small_geometry()) as memory:
            assert bytes_of(rig.dest.memory) == bytes_of(memory)
        (guest,) = guests.made
        assert guest.calls == ["run", "pause"]
        assert guest.stopped_anywhere
        assert rig.dest.heard_types(Channel.PRECOPY)[-2:] == ["End", "Verdict"]
        assert aborts(rig.dest) == []


async def test_progress_can_be_read_at_any_time() -> None:
    """There is no progress before there are connections, and all of it at the end."""
    async with make_rig(rule=AFTER_ONE_PASS) as rig:
        assert rig.session.progress() is None
        seen = []
        rig.events.on(events.PageSent, lambda: seen.append(rig.session.progress()))
        await rig.run()
        last = rig.session.progress()
        assert last is not None
        assert (last.state, last.pass_count, last.remaining_bytes) == ("completed", 1, 0)
        assert last.sent_bytes > last.ram_bytes == small_geometry().length_bytes
        remaining = [each.remaining_bytes for each in seen if each is not None]
        assert remaining == sorted(remaining, reverse=True)
        assert {each.state for each in seen if each is not None} == {"active"}


async def test_an_image_fills_the_guest(tmp_path: Path) -> None:
    """With an image the guest begins with the file's bytes, and zeros behind them."""
    image = tmp_path / "image"
    image.write_bytes(b"bytes of a disk" * 1000)
    async with make_rig(image=image) as rig:
        result = await rig.run()
        assert result is not None
        assert result.problem is None
        assert bytes(rig.dest.memory.views[0][:15000]) == b"bytes of a disk" * 1000
        assert not any(rig.dest.memory.views[1])


DEATHS: list[tuple[type[Message], SwitchRule, str]] = [
    (Setup, AFTER_ONE_PASS, "failed"),
    (PassEnd, AFTER_ONE_PASS, "failed"),
    (SwitchOver, PRECOPY_ONLY, "failed"),
    (SwitchOver, AFTER_ONE_PASS, "failed"),
    (End, AFTER_ONE_PASS, "failed"),
    # Everything had arrived: the exchange that follows only proves it.
    (Verdict, AFTER_ONE_PASS, "completed"),
]


@pytest.mark.parametrize(("at", "rule", "state"), DEATHS)
async def test_a_destination_that_dies(at: type[Message], rule: SwitchRule, state: str) -> None:
    """Whenever the destination goes without a word, the source has lost its connection."""
    async with make_rig(rule=rule) as rig:

        async def die(_: Message) -> None:
            await trio.lowlevel.checkpoint()
            rig.dest.close()

        rig.dest.instead[at] = die
        error = await rig.fail()
        assert isinstance(error, ConnectionLost)
        assert error.exit_status == 1
        assert rig.events.states[-1] == state


@pytest.mark.parametrize("at", [Setup, PassEnd, PageData, SwitchOver, End, Verdict])
async def test_a_destination_that_gives_up(at: type[Message]) -> None:
    """Whatever was on its way, the destination's reason is what the user reads."""
    async with make_rig(rule=AFTER_ONE_PASS) as rig:

        async def give_up(_: Message) -> None:
            await rig.dest.main.send(Abort(reason="the disk is on fire"))
            rig.dest.close()

        rig.dest.instead[at] = give_up
        error = await rig.fail()
        assert isinstance(error, PeerAborted)
        assert "the disk is on fire" in str(error)
        assert aborts(rig.dest) == []


async def test_the_reason_is_heard_though_a_connection_broke_first() -> None:
    """An Abort that comes behind a broken connection is waited for, a moment, and told."""
    async with make_rig(chunk_bytes=2 * MIB) as rig:

        async def give_up(_: Message) -> None:
            rig.dest.peers[Channel.POSTCOPY].reset()
            await wait_all_tasks_blocked()
            await rig.dest.main.send(Abort(reason="no room"))
            rig.dest.main.reset()

        rig.dest.instead[PageData] = give_up
        error = await rig.fail()
        assert isinstance(error, PeerAborted)
        assert "no room" in str(error)


async def test_a_guest_that_dies_is_told_to_the_peer(
    guests: FakeGuests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the vCPUs' process is gone the migration ends, and the destination is told why."""
    async with make_rig(rule=AFTER_ONE_PASS, bandwidth=16 * KIB) as rig:

        async def receive() -> GuestEvent:
            while "active" not in rig.events.states:
                await trio.lowlevel.checkpoint()
            raise GuestFailed("the guest process was killed by SIGKILL")

        monkeypatch.setattr("tests.guests.FakeGuest.receive", lambda _: receive())
        error = await rig.fail()
        assert isinstance(error, GuestFailed)
        (abort,) = aborts(rig.dest)
        assert abort.reason == "the guest process was killed by SIGKILL"
        assert rig.events.states[-1] == "failed"


@pytest.mark.parametrize("state", ["postcopy-active", "completed"])
async def test_a_guest_that_dies_after_it_was_handed_over_is_not_missed(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on the destination by then; the migration completes, and is verified as ever."""
    async with make_rig(rule=AFTER_ONE_PASS) as rig:
        handed_over = trio.Event()
        rig.events.on(events.State, handed_over.set, state=state)

        async def receive() -> GuestEvent:
            await handed_over.wait()
            raise GuestFailed("the guest process was killed by SIGKILL")

        monkeypatch.setattr("tests.guests.FakeGuest.receive", lambda _: receive())
        result = await rig.run()
        assert result is not None
        assert result.report["midstream"]["verified"]["digest-equal"] is True
        assert aborts(rig.dest) == []


CANCELS = [
    ("setup", {"rule": AFTER_ONE_PASS}),
    ("active", {"rule": AFTER_ONE_PASS, "bandwidth": 16 * KIB}),
    ("device", {"rule": PRECOPY_ONLY}),
    ("postcopy-active", {"postcopy_bandwidth": 16 * KIB}),
    ("completed", {}),
]


@pytest.mark.parametrize(("state", "changes"), CANCELS)
async def test_cancelled_in_each_phase(state: str, changes: dict[str, Any]) -> None:
    """A user who cancels ends the session at once, and the destination hears who it was."""
    async with make_rig(**changes) as rig:
        rig.events.on(events.State, rig.scope.cancel, state=state)
        assert await rig.run() is None
        assert rig.scope.cancelled_caught
        assert aborts(rig.dest) == [Abort(reason="cancelled by its user", cancelled=True)]
        assert rig.events.states[-1] == ("completed" if state == "completed" else "cancelled")


async def test_cancelled_in_the_middle_of_a_page() -> None:
    """A frame that was cut goes whole before the Abort, so that the peer can read both."""
    async with make_rig(chunk_bytes=2 * MIB) as rig:
        go_on = trio.Event()

        async def stop_reading(_: Message) -> None:
            await go_on.wait()
            rig.dest.instead.clear()

        rig.dest.instead[SwitchOver] = stop_reading
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cancel_when_it_stands() -> None:
                while "postcopy-active" not in rig.events.states:
                    await wait_all_tasks_blocked(0.01)
                await wait_all_tasks_blocked(0.01)
                rig.scope.cancel()
                go_on.set()

            assert await rig.run() is None
        assert [type(message) for _, message in rig.dest.heard][-2:] == [PageData, Abort]


async def test_cancelled_before_it_is_connected() -> None:
    """There is nobody to tell, and nothing to undo but the memory."""
    async with make_rig() as rig:
        rig.scope.cancel()
        assert await rig.run() is None
        assert rig.events.states == ["cancelling", "cancelled"]
        assert rig.dest.peers == {}


async def test_a_peer_that_does_not_listen_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A farewell that nobody takes is given up in the end."""
    monkeypatch.setattr("source.migration.FAREWELL_SECONDS_MAX", 0.05)
    async with make_rig(chunk_bytes=2 * MIB) as rig:

        async def stop_reading(_: Message) -> None:
            rig.scope.cancel()
            await trio.sleep_forever()

        rig.dest.instead[PageData] = stop_reading
        assert await rig.run() is None
        assert rig.scope.cancelled_caught


async def test_nobody_listens() -> None:
    """A destination that is not there is one line for the user, in a final state."""
    async with make_rig() as rig:
        config = source_config(small_geometry(), unused_port())
        session = SourceSession(config, rig.events)
        with pytest.raises(ConnectionLost, match="cannot connect"):
            await session.run()
        assert rig.events.states == ["failed"]


async def test_a_dirty_log_that_is_not_the_kernels_is_told() -> None:
    """Where the kernel does not log writes one line says why, and the report what was used."""
    lines: list[str] = []
    async with make_rig(rule=AFTER_ONE_PASS) as rig:
        rig.session._log = lines.append
        result = await rig.run()
        assert result is not None
        assert result.report["midstream"]["dirty-log"] == "software"
    (line,) = lines
    assert line.endswith("not by the kernel: there is no guest process")


@pytest.mark.parametrize("wanted", ["software", "kernel"])
async def test_a_dirty_log_can_be_asked_for(wanted: str) -> None:
    """The software's is to be had without a word, and the kernel's or nothing."""
    lines: list[str] = []
    async with make_rig(rule=AFTER_ONE_PASS, dirty_log=wanted) as rig:
        rig.session._log = lines.append
        if wanted == "kernel":
            assert "dirty log cannot be had: there is no guest" in str(await rig.fail())
        else:
            await rig.run()
    assert lines == []
