"""vCPUs make their program's accesses, check every read, and wait for pages that are absent."""

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import trio

from guest import libc
from guest.board import Board
from guest.handle import GuestHandle, open_guest
from guest.interface import Faulted, Mismatch, Touched, Woke
from guest.mapping import GuestMapping
from guest.memory import GuestMemory
from guest.messages import socket_pair
from guest.programs import Program, ProgramSpec
from guest.replay import replay
from guest.slices import finish
from guest.states import VcpuState
from guest.trace import Trace
from guest.vcpu import Vcpu

Until = Callable[[Callable[[], bool]], Awaitable[None]]

BUSY = ProgramSpec("uniform", 2, write_ratio=0.3, seed=7)


def all_have_made(guest: GuestHandle, steps: int) -> Callable[[], bool]:
    """Return a condition: every vCPU has made so many accesses."""
    vcpus = range(guest.spec.vcpu_count)
    return lambda: all(guest.board.counters(vcpu).step >= steps for vcpu in vcpus)


def bytes_of(memory: GuestMemory) -> bytes:
    """Return all blocks one after another."""
    return b"".join(memory.views)


async def next_event(guest: GuestHandle) -> object:
    """Return the guest's next event, which must be soon."""
    with trio.fail_after(10):
        return await guest.receive()


@pytest.mark.parametrize("name", ["uniform", "sequential", "zipf", "hotspot"])
async def test_what_vcpus_write_is_what_their_program_says(
    memory: GuestMemory, until: Until, name: str
) -> None:
    """After a run memory holds what a replay of the same steps gives, and every read was right."""
    spec = ProgramSpec(name, 2, write_ratio=0.3, seed=7)
    with GuestMemory.create(memory.geometry, "base") as model, trio.fail_after(20):
        for theirs, ours in zip(memory.views, model.views, strict=True):
            ours[:] = theirs
        async with open_guest(memory, spec) as guest:
            guest.board.set_present(slice(None))
            await guest.run()
            await until(all_have_made(guest, 5000))
            snapshot = await guest.pause()
        start = tuple(VcpuState(vcpu, 0) for vcpu in (0, 1))
        program = Program(spec, memory.geometry)
        finish(replay(model, program, start, snapshot.states))
        assert bytes_of(memory) == bytes_of(model)
    for state, counters in zip(snapshot.states, snapshot.counters, strict=True):
        batch = program.batch(state.vcpu, 0, state.step)
        assert counters.reads_checked == state.step
        assert counters.writes == np.count_nonzero(batch.is_write)
        assert counters.mismatches == counters.reads_unchecked == 0


async def test_each_access_has_a_latency(memory: GuestMemory, until: Until) -> None:
    """As many latencies are recorded as accesses were made."""
    async with open_guest(memory, BUSY) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        await until(all_have_made(guest, 3000))
        snapshot = await guest.pause()
        made = sum(state.step for state in snapshot.states)
        assert guest.board.accesses().get_total_count() == made


async def test_exactly_the_written_pages_are_dirty(memory: GuestMemory, until: Until) -> None:
    """The dirty log names the pages that the program wrote, and no other."""
    spec = ProgramSpec("zipf", 2, write_ratio=0.1, seed=7)
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        await until(all_have_made(guest, 2000))
        snapshot = await guest.pause()
        dirty = guest.board.harvest_dirty()
    program = Program(spec, memory.geometry)
    batches = [program.batch(state.vcpu, 0, state.step) for state in snapshot.states]
    written = np.concatenate([batch.flat_pages[batch.is_write] for batch in batches])
    assert dirty.tolist() == np.unique(written).tolist()


def test_a_page_is_marked_after_it_was_written(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dirty log relies on this order: a mark that is taken too early would be lost."""
    spec = ProgramSpec("sequential", 1, write_ratio=1.0, seed=7)
    program = Program(spec, memory.geometry)
    mapping = GuestMapping.attach(memory.geometry, tuple(os.dup(fd) for fd in memory.fds))
    control, events = socket_pair()
    marked_counts: list[int] = []

    def memcpy(to_address: int, from_address: int, length_bytes: int) -> None:
        marked_counts.append(int(np.count_nonzero(board.dirty)))
        real_memcpy(to_address, from_address, length_bytes)

    real_memcpy = libc.memcpy
    with closing(Board.create(memory.geometry, 1)) as board, control, events:
        board.set_present(slice(None))
        board.generation[0] = 1
        vcpu = Vcpu(0, program, mapping, board, -1, (control, events))
        monkeypatch.setattr(libc, "memcpy", memcpy)
        assert vcpu._access(1, 0, program.batch(0, 0, 3), repeat(0)) == 3
        assert board.harvest_dirty().tolist() == [0, 1, 2]
    # A read and a write for each access.
    assert marked_counts == [0, 0, 1, 1, 2, 2]


async def test_copying_dirty_pages_of_a_running_guest_follows_it(
    memory: GuestMemory, until: Until
) -> None:
    """Precopy in a nutshell: harvest, copy, and in the end the copy equals the memory."""
    pages = np.concatenate([memory.words(0), memory.words(1)]).reshape(-1, 512)

    async with open_guest(memory, BUSY) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        ready = all_have_made(guest, 20_000)
        with trio.fail_after(20):
            while not ready():
                copy_dirty(guest, memory, pages)
                await trio.lowlevel.checkpoint()
            await guest.pause()
        copy_dirty(guest, memory, pages)
    assert pages.tobytes() == bytes_of(memory)


def copy_dirty(guest: GuestHandle, memory: GuestMemory, pages: np.ndarray) -> None:
    """Copy what was written since the last time."""
    for flat_page in guest.board.harvest_dirty().tolist():
        block, page = memory.geometry.locate(flat_page)
        pages[flat_page] = memory.words(block)[page * 512 : (page + 1) * 512]


async def test_wrong_memory_is_reported_at_once(memory: GuestMemory) -> None:
    """One word that must not be there is found by its owner, who says what and where."""
    spec = ProgramSpec("sequential", 1, access_rates=(1000.0,), seed=7)
    batch = Program(spec, memory.geometry).batch(0, 3, 1)
    memory.words(0)[3 * 512 + int(batch.slot_offsets[0]) // 8] = 666
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        expected = int(batch.expected[0])
        assert await next_event(guest) == Mismatch(0, 3, 3, expected, 666)
        assert (await guest.pause()).counters[0].mismatches == 1


async def test_a_flood_of_wrong_memory_is_only_counted(memory: GuestMemory, until: Until) -> None:
    """Where everything is wrong a few reports are enough, and vCPUs go on."""
    memory.words(0)[:] = 0
    spec = ProgramSpec("sequential", 1, seed=7)
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        await until(all_have_made(guest, 1024))
        counters = (await guest.pause()).counters[0]
        reports = []
        with trio.move_on_after(0.05):
            while True:
                reports.append(await guest.receive())
    assert 1024 <= counters.mismatches <= counters.reads_checked
    assert [report.step for report in reports if isinstance(report, Mismatch)] == list(range(32))


async def test_an_image_guest_claims_no_checks_that_it_did_not_make(
    memory: GuestMemory, until: Until
) -> None:
    """First reads are counted apart, later ones are checked."""
    spec = ProgramSpec("sequential", 1, write_ratio=1.0, seed=7, image=True)
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        await until(all_have_made(guest, 1500))
        counters = (await guest.pause()).counters[0]
    assert counters.reads_unchecked == 1040
    assert counters.reads_checked == counters.step - 1040
    assert counters.mismatches == 0


async def test_a_vcpu_waits_for_an_absent_page(memory: GuestMemory, until: Until) -> None:
    """It faults once, sleeps through wakes that are not for it, and goes on when it can."""
    spec = ProgramSpec("sequential", 1, seed=7)
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(0, 100))
        await guest.run()
        fault = await next_event(guest)
        assert isinstance(fault, Faulted)
        assert (fault.vcpu, fault.flat_page) == (0, 100)
        for _ in range(3):
            guest.wake(0)
        with trio.move_on_after(0.05) as scope:
            await guest.receive()
        assert scope.cancelled_caught
        placed_ns = time.monotonic_ns()
        guest.board.set_present(slice(100, 200))
        guest.wake(0)
        woke = await next_event(guest)
        assert isinstance(woke, Woke)
        assert (woke.flat_page, woke.t_fault_ns) == (100, fault.t_fault_ns)
        assert fault.t_fault_ns < placed_ns < woke.t_woke_ns
        second = await next_event(guest)
        assert isinstance(second, Faulted)
        assert second.flat_page == 200


async def test_a_waiting_vcpu_sleeps(memory: GuestMemory) -> None:
    """It uses no processor time while its page is absent."""

    def cpu_ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    async with open_guest(memory, BUSY) as guest:
        await guest.run()
        assert {type(await next_event(guest)) for _ in (0, 1)} == {Faulted}
        before = cpu_ticks(guest.pid)
        await trio.sleep(0.3)
        assert cpu_ticks(guest.pid) - before < 10  # 100 ms; two spinning vCPUs take 300


async def test_a_page_that_came_just_before_the_fault_wakes_nobody_but_us(
    memory: GuestMemory,
) -> None:
    """As documented: whoever receives a fault for a present page wakes the vCPU."""
    spec = ProgramSpec("sequential", 1, seed=7)
    async with open_guest(memory, spec) as guest:
        await guest.run()
        guest.board.set_present(slice(0, 1))
        fault = await next_event(guest)
        assert isinstance(fault, Faulted)
        if fault.flat_page == 0:
            guest.wake(0)
            assert isinstance(await next_event(guest), Woke)
            fault = await next_event(guest)
        assert isinstance(fault, Faulted)
        assert fault.flat_page == 1


async def test_a_waiting_vcpu_can_be_paused(memory: GuestMemory) -> None:
    """Its state stands before the access that it waited with; running again it faults again."""
    spec = ProgramSpec("sequential", 2, seed=7)
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(0, 10))
        await guest.run()
        first = [await next_event(guest) for _ in (0, 1)]
        snapshot = await guest.pause()
        assert snapshot.states == (VcpuState(0, 10), VcpuState(1, 0))
        await guest.run()
        again = [await next_event(guest) for _ in (0, 1)]
        pages = [
            {event.flat_page for event in part if isinstance(event, Faulted)}
            for part in (first, again)
        ]
        assert pages == [{10, 520}, {10, 520}]


async def test_a_stuck_page_delays_all_accesses_that_were_due(
    memory: GuestMemory, until: Until
) -> None:
    """Latency counts from when an access was due: a wait of 0.2 s makes many late accesses."""
    spec = ProgramSpec("sequential", 1, access_rates=(1000.0,), seed=7)
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(0, 100))
        await guest.run()
        assert isinstance(await next_event(guest), Faulted)
        await trio.sleep(0.2)
        guest.board.set_present(slice(None))
        guest.wake(0)
        woke = await next_event(guest)
        assert isinstance(woke, Woke)
        await until(all_have_made(guest, 300))
        await guest.pause()
        histogram = guest.board.accesses()
    late = sum(
        item.count_added_in_this_iter_step
        for item in histogram.get_recorded_iterator()
        if item.value_iterated_to > 100_000_000
    )
    # One access was due every millisecond, and those of the last 100 ms were not that late.
    waited_ms = (woke.t_woke_ns - woke.t_fault_ns) / 1e6
    assert waited_ms >= 200
    assert late > 0.9 * (waited_ms - 100)


async def test_a_rate_is_kept(memory: GuestMemory, until: Until) -> None:
    """A program of 2000 accesses a second makes about so many, and no more."""
    spec = ProgramSpec("uniform", 2, access_rates=(2000.0,), seed=7)
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(None))
        began = trio.current_time()
        await guest.run()
        await until(all_have_made(guest, 500))
        snapshot = await guest.pause()
        seconds = trio.current_time() - began
    assert seconds >= 0.2
    for state in snapshot.states:
        assert state.step <= seconds * 2000 + 1


async def test_each_vcpu_has_its_rate(memory: GuestMemory, until: Until) -> None:
    """Where each vCPU has a rate of its own, one may go without pause while another is slow."""
    spec = ProgramSpec("uniform", 2, access_rates=(0.0, 100.0), seed=7)
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(None))
        began = trio.current_time()
        await guest.run()
        await until(lambda: guest.board.counters(0).step >= 5000)
        snapshot = await guest.pause()
        seconds = trio.current_time() - began
    fast, slow = (state.step for state in snapshot.states)
    assert fast >= 5000
    assert slow <= seconds * 100 + 1


async def test_a_trace_is_followed_to_its_end(memory: GuestMemory, until: Until) -> None:
    """The vCPUs make the recorded accesses, and then idle."""
    pages = np.array([5, 1039, 5, 5, 700], dtype=np.uint64)
    trace = Trace(np.array([0, 0, 0, 1, 0], np.uint8), pages, np.array([1, 0, 1, 1, 0], np.bool_))
    spec = ProgramSpec("trace", 2, seed=7, trace=trace)
    async with open_guest(memory, spec) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        await until(lambda: [guest.board.counters(vcpu).step for vcpu in (0, 1)] == [4, 1])
        snapshot = await guest.pause()
        assert guest.board.harvest_dirty().tolist() == [5]
    assert [counters.writes for counters in snapshot.counters] == [2, 1]
    assert [counters.mismatches for counters in snapshot.counters] == [0, 0]


async def test_an_access_of_a_trace_is_made_when_it_is_due(
    memory: GuestMemory, until: Until
) -> None:
    """Not before, and a stop brings none forward."""
    trace = Trace(
        np.array([0, 0, 1, 0], np.uint8), np.arange(4, dtype=np.uint64), np.zeros(4, np.bool_),
        np.array([0, 150, 200, 3_600_000], np.int64) * 1_000_000,
    )  # fmt: skip

    def made() -> list[int]:
        return [guest.board.counters(vcpu).step for vcpu in (0, 1)]

    async with open_guest(memory, ProgramSpec("trace", 2, seed=7, trace=trace)) as guest:
        guest.board.set_present(slice(None))
        began = trio.current_time()
        await guest.run()
        await until(lambda: made() == [2, 1])
        assert trio.current_time() - began >= 0.2
        for _ in range(2):
            await guest.pause()
            assert made() == [2, 1]
            await guest.run()


async def test_scripted_vcpus_touch_what_they_are_told_in_order(memory: GuestMemory) -> None:
    """Each vCPU works its orders off one by one; a page that is absent holds up the next."""
    async with open_guest(memory, ProgramSpec("scripted", 2, seed=7)) as guest:
        guest.board.set_present(slice(0, 10))
        await guest.touch(0, 3)
        await guest.touch(0, 50)
        await guest.touch(0, 4)
        await guest.run()
        assert await next_event(guest) == Touched(0, 3)
        fault = await next_event(guest)
        assert isinstance(fault, Faulted)
        assert fault.flat_page == 50
        await guest.touch(1, 5)
        assert await next_event(guest) == Touched(1, 5)
        guest.board.set_present(slice(50, 51))
        guest.wake(0)
        assert isinstance(await next_event(guest), Woke)
        assert [await next_event(guest) for _ in (0, 1)] == [Touched(0, 50), Touched(0, 4)]
        counters = (await guest.pause()).counters
    assert [each.reads_checked for each in counters] == [3, 1]
    assert [each.mismatches for each in counters] == [0, 0]


async def test_a_touch_that_waits_survives_a_pause(memory: GuestMemory) -> None:
    """What was not done before the pause is done after it, once."""
    async with open_guest(memory, ProgramSpec("scripted", 1, seed=7)) as guest:
        await guest.run()
        await guest.touch(0, 9)
        assert isinstance(await next_event(guest), Faulted)
        await guest.pause()
        guest.board.set_present(slice(None))
        await guest.run()
        assert await next_event(guest) == Touched(0, 9)
        assert (await guest.pause()).counters[0].reads_checked == 1


async def test_a_vcpu_waits_while_nobody_receives(memory: GuestMemory) -> None:
    """More reports than the socket holds are neither lost nor an error."""
    async with open_guest(memory, ProgramSpec("scripted", 1, seed=7)) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        for turn in range(3000):
            await guest.touch(0, turn % 1040)
        before = -1
        while (step := guest.board.counters(0).step) != before:
            before = step
            await trio.sleep(0.1)
        assert step < 3000, "the socket holds more than this test sends"
        events = [await next_event(guest) for _ in range(3000)]
    assert events == [Touched(0, turn % 1040) for turn in range(3000)]


async def test_a_guest_full_of_mismatches_can_be_paused(memory: GuestMemory, until: Until) -> None:
    """The reports of all vCPUs that there can be find room though nobody receives."""
    memory.words(0)[:] = 0
    async with open_guest(memory, ProgramSpec("sequential", 64, (1000.0,), seed=7)) as guest:
        guest.board.set_present(slice(None))
        await guest.run()
        await until(lambda: all(guest.board.counters(vcpu).mismatches for vcpu in range(64)))
        with trio.fail_after(10):
            await guest.pause()
