"""A whole destination against a source that is played by hand: how it ends, whoever ends it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dest.config import DestConfig
from dest.midstream import MidstreamPeer
from dest.session import DestSession
from guest.memory import GuestMemory
from protocol import events
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MemoryLost,
    MidstreamError,
    MigrationError,
    PeerAborted,
    RemoteProtocolError,
    WrongMemory,
)
from protocol.geometry import PageId
from protocol.messages import (
    PROTOCOL_VERSION,
    Abort,
    Hello,
    Message,
    PassAck,
    PassEnd,
    Ready,
    Running,
)
from protocol.report import Result
from protocol.wire import encode
from tests.bounds import bare, bounded, nothing_left
from tests.guests import KIB, FakeGuests, patterned_memory, small_geometry
from tests.sides import HandSource
from tests.sockets import dial
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
HERE = "the guest is at the destination, "


pytestmark = pytest.mark.usefixtures("guests")


class Rig:
    """A destination that listens, and the source that comes to it."""

    def __init__(self, source: HandSource, config: DestConfig) -> None:
        """Prepare; `run` listens."""
        self.source = source
        self.events = Recorder()
        self.log: list[str] = []
        self.address = ""
        self.scope = trio.CancelScope()
        self.result: Result | None = None
        self.error: MidstreamError | None = None
        self._listening = trio.Event()
        self._session = DestSession(
            config, MidstreamPeer(config), self.events, self._listens, self.log.append
        )

    def _listens(self, address: str) -> None:
        self.address = address
        self._listening.set()

    async def run(self) -> None:
        """Serve; keep how that ends."""
        with self.scope:
            try:
                self.result = await self._session.run()
            except MidstreamError as error:
                self.error = bare(error)

    async def connect(self) -> None:
        """Have the source connect."""
        await self._listening.wait()
        await self.source.connect(self.address)


@asynccontextmanager
async def make_rig(
    buffer_bytes: int | None = None,
    **config: Any,  # noqa: ANN401 - any field of the configuration
) -> AsyncIterator[Rig]:
    """Run a destination that a test is the source of; nothing of either may stay."""
    # What Python and trio open once.
    await trio.to_thread.run_sync(int)
    settings: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "backing": "base"}
    with patterned_memory(small_geometry()) as memory:
        source = HandSource(memory)
        source.buffer_bytes = buffer_bytes
        with nothing_left(), bounded():
            try:
                rig = Rig(source, DestConfig(**(settings | config)))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(rig.run)
                    await rig.connect()
                    yield rig
            finally:
                source.close()


async def migrate(source: HandSource) -> None:
    """Bring everything over in postcopy and hear the account."""
    await source.set_up()
    await source.start_postcopy()
    await source.main.expect(Running)
    await source.send_rest()
    await source.end()
    await source.hear_account()


async def test_a_migration_to_its_end(guests: FakeGuests, tmp_path: Path) -> None:
    """A destination takes a guest, runs it, gives account, and saves its memory when asked to."""
    saved = tmp_path / "saved"
    async with make_rig(save=saved) as rig:
        await migrate(rig.source)
        await rig.source.say_verdict()
        rig.source.close()
    assert rig.error is None
    assert rig.result is not None
    assert rig.result.problem is None
    assert rig.result.report["status"] == "completed"
    assert rig.result.report["midstream"]["backing"] == "base"
    (guest,) = guests.made
    assert guest.calls == ["load", "run", "pause"]
    with patterned_memory(small_geometry()) as memory:
        assert saved.read_bytes() == b"".join(bytes(view) for view in memory.views)
    assert rig.events.states == ["setup", "active", "device", "postcopy-active", "completed"]
    assert rig.log == []


async def test_a_guest_that_cannot_be_saved_is_told_to_the_source() -> None:
    """The source hears that before it hears that all is well: both tell of one end."""
    async with make_rig(save=Path("/dev/full")) as rig:
        await migrate(rig.source)
        await rig.source.send_verdict()
        abort = await rig.source.main.expect(Abort)
        assert abort.reason == "cannot save the guest to /dev/full: No space left on device"
        rig.source.close()
    assert isinstance(rig.error, GuestFailed)
    assert str(rig.error) == abort.reason


async def test_a_verdict_of_unequal_is_wrong_memory() -> None:
    """When the source finds a difference both end properly, and the user is told where it is."""
    async with make_rig() as rig:
        await migrate(rig.source)
        await rig.source.say_verdict(equal=False, detail="page 7 of block ram")
        rig.source.close()
    assert rig.error is None
    assert rig.result is not None
    assert isinstance(rig.result.problem, WrongMemory)
    assert rig.result.problem.exit_status == 3
    assert "page 7 of block ram" in str(rig.result.problem)


async def test_a_wrong_read_is_wrong_memory(guests: FakeGuests) -> None:
    """What a vCPU found comes before what the digests say."""
    async with make_rig() as rig:
        rig.events.on(
            events.State,
            lambda: guests.made[0].board.vcpu_words.__setitem__((0, 4), 3),
            state="postcopy-active",
        )
        await migrate(rig.source)
        await rig.source.say_verdict(equal=False, detail="page 7 of block ram")
        rig.source.close()
    assert rig.result is not None
    assert "found wrong memory in 3 reads" in str(rig.result.problem)


# How far a source goes before it ends the session, and the state in which that finds the
# destination.
Phase = Callable[[HandSource], Awaitable[None]]


async def say_hello_only(_: HandSource) -> None:
    """Be welcome and do nothing."""
    await trio.lowlevel.checkpoint()


async def set_up(source: HandSource) -> None:
    """Go on to Ready."""
    await source.set_up()


async def send_a_pass(source: HandSource) -> None:
    """Go on to the end of a precopy pass."""
    await source.set_up()
    await source.send_rest()
    await source.main.send(PassEnd(index=0))
    await source.main.expect(PassAck)


async def complete_precopy(source: HandSource) -> None:
    """Go on until the guest runs there, with all of its memory."""
    await send_a_pass(source)
    await source.switch_over(postcopy=False)
    await source.main.expect(Running)


async def start_postcopy(source: HandSource) -> None:
    """Go on until the guest runs there, and misses pages."""
    await source.set_up()
    await source.start_postcopy()
    await source.main.expect(Running)
    await source.send_page(POST, PageId(0, 2), urgent=True)


PHASES: list[tuple[Phase, str]] = [
    (say_hello_only, "setup"),
    (set_up, "active"),
    (send_a_pass, "active"),
    (complete_precopy, "device"),
    (start_postcopy, "postcopy-active"),
    (migrate, "completed"),
]
phases = pytest.mark.parametrize(
    ("phase", "state"), PHASES, ids=lambda x: getattr(x, "__name__", x)
)


def expected_states(state: str) -> tuple[str, ...]:
    """Return how the states end when the session fails in one of them."""
    if state == "completed":
        return ("completed",)
    return (state, "failed")


@phases
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_source_that_dies(phase: Phase, state: str, how: str) -> None:
    """Without the source memory is lost in postcopy, and before or after only the connection."""
    async with make_rig() as rig:
        await phase(rig.source)
        for peer in rig.source.peers.values():
            getattr(peer, how)()
    assert rig.result is None
    if state == "postcopy-active":
        assert isinstance(rig.error, MemoryLost)
        assert rig.error.exit_status == 4
    else:
        assert isinstance(rig.error, ConnectionLost)
        assert rig.error.exit_status == 1
    assert tuple(rig.events.states[-len(expected_states(state)) :]) == expected_states(state)


@phases
async def test_a_source_that_gives_up(phase: Phase, state: str) -> None:
    """The source's reason is what the user reads, in postcopy with what it means for the guest."""
    async with make_rig() as rig:
        await phase(rig.source)
        await rig.source.main.send(Abort(reason="the power is gone"))
        await rig.source.main.wait_closed()
    assert isinstance(rig.error, MemoryLost if state == "postcopy-active" else PeerAborted)
    assert "the power is gone" in str(rig.error)
    assert tuple(rig.events.states[-len(expected_states(state)) :]) == expected_states(state)


async def test_the_source_hears_which_limit_is_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this side has run out of is said in the words of its user, not in Python's."""

    def create(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async def hear() -> None:
        async with make_rig() as rig:
            monkeypatch.setattr("dest.session.GuestMemory.create", create)
            await rig.source.set_up()
            abort = await rig.source.main.skip_to(Abort)
            assert "ulimit -u" in abort.reason
            rig.source.close()

    with pytest.raises(ExceptionGroup):
        await hear()


@phases
async def test_cancelled_in_each_phase(phase: Phase, state: str) -> None:
    """A user who cancels ends the session at once, and the source hears who it was."""
    async with make_rig() as rig:
        await phase(rig.source)
        await wait_all_tasks_blocked()
        assert rig.events.states[-1] == state
        rig.scope.cancel()
        abort = await rig.source.main.skip_to(Abort)
        assert abort == Abort(reason="cancelled by its user", cancelled=True)
        rig.source.close()
    if state == "postcopy-active":
        # The guest is here, and what its user does not wait for is lost.
        assert isinstance(rig.error, MemoryLost)
        assert str(rig.error).startswith(
            f"cancelled by its user; {HERE}memory of the guest is lost: "
        )
        assert rig.events.states[-1] == "cancelled"
        return
    assert rig.scope.cancelled_caught
    assert rig.events.states[-1] == ("completed" if state == "completed" else "cancelled")


async def test_cancelled_before_a_source_comes() -> None:
    """There is nobody to tell; the port is free again."""
    with bounded(), nothing_left():
        with patterned_memory(small_geometry()) as memory:
            rig = Rig(HandSource(memory), DestConfig(host="127.0.0.1", port=0))
            rig.scope.cancel()
            await rig.run()
        assert rig.events.states == ["cancelling", "cancelled"]


async def test_a_refused_setup_is_told_to_the_source() -> None:
    """A source is told in one line why it cannot come, and nothing was made for it."""
    async with make_rig() as rig:
        setup, payload = rig.source.setup()
        await rig.source.main.send(msgspec.structs.replace(setup, switches=("faster",)), payload)
        abort = await rig.source.main.expect(Abort)
        assert "unknown switch 'faster'" in abort.reason
        rig.source.close()
    assert isinstance(rig.error, RemoteProtocolError)
    assert rig.error.exit_status == 1
    assert rig.events.states == ["setup", "failed"]


async def test_memory_that_cannot_be_had_is_told_to_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A destination without room for the guest says so to both users."""

    def create(*_: object, **_options: object) -> GuestMemory:
        raise GuestFailed("the guest needs 64 TiB, 1 GiB is free")

    async with make_rig() as rig:
        monkeypatch.setattr("dest.session.GuestMemory.create", create)
        await rig.source.main.send(*rig.source.setup())
        abort = await rig.source.main.expect(Abort)
        assert abort.reason == "the guest needs 64 TiB, 1 GiB is free"
        rig.source.close()
    assert isinstance(rig.error, GuestFailed)


async def test_a_kernel_that_stops_nobody_is_told_and_done_without() -> None:
    """With `auto` vCPUs then look at a map, and the report says why."""
    for placement, reason in (("auto", "there is no guest process"), ("simulated", "")):
        async with make_rig(placement=placement) as rig:
            await migrate(rig.source)
            await rig.source.say_verdict()
            rig.source.close()
        assert rig.result is not None
        assert rig.result.report["midstream"]["placement"] == "simulated"
        assert rig.result.report["midstream"]["placement-reason"] == reason


async def test_a_placement_asked_for_by_name_is_had_or_refused() -> None:
    """Who wants the kernel and cannot have it is told so, and the source is too."""
    async with make_rig(placement="userfault") as rig:
        await rig.source.main.send(*rig.source.setup())
        abort = await rig.source.main.expect(Abort)
        assert abort.reason == "--placement userfault: there is no guest process"
        rig.source.close()
    assert isinstance(rig.error, GuestFailed)
    assert rig.error.exit_status == 1


async def test_a_protocol_error_in_postcopy_is_told_to_the_source() -> None:
    """A source that breaks the rules in postcopy hears so, though its pages are still coming.

    Its guest is here, without the rest of its memory.
    """
    async with make_rig() as rig:
        await start_postcopy(rig.source)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def hear() -> None:
                abort = await rig.source.main.skip_to(Abort)
                assert "came again" in abort.reason
                rig.source.close()

            with suppress(OSError):
                await rig.source.send_page(PRE, PageId(0, 2))
    assert isinstance(rig.error, MemoryLost)
    assert f"came again; {HERE}memory of the guest is lost" in str(rig.error)


async def test_strangers_do_not_disturb_a_migration() -> None:
    """While a guest is migrated others are refused, logged, and of no consequence."""
    async with make_rig() as rig:
        await start_postcopy(rig.source)
        for role in ("precopy", "postcopy"):
            stranger = await dial(rig.address)
            await stranger.send(Hello(version=PROTOCOL_VERSION, session=bytes(16), role=role))
            abort = await stranger.expect(Abort)
            assert abort.reason == "a migration is under way here already"
            stranger.close()
        await rig.source.send_rest(PageId(0, 2))
        await rig.source.end(postcopy_pages=1)
        await rig.source.hear_account()
        await rig.source.say_verdict()
        rig.source.close()
    assert rig.error is None
    assert rig.result is not None
    assert len(rig.log) == 2


async def test_a_stranger_before_the_source_is_no_migration() -> None:
    """Who connects first and says nothing of use does not take the source's place."""
    async with make_rig() as rig:
        stranger = await dial(rig.address)
        await stranger.send(Ready())
        await stranger.expect(Abort)
        stranger.close()
        await migrate(rig.source)
        await rig.source.say_verdict()
        rig.source.close()
    assert rig.error is None


async def test_an_address_in_use_is_one_line() -> None:
    """A port that is taken ends the destination before anything was made."""
    async with make_rig() as rig:
        taken = Rig(rig.source, DestConfig(host="127.0.0.1", port=int(rig.address.split(":")[1])))
        await taken.run()
        assert type(taken.error) is MigrationError
        assert "cannot listen on" in str(taken.error)
        assert taken.events.states == ["failed"]
        rig.source.close()


async def test_a_source_that_is_late_to_read_hears_the_reason() -> None:
    """An Abort behind much that is unread, with more coming the other way, is not thrown away."""
    async with make_rig(buffer_bytes=4 * KIB) as rig:
        await rig.source.set_up()
        passes = [PassEnd(index=index) for index in range(3000)]
        await rig.source.main.send_bytes(b"".join(map(encode, passes)))
        await wait_all_tasks_blocked()
        # This comes too late to be read; without a step of the event loop it stays so.
        os.write(rig.source.main.sock.fileno(), bytes(1000))
        rig.scope.cancel()
        heard: list[Message] = []
        while not heard or not isinstance(heard[-1], Abort):
            heard.append((await rig.source.main.receive())[0])
        assert heard[:-1] == [PassAck(index=message.index) for message in passes]
        rig.source.close()
    assert rig.scope.cancelled_caught


async def test_a_source_that_does_not_close_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A source that was told and stays is left in the end."""
    monkeypatch.setattr("dest.session.FAREWELL_SECONDS_MAX", 0.05)
    async with make_rig() as rig:
        await rig.source.set_up()
        rig.scope.cancel()
        await rig.source.main.wait_closed()
    assert rig.scope.cancelled_caught
