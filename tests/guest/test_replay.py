"""Writes, replayed, give the memory that the vCPUs have, and are counted from the program alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest import replay as replay_module
from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.programs import Program, ProgramSpec
from guest.replay import Written, count_written, replay
from guest.slices import finish
from guest.spec import BAND_PROGRAMS
from guest.states import VcpuState
from guest.trace import Trace
from protocol.errors import RemoteProtocolError
from protocol.geometry import Geometry, RamBlock

GUEST = Geometry((RamBlock("ram", 64 << 10, 4096), RamBlock("rom", 20 << 10, 4096)))


def naive(memory: GuestMemory, program: Program, start: list[int], stop: list[int]) -> None:
    """Make the writes one by one."""
    for vcpu, (first, last) in enumerate(zip(start, stop, strict=True)):
        batch = program.batch(vcpu, first, last - first)
        for i in np.flatnonzero(batch.is_write).tolist():
            block, page = memory.geometry.locate(int(batch.flat_pages[i]))
            word = page * 512 + int(batch.slot_offsets[i]) // 8
            memory.words(block)[word] = batch.new_values[i]


def states(steps: list[int]) -> tuple[VcpuState, ...]:
    """Return the state of each vCPU."""
    return tuple(VcpuState(vcpu, step) for vcpu, step in enumerate(steps))


@settings(max_examples=40)
@given(
    name=st.sampled_from(BAND_PROGRAMS),
    ratio=st.sampled_from([0.0, 0.3, 1.0]),
    starts=st.lists(st.integers(0, 300), min_size=2, max_size=2),
    lengths=st.lists(st.integers(0, 300), min_size=2, max_size=2),
)
def test_replay_agrees_with_one_write_after_another(
    name: str, ratio: float, starts: list[int], lengths: list[int]
) -> None:
    """Whatever the program and the states, of several writes to a word the last stays."""
    stops = [start + length for start, length in zip(starts, lengths, strict=True)]
    program = Program(ProgramSpec(name, 2, write_ratio=ratio, seed=3), GUEST)
    with GuestMemory.create(GUEST) as replayed, GuestMemory.create(GUEST) as expected:
        for memory in (replayed, expected):
            finish(Pattern(3).fill(memory))
        finish(replay(replayed, program, states(starts), states(stops)))
        naive(expected, program, starts, stops)
        assert replayed.views == expected.views


def test_replay_is_cut_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps give many slices, which together are as one."""
    program = Program(ProgramSpec("uniform", 1, write_ratio=1.0, seed=3), GUEST)
    with GuestMemory.create(GUEST) as replayed, GuestMemory.create(GUEST) as expected:
        finish(replay(expected, program, states([10]), states([110])))
        monkeypatch.setattr("guest.replay._BATCH_STEPS", 30)
        assert list(replay(replayed, program, states([10]), states([110]))) == [30, 30, 30, 10]
        assert replayed.views == expected.views


def test_replay_ends_where_a_trace_ends() -> None:
    """A peer that claims more steps than the trace has does not keep us busy."""
    trace = Trace(np.zeros(2, np.uint8), np.arange(2, dtype=np.uint64), np.ones(2, np.bool_))
    program = Program(ProgramSpec("trace", 1, trace=trace), GUEST)
    with GuestMemory.create(GUEST) as memory:
        assert len(list(replay(memory, program, states([0]), states([1 << 39])))) == 1
        assert np.count_nonzero(memory.words(0)) == 2


@pytest.mark.parametrize("stops", [[5, 4], [5], [5, 5, 5]])
def test_states_that_go_back_are_refused(stops: list[int]) -> None:
    """A vCPU does not unmake accesses, and there are no more or fewer of them than before."""
    program = Program(ProgramSpec("uniform", 2), GUEST)
    with GuestMemory.create(GUEST) as memory, pytest.raises(RemoteProtocolError):
        finish(replay(memory, program, states([5, 5]), states(stops)))


LARGER = Geometry((RamBlock("ram", 256 << 10, 4096), RamBlock("rom", 20 << 10, 4096)))


@pytest.mark.parametrize("name", BAND_PROGRAMS)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_pages_are_counted_once(name: str, ratio: float) -> None:
    """Whoever writes to a page, and however often, it is one page that differs."""
    program = Program(ProgramSpec(name, 2, (0.0,), ratio, 7, image=True), LARGER)
    for steps in ((0, 0), (5, 40), (200, 3)):
        pages: set[int] = set()
        for vcpu, count in enumerate(steps):
            batch = program.batch(vcpu, 0, count)
            pages |= set(batch.flat_pages[batch.is_write].tolist())
        written = finish(count_written(program, LARGER, states([*steps])))
        assert written == Written(len(pages), is_whole=True)


def test_a_trace_ends() -> None:
    """Steps that nobody made write nothing."""
    trace = Trace(
        np.zeros(3, dtype=np.uint8), np.array([4, 4, 9], dtype=np.uint64), np.array([True] * 3)
    )
    program = Program(ProgramSpec("trace", 1, trace=trace), LARGER)
    assert finish(count_written(program, LARGER, states([100]))) == Written(2, is_whole=True)


def test_long_runs_are_counted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many steps it is at least what was found; where all is written there is no more."""
    monkeypatch.setattr(replay_module, "_BATCH_STEPS", 10)
    monkeypatch.setattr(replay_module, "_BATCH_COUNT_MAX", 3)
    program = Program(ProgramSpec("sequential", 1, write_ratio=1.0, image=True), LARGER)
    assert finish(count_written(program, LARGER, states([30]))) == Written(30, is_whole=True)
    assert finish(count_written(program, LARGER, states([31]))) == Written(30, is_whole=False)
    monkeypatch.setattr(replay_module, "_BATCH_COUNT_MAX", 100)
    everything = Written(LARGER.target_page_count, is_whole=True)
    assert finish(count_written(program, LARGER, states([1 << 30]))) == everything
