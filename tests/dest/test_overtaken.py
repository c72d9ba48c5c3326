"""Target pages that come over both channels: the first copy counts, and of the other not a byte.

Both receivers read real sockets into one guest memory; bytes are held back by not sending them.  A
vCPU's writes are written where it would write them, as soon as the page is placed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from itertools import product

import numpy as np
import pytest
import trio

from dest.channel import InChannel
from dest.engine import Engine
from dest.executor import Executor
from dest.peer import Plan
from dest.placement import SimulatedPlacement
from dest.receiver import Receiver
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.checksums import checksum_of
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.messages import End, Message, PageData, Resend, ZeroData
from protocol.policy import preset
from protocol.runs import Runs, unpack_runs
from protocol.states import Event, Lifecycle
from tests.guests import HUGE, SEED, FakeGuest, fake_guest, small_geometry
from tests.sides import run_frame
from tests.sockets import Peer, tcp_pair
from tests.stories import Recorder

BASE = TARGET_PAGE_BYTES
PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
COUNT = 16
PAGES = [bytes([1 + page]) * BASE for page in range(COUNT)]
PAYLOAD = b"".join(PAGES)
WRITTEN = b"\xee" * BASE
POSTCOPY_ACTIVE = (
    Event.CONNECTED, Event.PREPARED, Event.GUEST_STOPPED, Event.POSTCOPY_STARTED,
)  # fmt: skip
# Of a huge page, and base pages.
BLOCKS = (0, 1)


class Rig:
    """Two receivers and the two ends that send to them.

    Attributes:
        sent: What went whole over each channel, for its End: target pages and bytes.
    """

    def __init__(
        self, memory: GuestMemory, guest: FakeGuest, executor: Executor, *, checked: bool
    ) -> None:
        """Begin with nothing sent."""
        self.memory = memory
        self.guest = guest
        self.executor = executor
        self.engine = executor.engine
        self.checked = checked
        self.peers: dict[Channel, Peer] = {}
        self.receivers: dict[Channel, Receiver] = {}
        self.sent = {channel: [0, 0] for channel in Channel}

    async def begin(self, channel: Channel, message: Message, payload: bytes, came: int) -> None:
        """Send a frame's head and so many of its bytes, and wait until they were read."""
        if self.checked:
            await self.peers[channel].send(checksum_of(message, [payload]))
        await self.peers[channel].send(message, payload[:came])
        await self.read(channel, came)

    async def read(self, channel: Channel, came: int) -> None:
        """Wait until so many bytes of the channel's frame were read."""
        arriving = self.engine.assembly._arriving
        # The kernel tells nobody when a receiver has read.
        while channel not in arriving or arriving[channel].received < came:  # noqa: ASYNC110
            await trio.sleep(0.001)

    async def finish(self, channel: Channel, payload: bytes, came: int, count: int) -> None:
        """Send the rest of a frame, and wait until it has ended."""
        await self.peers[channel].send_bytes(payload[came:])
        self.sent[channel][0] += count
        self.sent[channel][1] += len(payload)
        while self.engine.assembly.counts[channel].target_pages < self.sent[channel][0]:  # noqa: ASYNC110
            await trio.sleep(0.001)

    async def copy(self, block: int, page: int) -> None:
        """Have a target page come over the postcopy channel."""
        await self.begin(POST, copy_of(block, page), PAGES[page], 0)
        await self.finish(POST, PAGES[page], 0, 1)

    def write(self, block: int, page: int) -> None:
        """Have a vCPU write to a target page, which has to be placed."""
        assert self.is_placed(block, page)
        self.memory.views[block][page * BASE : (page + 1) * BASE] = WRITTEN

    def is_placed(self, block: int, page: int) -> bool:
        """Tell whether a target page is placed."""
        return bool(self.guest.board.present[self.memory.geometry.flat_target_page(block, page)])

    def memory_of(self, block: int) -> list[bytes]:
        """Return the target pages in memory."""
        view = self.memory.views[block]
        return [bytes(view[page * BASE : (page + 1) * BASE]) for page in range(COUNT)]

    async def end(self) -> None:
        """Say that all was sent; the receivers find the same counts."""
        for channel, (target_pages, data_bytes) in self.sent.items():
            message = End(target_pages=target_pages, data_bytes=data_bytes)
            await self.peers[channel].send(message)


@asynccontextmanager
async def make_rig(*, checked: bool = False) -> AsyncIterator[Rig]:
    """Put both receivers together in postcopy; they have ended when the block is left."""
    geometry, policy = small_geometry(), preset("critical-first")
    with ExitStack() as stack:
        memory = stack.enter_context(GuestMemory.create(geometry, "base"))
        guest = stack.enter_context(fake_guest(geometry))
        engine = Engine(geometry, policy, Recorder(), vcpu_count=4, checked=checked)
        executor = Executor(engine, memory, SimulatedPlacement(geometry, guest.handle))
        for block in BLOCKS:
            engine.assembly.discard(block, 0, COUNT, b"\xff" * (COUNT // 8))
        executor.start_postcopy()
        lifecycle = Lifecycle(Recorder())
        for event in POSTCOPY_ACTIVE:
            lifecycle.fire(event)
        plan = Plan(geometry, policy, HUGE, ProgramSpec(seed=SEED), checked=checked)
        rig = Rig(memory, guest, executor, checked=checked)
        # So that bytes are read as they come, and not a few large pieces at once.
        engine.watch(lambda _, __: None)
        channels = {}
        for name in Channel:
            near, far = stack.enter_context(tcp_pair())
            channels[name] = InChannel(TcpStream(near))
            channels[name].name = name
            rig.peers[name] = Peer(far)
        for name, channel in channels.items():
            rig.receivers[name] = Receiver(
                channel, channels[PRE], plan, executor, lifecycle, Turns()
            )
        async with trio.open_nursery() as nursery:
            for receiver in rig.receivers.values():
                nursery.start_soon(receiver.run)
            yield rig
            if nursery.child_tasks and not rig.engine.faults.is_broken:
                await rig.end()
            elif rig.engine.faults.is_broken:
                nursery.cancel_scope.cancel()


class Turns:
    """The guest's turns, which do not come."""

    async def stopping(self) -> None:
        """See `dest.peer.Turns`."""
        raise AssertionError

    async def switch_over(self, device_state: bytes | None, *, postcopy: bool) -> None:
        """See `dest.peer.Turns`."""
        raise AssertionError(device_state, postcopy)


def copy_of(block: int, page: int) -> PageData:
    """Return the head of a target page that goes by itself."""
    return PageData(payload_bytes=BASE, block=block, offset=page * BASE, urgent=True)


def run_of(block: int) -> PageData:
    """Return the head of a run of background."""
    return PageData(payload_bytes=len(PAYLOAD), block=block, offset=0)


def with_written(*written: int) -> list[bytes]:
    """Return all target pages, of which a vCPU has written to some."""
    return [WRITTEN if page in written else PAGES[page] for page in range(COUNT)]


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checksum"])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("page", [3, 6, 10, COUNT - 1])
async def test_a_copy_comes_in_the_middle_of_the_frame_with_the_page(
    page: int, block: int, *, checked: bool
) -> None:
    """It is placed at once, whatever had come; of the frame the others are, and it counts whole."""
    came = 6 * BASE + 1000
    async with make_rig(checked=checked) as rig:
        await rig.begin(PRE, run_of(block), PAYLOAD, came)
        rig.executor.fault(0, rig.memory.geometry.flat_target_page(block, page), 0)
        # Of what is here and compared with nothing the kernel is told at once.
        assert rig.is_placed(block, page) == (page < 6 and not checked)
        if rig.is_placed(block, page):
            rig.write(block, page)
        await rig.copy(block, page)
        if rig.memory_of(block)[page] != WRITTEN:
            rig.write(block, page)
        await rig.finish(PRE, PAYLOAD, came, COUNT)
        assert rig.memory_of(block) == with_written(page)
        assert all(rig.is_placed(block, each) for each in range(COUNT))


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checksum"])
@pytest.mark.parametrize(("block", "scattered"), list(product(BLOCKS, (False, True))))
async def test_a_copy_comes_before_the_frame_with_the_page(
    block: int, *, scattered: bool, checked: bool
) -> None:
    """What the frame brings of it is dropped: bytes, and zeros that its head names."""
    async with make_rig(checked=checked) as rig:
        await rig.copy(block, 4)
        await rig.copy(block, 9)
        rig.write(block, 4)
        rig.write(block, 9)
        if not scattered:
            await rig.begin(PRE, run_of(block), PAYLOAD, 5000)
            await rig.finish(PRE, PAYLOAD, 5000, COUNT)
            assert rig.memory_of(block) == with_written(4, 9)
            return
        # Pages 8 to 10 are named as zeros.
        runs, is_zero = Runs.of_span(Span(block, 0, COUNT * BASE)).divided(
            np.array([8 <= page <= 10 for page in range(COUNT)])
        )
        data = PAYLOAD[: 8 * BASE] + PAYLOAD[11 * BASE :]
        message, payload = run_frame(runs, is_zero, data)
        await rig.begin(PRE, message, payload, 0)
        await rig.finish(PRE, payload, 0, COUNT)
        expected = with_written(4, 9)
        expected[8] = expected[10] = bytes(BASE)
        assert rig.memory_of(block) == expected


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checksum"])
async def test_a_frame_comes_while_a_copy_is_half_here(*, checked: bool) -> None:
    """The page is the copy's, which has begun; the frame's others do not wait for it."""
    async with make_rig(checked=checked) as rig:
        await rig.begin(POST, copy_of(0, 5), PAGES[5], 100)
        await rig.begin(PRE, run_of(0), PAYLOAD, len(PAYLOAD) - 1)
        rig.executor.fault(0, 5, 0)
        assert not rig.is_placed(0, 5)
        await rig.finish(PRE, PAYLOAD, len(PAYLOAD) - 1, COUNT)
        assert [rig.is_placed(0, page) for page in range(COUNT)] == [
            page != 5 for page in range(COUNT)
        ]
        await rig.finish(POST, PAGES[5], 100, 1)
        rig.write(0, 5)
        assert rig.memory_of(0) == with_written(5)


async def test_what_is_here_first_is_placed_though_a_copy_is_half_here() -> None:
    """The copy ends for nothing: its page was placed out of the frame, and was written to."""
    async with make_rig() as rig:
        await rig.begin(PRE, run_of(0), PAYLOAD, 1000)
        await rig.begin(POST, copy_of(0, 5), PAGES[5], 100)
        rig.executor.fault(0, 5, 0)
        await rig.peers[PRE].send_bytes(PAYLOAD[1000 : 7 * BASE])
        await rig.read(PRE, 7 * BASE)
        rig.write(0, 5)
        await rig.finish(POST, PAGES[5], 100, 1)
        await rig.finish(PRE, PAYLOAD, 7 * BASE, COUNT)
        assert rig.memory_of(0) == with_written(5)


async def test_a_copy_that_came_changed_is_dropped() -> None:
    """The page comes with the frame that was on its way before it, and nothing has to go again."""
    async with make_rig(checked=True) as rig:
        await rig.begin(PRE, run_of(0), PAYLOAD, 1000)
        await rig.begin(POST, copy_of(0, 5), PAGES[5], 0)
        await rig.finish(POST, b"\x55" + PAGES[5][1:], 0, 1)
        assert not rig.is_placed(0, 5)
        await rig.finish(PRE, PAYLOAD, 1000, COUNT)
        assert rig.memory_of(0) == PAGES
        assert rig.engine.assembly.missing_bytes == COUNT * BASE


async def test_a_frame_that_came_changed_goes_again_without_what_came_first() -> None:
    """Its page that a copy has brought is not asked for, and not overwritten when it comes."""
    async with make_rig(checked=True) as rig:
        await rig.begin(PRE, run_of(0), PAYLOAD, 1000)
        await rig.copy(0, 5)
        rig.write(0, 5)
        changed = PAYLOAD[:1000] + b"\x55" + PAYLOAD[1001:]
        await rig.finish(PRE, changed, 1000, COUNT)
        resend = await rig.peers[PRE].expect(Resend)
        again = unpack_runs(resend.block, resend.offset, resend.runs)[0]
        assert [page for page in range(COUNT) if page != 5] == again.target_pages.tolist()
        data = PAYLOAD[: 5 * BASE] + PAYLOAD[6 * BASE :]
        message, payload = run_frame(again, payload=data)
        await rig.begin(PRE, message, payload, 0)
        await rig.finish(PRE, payload, 0, COUNT - 1)
        assert rig.memory_of(0) == with_written(5)


@pytest.mark.parametrize("first", ["zeros", "bytes"])
async def test_zeros_and_bytes_may_be_copies_of_each_other(first: str) -> None:
    """The source looks closely at some pages, and takes others for data: both say the same."""
    payload = bytes(len(PAYLOAD))
    async with make_rig() as rig:
        rig.memory.views[0][: COUNT * BASE] = b"\x99" * (COUNT * BASE)
        await rig.begin(PRE, run_of(0), payload, 1000)
        if first == "zeros":
            zero = ZeroData(block=0, offset=5 * BASE, length=BASE, urgent=True)
            await rig.peers[POST].send(zero)
            await rig.finish(POST, b"", 0, 1)
        else:
            await rig.begin(POST, copy_of(0, 5), bytes(BASE), 0)
            await rig.finish(POST, bytes(BASE), 0, 1)
        assert rig.memory_of(0)[5] == bytes(BASE)
        rig.write(0, 5)
        await rig.finish(PRE, payload, 1000, COUNT)
        assert rig.memory_of(0)[4:7] == [bytes(BASE), WRITTEN, bytes(BASE)]


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checksum"])
@pytest.mark.parametrize("came", [5 * BASE, 5 * BASE + 100, 6 * BASE + 100])
async def test_a_break_between_the_two_copies(came: int, *, checked: bool) -> None:
    """What a copy has brought is not missing, nor held in part; the rest is, as after any break."""
    async with make_rig(checked=checked) as rig:
        await rig.begin(PRE, run_of(0), PAYLOAD, came)
        await rig.copy(0, 5)
        rig.write(0, 5)
        rig.executor.interrupt()
        assembly = rig.engine.assembly
        missing = np.flatnonzero(assembly.missing().members(0)[:COUNT]).tolist()
        here = {5} if checked else {*range(came // BASE), 5}
        assert missing == [page for page in range(COUNT) if page not in here]
        held = {(0, 6): 100} if came > 6 * BASE and not checked else {}
        assert assembly.held_parts == held
        # What comes again for nothing: all that was compared with nothing, but for the copied page.
        came_of_others = came - max(0, min(came - 5 * BASE, BASE))
        assert assembly.dropped_bytes == (came_of_others if checked else 0)
        assert rig.memory_of(0)[5] == WRITTEN


async def test_a_break_in_the_middle_of_a_copy() -> None:
    """The frame's own bytes are what counts then, those of the copied page, too."""
    async with make_rig() as rig:
        await rig.begin(PRE, run_of(0), PAYLOAD, 3 * BASE)
        await rig.begin(POST, copy_of(0, 2), PAGES[2], 100)
        rig.executor.interrupt()
        missing = np.flatnonzero(rig.engine.assembly.missing().members(0)[:COUNT]).tolist()
        assert missing == list(range(3, COUNT))
        assert rig.engine.assembly.held_parts == {}
        assert rig.memory_of(0)[:3] == PAGES[:3]
