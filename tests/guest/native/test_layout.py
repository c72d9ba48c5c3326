"""The structs are those of the C source, and the program does what is filled in."""

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from guest.native import code
from guest.native.code import Told
from guest.native.layout import ProgramData, StateData
from guest.programs import Program
from guest.spec import NATIVE, ProgramSpec
from guest.trace import Trace
from tests.machines import GEOMETRY, bench, needs_native

SOURCE = (Path(code.__file__).parent / "program.c").read_text(encoding="ascii")
STEPS = 20_000


def fields_of(struct: str) -> list[str]:
    """Return the fields of a struct of the C source, in their order."""
    body = re.search(rf"struct {struct} {{(.*?)}};", SOURCE, re.DOTALL)
    assert body is not None
    bare = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
    names = []
    for declaration in bare.split(";"):
        names += re.findall(r"(\w+)\s*(?:\[\d+\])?\s*(?=,|$)", declaration.strip())
    return names


@pytest.mark.parametrize(("struct", "data"), [("program", ProgramData), ("state", StateData)])
def test_fields_are_those_of_the_source(struct: str, data: type[ctypes.Structure]) -> None:
    """Every field stands in its place, 64 bits wide but for the tables at the end."""
    assert [name for name, *_ in data._fields_] == fields_of(struct)
    widths = [getattr(data, name).size for name, *_ in data._fields_]
    assert all(width == 8 or width > 64 for width in widths)


@needs_native
@pytest.mark.parametrize("name", ["uniform", "sequential", "zipf", "hotspot", "trace"])
@pytest.mark.parametrize("vcpus", [1, 3])
def test_a_program_does_what_its_replay_does(name: str, vcpus: int) -> None:
    """Every byte is equal; every read is checked and counted, every write marked."""
    trace = None
    if name == "trace":
        random = np.random.default_rng(7)
        pages = random.integers(0, GEOMETRY.target_page_count, 2 * STEPS * vcpus, dtype=np.uint64)
        owners = random.integers(0, vcpus, len(pages), dtype=np.uint8)
        trace = Trace(owners, pages, random.random(len(pages)) < 0.3)
    ratio = 0.0 if trace else 0.3
    with bench(ProgramSpec(name, vcpus, write_ratio=ratio, seed=7, trace=trace)) as made:
        assert made.run(NATIVE, STEPS) == [Told.PARKED] * vcpus
        assert made.is_as_replayed()
        for vcpu in range(vcpus):
            counters = made.board.counters(vcpu)
            assert (counters.step, counters.reads_checked) == (STEPS, STEPS)
            assert not counters.mismatches
            assert 0 < counters.writes < STEPS
        assert made.board.accesses().get_total_count() == vcpus * STEPS
        assert made.board.dirty.any()


@needs_native
def test_an_image_is_not_checked_where_it_is_not_known() -> None:
    """What was never written is read and counted as unchecked, whatever lies there."""
    with bench(ProgramSpec("sequential", write_ratio=1.0, seed=7, image=True)) as made:
        made.memory.views[0][:] = bytes(len(made.memory.views[0]))
        pages = GEOMETRY.target_page_count
        made.run(NATIVE, pages + 10)
        counters = made.board.counters(0)
        assert (counters.reads_unchecked, counters.reads_checked) == (pages, 10)
        assert not counters.mismatches


@needs_native
def test_a_page_that_is_not_there_is_told_and_not_touched() -> None:
    """A vCPU that looks first comes back with the page; when it is there it goes on."""
    with bench(ProgramSpec("sequential", write_ratio=1.0, seed=7)) as made:
        made.board.clear_present(slice(3, 4))
        told, state = made.run_thread(0, 10)
        assert (told, state.page, state.step) == (Told.ABSENT, 3, 3)
        made.board.set_present(slice(3, 4))
        told, state = made.run_thread(0, 10, state)
        assert (told, state.step) == (Told.PARKED, 10)
        assert np.flatnonzero(made.board.dirty).tolist() == list(range(10))


@needs_native
def test_a_kernel_that_logs_is_left_to_it() -> None:
    """Then nothing is marked on the board."""
    with bench(ProgramSpec("sequential", write_ratio=1.0, seed=7)) as made:
        made.board.kernel_logs[0] = 1
        made.run(NATIVE, 10)
        assert not made.board.dirty.any()


@needs_native
def test_an_access_is_not_made_before_it_is_due() -> None:
    """A vCPU with a rate comes back when it is early, and says until when."""
    with bench(ProgramSpec("uniform", access_rates=(0.001,), seed=7)) as made:
        begin = 1 << 62  # By the wall clock, that is in the year 2116.
        told, state = made.run_thread(0, 10, StateData(start=begin))
        assert (told, state.step, state.due) == (Told.EARLY, 0, begin)
        state.step, state.first_step = 7, 5
        told, state = made.run_thread(0, 10, state)
        assert (told, state.step, state.due) == (Told.EARLY, 7, begin + 2 * 10**12)


@needs_native
def test_an_access_of_a_trace_is_due_when_it_says() -> None:
    """From the program's start; after a stop as long after the access before it as it says."""
    begin = 1 << 62  # By the wall clock, that is in the year 2116.
    times_ns = np.array([5, 100, 20, 90], np.int64)
    trace = Trace(
        np.array([0, 1, 0, 0], np.uint8), np.arange(4, dtype=np.uint64), np.zeros(4, np.bool_),
        times_ns,
    )  # fmt: skip
    spec = ProgramSpec("trace", 2, (1000.0,), seed=7, trace=trace)
    with bench(spec) as made:
        for step, first_step in ((0, 0), (2, 0), (1, 1), (2, 1)):
            state = StateData(start=begin, step=step, first_step=first_step)
            told, state = made.run_thread(0, 10, state)
            due = Program(spec, GEOMETRY).dues_ns(0, first_step, step, 1)
            assert due is not None
            assert (told, state.due - begin) == (Told.EARLY, due[0])
        # What is past is made at once, to the end.
        told, state = made.run_thread(0, 10, StateData())
        assert (told, state.step) == (Told.IDLE, 3)


@needs_native
def test_a_scripted_vcpu_touches_what_it_is_told_to() -> None:
    """It has nothing to do before, and nothing after."""
    with bench(ProgramSpec("scripted", seed=7)) as made:
        told, state = made.run_thread(0, 10)
        assert (told, state.step) == (Told.IDLE, 0)
        state.page, state.is_told = 2049, 1
        made.board.stopped[0] = 1
        told, state = made.run_thread(0, 10, state)
        assert told == Told.TOUCHED | Told.WOKE
        assert (state.page, state.step, made.board.stopped[0]) == (2049, 1, 0)
        assert state.before <= state.after
        assert made.run_thread(0, 10, state)[0] == Told.IDLE
