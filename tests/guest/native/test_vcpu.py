"""Guests whose threads run machine code, in processes of their own, do as all guests do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace

import numpy as np
import pytest
import trio

from guest import services
from guest.board import Board
from guest.handle import GuestHandle, open_guest
from guest.interface import Faulted, Mismatch, Touched, Woke
from guest.memory import GuestMemory
from guest.messages import socket_pair
from guest.native.clock import GuestClock
from guest.native.code import Told
from guest.native.layout import ProgramData, StateData
from guest.native.vcpu import MachineVcpu
from guest.spec import NATIVE, PYTHON, ProgramSpec
from guest.states import VcpuState
from guest.trace import Trace
from protocol.geometry import Geometry
from tests.machines import needs_native

pytestmark = needs_native

BUSY = ProgramSpec("uniform", 2, write_ratio=0.5, seed=7, kind=NATIVE)
SCRIPTED = ProgramSpec("scripted", 2, seed=7, kind=NATIVE)

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@asynccontextmanager
async def present(memory: GuestMemory, spec: ProgramSpec) -> AsyncIterator[GuestHandle]:
    """Start a guest all of whose pages are there."""
    async with open_guest(memory, spec) as guest:
        guest.set_present(slice(None))
        yield guest


async def test_it_runs_stands_still_and_goes_on(memory: GuestMemory, until: Until) -> None:
    """Between pause and run no access is made; all that were made are checked and timed."""
    async with present(memory, BUSY) as guest:
        await guest.run()
        await until(lambda: min(guest.counters(vcpu).step for vcpu in (0, 1)) > 1000)
        snapshot = await guest.pause()
        held = [bytes(view) for view in memory.views]
        await trio.sleep(0.05)
        assert [bytes(view) for view in memory.views] == held
        assert await guest.pause() == snapshot
        assert guest.accesses().get_total_count() == sum(each.step for each in snapshot.states)
        await guest.run()
        await until(lambda: guest.counters(0).step > snapshot.states[0].step)
        again = await guest.pause()
    assert not any(counters.mismatches for counters in again.counters)
    assert not any(state.machine for state in again.states)


@pytest.mark.parametrize(
    ("first", "second"), [(NATIVE, NATIVE), (PYTHON, NATIVE), (NATIVE, PYTHON)]
)
async def test_its_state_is_its_step(
    first: str, second: str, memory: GuestMemory, until: Until
) -> None:
    """Who goes on at that step goes on as the same guest, whatever kind of thread it is."""
    one, other = replace(BUSY, kind=first), replace(BUSY, kind=second)
    async with present(memory, one) as source, present(memory, other) as dest:
        await source.run()
        await until(lambda: source.counters(0).step > 2000)
        states = (await source.pause()).states
        await dest.load(states)
        await dest.run()
        await until(lambda: dest.counters(0).step > states[0].step)
        snapshot = await dest.pause()
    assert not any(counters.mismatches for counters in snapshot.counters)
    assert snapshot.counters[0].reads_checked == snapshot.states[0].step - states[0].step


async def test_state_from_another_moment_is_noticed(memory: GuestMemory, until: Until) -> None:
    """Memory and step that do not belong together are told of, a few times, and counted."""
    async with present(memory, BUSY) as guest:
        await guest.run()
        await until(lambda: guest.counters(0).step > 5000)
        await guest.pause()
        await guest.load((VcpuState(0, 0), VcpuState(1, 0)))
        await guest.run()
        await until(lambda: guest.counters(0).mismatches > 100)
        snapshot = await guest.pause()
        told = []
        while (event := guest.take()) is not None:
            assert isinstance(event, Mismatch)
            told.append(event)
    assert 0 < len(told) <= 32
    assert told[0].expected != told[0].seen
    assert snapshot.counters[0].mismatches > 100


async def test_a_vcpu_waits_for_a_page_that_it_looks_for(memory: GuestMemory) -> None:
    """It tells that it waits, sleeps, stops where it waits, and goes on when the page is there."""
    async with open_guest(memory, SCRIPTED) as guest:
        guest.set_present(slice(0, 100))
        await guest.run()
        await guest.touch(1, 200)
        with trio.fail_after(10):
            fault = await guest.receive()
            assert isinstance(fault, Faulted)
            assert (fault.vcpu, fault.flat_page) == (1, 200)
            snapshot = await guest.pause()
            assert snapshot.counters[1].reads_checked == 0
            await guest.run()
            assert isinstance(await guest.receive(), Faulted)
            guest.set_present(slice(200, 201))
            guest.wake(1)
            woke = await guest.receive()
            assert isinstance(woke, Woke)
            assert (woke.vcpu, woke.flat_page) == (1, 200)
            assert await guest.receive() == Touched(1, 200)
        assert (await guest.pause()).counters[1].reads_checked == 1


async def test_a_vcpu_is_stopped_by_the_kernel(memory: GuestMemory) -> None:
    """Where the kernel does it, it touches, and tells when it runs again."""
    async with open_guest(memory, SCRIPTED, services.USERFAULT) as guest:
        if guest.service.reason:
            pytest.skip(guest.service.reason)
        faults = guest.service.userfaultfd
        assert faults is not None
        address = guest.service.addresses[1] + 2 * 4096
        await guest.discard([(address, 4096)])
        await guest.run()
        await guest.touch(1, 1026)
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(faults.fd)
            (fault,) = faults.read_faults()
            assert fault.thread_id == guest.service.thread_ids[1]
            guest.note_stopped(1)
            faults.map_pages(address, 4096, 4096)
            woke = await guest.receive()
            assert isinstance(woke, Woke)
            assert (woke.vcpu, woke.flat_page) == (1, 1026)
            assert woke.t_fault_ns < woke.t_woke_ns
            assert await guest.receive() == Touched(1, 1026)
        await guest.pause()


async def test_what_it_writes_is_marked(memory: GuestMemory, until: Until) -> None:
    """Without the kernel's log, on the board, after the write; a trace that has ended is idle."""
    pages = [5, 9, 5, 1030]
    trace = Trace(np.zeros(4, np.uint8), np.array(pages, np.uint64), np.ones(4, np.bool_))
    async with present(memory, ProgramSpec("trace", seed=7, trace=trace, kind=NATIVE)) as guest:
        log, _ = guest.choose_dirty_log()
        assert log.name == "software"
        log.start()
        await guest.run()
        await until(lambda: guest.counters(0).step == 4)
        assert log.harvest().tolist() == [5, 9, 1030]
        assert (await guest.pause()).states[0].step == 4


async def test_a_rate_is_kept(memory: GuestMemory, until: Until) -> None:
    """A vCPU that has stood still is not behind its plan: it makes up for nothing."""
    spec = replace(BUSY, vcpu_count=1, access_rates=(1000.0,))
    async with present(memory, spec) as guest:
        await guest.run()
        await until(lambda: guest.counters(0).step > 20)
        before = (await guest.pause()).states[0].step
        await trio.sleep(0.3)
        began = trio.current_time()
        await guest.run()
        await until(lambda: guest.counters(0).step > before)
        after = (await guest.pause()).states[0].step
        assert after - before <= 2 + (trio.current_time() - began) * 1000


class TellingProcessor:
    """Tells what it was given to tell, one thing each time that it is entered."""

    def __init__(self, board: Board, *told: int) -> None:
        """Take what it tells; where that is nothing more, the engine wants something else."""
        self.program, self.state = ProgramData(), StateData()
        self.clock = GuestClock(self.program, self.state, 1e9)
        self.told = list(told)
        self._board = board

    def prepare(self) -> None:
        """Do nothing."""

    def begin(self, step: int) -> None:
        """Do nothing."""

    def enter(self) -> int:
        """Tell the next."""
        if len(self.told) == 1:
            self._board.generation[0] += 1
        return self.told.pop(0)

    def save(self) -> bytes:
        """Return something."""
        return b"all of it"

    def load(self, state: bytes, step: int) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("loaded", "anywhere", "told", "left", "saved"),
    [
        (b"amid", False, [0, Told.PARKED, 0], 1, b""),
        (b"", False, [Told.PARKED], 1, b""),
        (b"amid", True, [Told.PARKED], 1, b"all of it"),
        (b"amid", False, [0, 0], 0, b""),
    ],
    ids=["in an access", "between two", "anywhere", "wanted otherwise"],
)
def test_who_never_came_to_run_stops_between_two_accesses(
    geometry: Geometry, loaded: bytes, told: list[int], left: int, saved: bytes, *, anywhere: bool
) -> None:
    """Told to run and to stop before its thread had a turn, it ends the access that it was in."""
    with closing(Board.create(geometry, 1)) as board:
        board.generation[0] = 2
        board.stops_anywhere[0] = anywhere
        processor = TellingProcessor(board, *told)
        control, events = socket_pair()
        with control, events:
            vcpu = MachineVcpu(0, SCRIPTED, processor, board, -1, (control, events))
            vcpu.load(loaded)
            assert vcpu._park(2) == saved
            assert len(processor.told) == left
