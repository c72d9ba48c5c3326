"""An engine starts, runs, pauses and ends its guest; nothing stays behind."""

import os
import signal
from collections.abc import Awaitable, Callable

import pytest
import trio

from guest.handle import GuestHandle, open_guest, start_process
from guest.interface import Faulted, GuestEvent, Touched, Woke
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from guest.states import VcpuState
from protocol.errors import LocalProtocolError
from tests.bounds import open_files

Until = Callable[[Callable[[], bool]], Awaitable[None]]

BUSY = ProgramSpec("uniform", 2, write_ratio=0.5, seed=7)


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process, dead ones that nobody has waited for included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def run_for(guest: GuestHandle, steps: int, until: Until) -> None:
    """Run the guest until vCPU 0 has made so many more accesses."""
    target = guest.board.counters(0).step + steps
    await guest.run()
    await until(lambda: guest.board.counters(0).step >= target)


async def test_a_guest_starts_paused(memory: GuestMemory) -> None:
    """Nothing moves before `run`, and pausing what is paused returns at once."""
    async with open_guest(memory, BUSY) as guest:
        assert is_alive(guest.pid)
        assert not guest.is_running
        with trio.fail_after(5):
            snapshot = await guest.pause()
        assert snapshot.states == (VcpuState(0, 0), VcpuState(1, 0))


async def test_a_paused_guest_stands_still(memory: GuestMemory, until: Until) -> None:
    """Between pause and run no vCPU makes an access; afterwards all go on."""
    async with open_guest(memory, BUSY) as guest:
        guest.board.set_present(slice(None))
        await run_for(guest, 1000, until)
        snapshot = await guest.pause()
        held = [bytes(view) for view in memory.views]
        await trio.sleep(0.05)
        assert [bytes(view) for view in memory.views] == held
        assert (await guest.pause()) == snapshot
        await run_for(guest, 1000, until)
        again = await guest.pause()
        assert again.states[0].step > snapshot.states[0].step
        assert again.counters[0].mismatches == again.counters[1].mismatches == 0


async def test_state_moves_to_another_process(memory: GuestMemory, until: Until) -> None:
    """A guest that is loaded with another's state goes on as if it were the same."""
    async with open_guest(memory, BUSY) as source, open_guest(memory, BUSY) as dest:
        for guest in (source, dest):
            guest.board.set_present(slice(None))
        await run_for(source, 5000, until)
        states = (await source.pause()).states
        await dest.load(states)
        await run_for(dest, 5000, until)
        snapshot = await dest.pause()
    assert all(
        after.step > before.step for after, before in zip(snapshot.states, states, strict=True)
    )
    assert [counters.mismatches for counters in snapshot.counters] == [0, 0]


async def test_state_from_another_moment_is_noticed(memory: GuestMemory, until: Until) -> None:
    """Memory and state that do not belong together give mismatches: the check is a real one."""
    async with open_guest(memory, BUSY) as guest:
        guest.board.set_present(slice(None))
        await run_for(guest, 5000, until)
        await guest.pause()
        await guest.load((VcpuState(0, 0), VcpuState(1, 0)))
        await run_for(guest, 2000, until)
        assert (await guest.pause()).counters[0].mismatches > 0


async def test_state_is_loaded_only_where_it_fits(memory: GuestMemory) -> None:
    """A running guest, or one with other vCPUs, takes no state."""
    async with open_guest(memory, BUSY) as guest:
        with pytest.raises(LocalProtocolError, match="not the states"):
            await guest.load((VcpuState(0, 0),))
        await guest.run()
        with pytest.raises(LocalProtocolError, match="paused"):
            await guest.load((VcpuState(0, 0), VcpuState(1, 0)))


async def test_running_twice_is_running_once(memory: GuestMemory, until: Until) -> None:
    """A second `run` does not disturb the vCPUs, and one pause stops them."""
    async with open_guest(memory, BUSY) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        await run_for(guest, 1000, until)
        with trio.fail_after(5):
            await guest.pause()
        assert not guest.is_running


async def test_run_and_pause_in_quick_turns(memory: GuestMemory) -> None:
    """A pause right after a run, and a run right after a pause, lose no vCPU and no access."""
    async with open_guest(memory, BUSY) as guest:
        guest.board.set_present(slice(None))
        with trio.fail_after(120):
            for _ in range(200):
                await guest.run()
                await guest.pause()
            snapshot = await guest.pause()
            # Not only between batches; so quick turns may have let nobody begin with one.
            while not any(state.step % 1024 for state in snapshot.states):
                await guest.run()
                await trio.sleep(0.001)
                snapshot = await guest.pause()
    assert [counters.mismatches for counters in snapshot.counters] == [0, 0]
    assert [c.reads_checked for c in snapshot.counters] == [s.step for s in snapshot.states]


async def test_a_cancelled_pause_can_be_asked_for_again(memory: GuestMemory) -> None:
    """Until it has returned, the guest does not count as paused."""
    async with open_guest(memory, BUSY) as guest:
        await guest.run()
        with trio.fail_after(10):
            with trio.CancelScope() as scope:
                scope.cancel()
                await guest.pause()
            assert scope.cancelled_caught
            with pytest.raises(LocalProtocolError, match="paused"):
                await guest.load((VcpuState(0, 0), VcpuState(1, 0)))
            await guest.pause()
            await guest.load((VcpuState(0, 5), VcpuState(1, 5)))


async def test_answers_to_a_cancelled_pause_do_not_count_for_the_next(
    memory: GuestMemory, until: Until
) -> None:
    """A guest that ran again in between has to stop again before it counts as paused."""
    async with start_process() as process, open_guest(memory, BUSY, process=process) as guest:
        guest.board.set_present(slice(None))
        await run_for(guest, 1000, until)
        with trio.CancelScope() as scope:
            scope.cancel()
            await guest.pause()
        # The vCPUs answer, but nobody listens.
        await process.wait_answer()
        await trio.sleep(0.05)
        await run_for(guest, 1000, until)
        snapshot = await guest.pause()
        await trio.sleep(0.05)
        assert await guest.pause() == snapshot


async def test_receiving_is_safe_to_cancel(memory: GuestMemory) -> None:
    """A receive that is cancelled takes no event away."""
    async with open_guest(memory, ProgramSpec("scripted", 1, seed=7)) as guest:
        await guest.run()
        for flat_page in range(20):
            await guest.touch(0, flat_page)
            with trio.CancelScope() as scope:
                scope.cancel()
                await guest.receive()
            with trio.fail_after(5):
                fault = await guest.receive()
                assert isinstance(fault, Faulted)
                assert fault.flat_page == flat_page
                guest.board.set_present(slice(flat_page, flat_page + 1))
                guest.wake(0)
                await guest.receive()
                await guest.receive()


async def test_what_was_said_can_be_taken_without_waiting(
    memory: GuestMemory, until: Until
) -> None:
    """One thing at a time, in its order, and nothing where nothing more was said."""
    async with open_guest(memory, ProgramSpec(name="scripted", seed=1)) as guest:
        assert guest.take() is None
        await guest.run()
        await guest.touch(0, 0)
        assert isinstance(await guest.receive(), Faulted)
        assert guest.take() is None
        guest.board.set_present(slice(None))
        guest.wake(0)
        said: list[GuestEvent] = []

        def has_said_all() -> bool:
            if (event := guest.take()) is not None:
                said.append(event)
            return any(isinstance(event, Touched) for event in said)

        await until(has_said_all)
        assert isinstance(said[0], Woke)


async def test_a_guest_that_waits_for_ever_is_killed(memory: GuestMemory) -> None:
    """Nothing touches its memory any more, what it counted stays, and it may be ended again."""
    async with open_guest(memory, ProgramSpec(name="scripted", seed=1)) as guest:
        await guest.run()
        await guest.touch(0, 0)
        assert isinstance(await guest.receive(), Faulted)
        await guest.kill()
        assert not is_alive(guest.pid)
        assert guest.board.counters(0).reads_checked == 0


async def test_orders_that_make_no_sense_are_refused(memory: GuestMemory) -> None:
    """No such vCPU, no such page, or a guest that follows a program."""
    async with open_guest(memory, ProgramSpec("scripted", 1)) as guest:
        with pytest.raises(LocalProtocolError, match="no vCPU 1"):
            await guest.touch(1, 0)
        with pytest.raises(LocalProtocolError, match="outside the guest"):
            await guest.touch(0, 1040)
    async with open_guest(memory, BUSY) as guest:
        with pytest.raises(LocalProtocolError, match="take no orders"):
            await guest.touch(0, 0)


async def test_nothing_stays_behind(memory: GuestMemory) -> None:
    """When the block is left the process is gone, waited for, and no file is open."""
    before = open_files()
    async with open_guest(memory, BUSY) as guest:
        await guest.run()
    assert not is_alive(guest.pid)
    del guest  # The board stays readable for as long as somebody has it.
    assert open_files() - before == set()


async def test_nothing_stays_behind_when_cancelled(memory: GuestMemory) -> None:
    """Cancellation in the middle of a pause ends the process as well."""
    pid = 0
    with trio.move_on_after(10) as scope:
        async with open_guest(memory, BUSY) as guest:
            pid = guest.pid
            await guest.run()
            scope.cancel()
            await guest.pause()
    assert scope.cancelled_caught
    assert pid
    assert not is_alive(pid)


async def test_a_guest_that_hangs_is_ended(memory: GuestMemory) -> None:
    """A process that does not notice that it should go is killed."""
    with trio.fail_after(10):
        async with open_guest(memory, BUSY) as guest:
            os.kill(guest.pid, signal.SIGSTOP)
    assert not is_alive(guest.pid)


async def test_errors_leave_the_block_as_they_are(memory: GuestMemory) -> None:
    """What is raised inside comes out itself, in no group."""
    with pytest.raises(ValueError, match="mine"):
        async with open_guest(memory, BUSY):
            raise ValueError("mine")


async def test_the_loop_runs_while_a_guest_starts(memory: GuestMemory) -> None:
    """Other tasks are served during the start of the interpreter."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.002)
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        async with open_guest(memory, BUSY):
            nursery.cancel_scope.cancel()
    assert turns > 5


async def test_the_most_vcpus_fit(memory: GuestMemory, until: Until) -> None:
    """64 vCPUs start, run, stop and never meet in a word."""
    async with open_guest(memory, ProgramSpec("zipf", 64, (1000.0,), 0.5, seed=7)) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        await until(lambda: all(guest.board.counters(vcpu).step for vcpu in range(64)))
        snapshot = await guest.pause()
        await trio.sleep(0.1)
        assert await guest.pause() == snapshot
    assert not any(counters.mismatches for counters in snapshot.counters)
