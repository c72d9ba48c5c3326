"""What every read must find follows from the step, and a spec crosses or is refused."""

from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.pattern import Pattern
from guest.programs import PROGRAM_NAMES, AccessBatch, Program, ProgramSpec
from guest.spec import BAND_PROGRAMS
from guest.states import STEP_MAX
from guest.trace import Trace
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import Geometry, RamBlock
from protocol.limits import VCPU_COUNT_MAX


def guest_of(target_page_count: int) -> Geometry:
    """Return a guest of one block of base pages."""
    return Geometry((RamBlock("ram", target_page_count * 4096, 4096),))


class NaiveMemory:
    """Memory as a dict of slots that accesses are made on one by one."""

    def __init__(self, seed: int) -> None:
        self._pattern = Pattern(seed)
        self._slots: dict[tuple[int, int], int] = {}

    def _read(self, page: int, offset: int) -> int:
        if (page, offset) in self._slots:
            return self._slots[page, offset]
        where = np.array([page], np.uint64), np.array([offset // 8], np.uint64)
        return int(self._pattern.initial_values(*where)[0])

    def make(self, batch: AccessBatch) -> None:
        """Make the accesses, and check what each expects."""
        for i in range(len(batch)):
            page, offset = int(batch.flat_pages[i]), int(batch.slot_offsets[i])
            assert offset % 64 == 0
            assert 0 <= offset < 4096
            if batch.has_expected[i]:
                assert self._read(page, offset) == int(batch.expected[i])
            if batch.is_write[i]:
                self._slots[page, offset] = int(batch.new_values[i])


@st.composite
def traces(draw: st.DrawFn, page_count: int, vcpu_count: int) -> Trace:
    """Draw a short trace for a guest."""
    accesses = draw(
        st.lists(
            st.tuples(
                st.integers(0, vcpu_count - 1), st.integers(0, page_count - 1), st.booleans()
            ),
            max_size=60,
        )
    )
    times_ns = np.arange(len(accesses), dtype=np.int64)
    return Trace(
        np.array([access[0] for access in accesses], dtype=np.uint8),
        np.array([access[1] for access in accesses], dtype=np.uint64),
        np.array([access[2] for access in accesses], dtype=np.bool_),
        draw(st.sampled_from([None, times_ns])),
    )


def rates(vcpu_count: int) -> st.SearchStrategy[tuple[float, ...]]:
    """Draw one access rate for all vCPUs, or one for each."""
    rate = st.sampled_from([0.0, 1000.0])
    each = st.lists(rate, min_size=vcpu_count, max_size=vcpu_count)
    return st.one_of(st.tuples(rate), each.map(tuple))


@st.composite
def specs(draw: st.DrawFn, page_count: int) -> ProgramSpec:
    """Draw any program for a guest."""
    name = draw(st.sampled_from(PROGRAM_NAMES))
    vcpu_count = draw(st.integers(1, 4))
    return ProgramSpec(
        name=name,
        vcpu_count=vcpu_count,
        access_rates=draw(rates(vcpu_count)),
        write_ratio=draw(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))),
        seed=draw(st.integers(0, 2**64 - 1)),
        image=draw(st.booleans()),
        trace=draw(traces(page_count, vcpu_count)) if name == "trace" else None,
    )


@settings(max_examples=60)
@given(page_count=st.integers(1, 70), data=st.data())
def test_every_read_expects_what_was_written_last(page_count: int, data: st.DataObject) -> None:
    """The closed form agrees with a naive memory, for all vCPUs on the same memory."""
    spec = data.draw(specs(page_count))
    program = Program(spec, guest_of(page_count))
    memory = NaiveMemory(spec.seed)
    for step in range(0, 400, 100):
        for vcpu in range(spec.vcpu_count):
            memory.make(program.batch(vcpu, step, 100))


@given(page_count=st.integers(1, 70), step=st.integers(0, 300), data=st.data())
def test_a_batch_depends_on_nothing_before_it(
    page_count: int, step: int, data: st.DataObject
) -> None:
    """Another Program that starts in the middle goes on as the first: that is what migrates."""
    spec = data.draw(specs(page_count))
    whole = Program(spec, guest_of(page_count)).batch(0, 0, step + 50)
    rest = Program(spec, guest_of(page_count)).batch(0, step, 50)
    assert np.array_equal(whole.flat_pages[step:], rest.flat_pages)
    assert np.array_equal(whole.expected[step:], rest.expected)
    assert np.array_equal(whole.is_write[step:], rest.is_write)
    assert np.array_equal(whole.new_values[step:], rest.new_values)


def dues(program: Program, vcpu: int, first_step: int, step: int, count: int) -> list[int]:
    """Return when accesses are due, of a program that says so."""
    due = program.dues_ns(vcpu, first_step, step, count)
    assert due is not None
    return [int(each) for each in due]


def test_a_rate_makes_accesses_due_from_where_the_vcpu_began() -> None:
    """The first is due at once, wherever it stands; who goes without pause has no plan."""
    program = Program(ProgramSpec("uniform", 2, access_rates=(1000.0, 0.0)), guest_of(10))
    assert dues(program, 0, 0, 0, 3) == [0, 1_000_000, 2_000_000]
    assert dues(program, 0, 7, 9, 2) == [2_000_000, 3_000_000]
    assert program.dues_ns(1, 0, 0, 3) is None


def test_a_trace_makes_accesses_due_when_it_says() -> None:
    """From the program's start; after a stop as long after the access before it as it says."""
    trace = Trace(
        np.array([0, 1, 0, 0], np.uint8), np.arange(4, dtype=np.uint64),
        np.zeros(4, np.bool_), np.array([5, 100, 20, 90], np.int64),
    )  # fmt: skip
    program = Program(ProgramSpec("trace", 2, (1000.0,), trace=trace), guest_of(10))
    assert dues(program, 0, 0, 0, 9) == [5, 20, 90]
    assert dues(program, 0, 0, 1, 1) == [20]
    assert dues(program, 0, 1, 1, 9) == [15, 85]
    assert dues(program, 0, 2, 2, 9) == [70]
    assert dues(program, 1, 0, 0, 9) == [100]
    assert dues(program, 1, 1, 1, 9) == []


def test_slots_of_different_vcpus_differ() -> None:
    """No two of the most vCPUs that there can be share a word, on any page."""
    program = Program(ProgramSpec("sequential", VCPU_COUNT_MAX), guest_of(100))
    pages = np.arange(100, dtype=np.uint64)
    slots = np.array(
        [program.first_reads(vcpu, pages).slot_offsets for vcpu in range(VCPU_COUNT_MAX)]
    )
    for page in range(100):
        assert len(set(slots[:, page].tolist())) == VCPU_COUNT_MAX


def test_every_value_says_where_and_when_it_was_written() -> None:
    """No value comes twice: not on two pages, in two slots, or as two versions."""
    program = Program(ProgramSpec("uniform", 2, write_ratio=1.0), guest_of(100))
    values = [program.batch(vcpu, 0, 1000) for vcpu in (0, 1)]
    every = np.concatenate([v.new_values for v in values] + [v.expected[:100] for v in values])
    assert len(np.unique(every)) == 2200


@pytest.mark.parametrize("name", BAND_PROGRAMS)
@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.3, 0.5, 0.999, 1.0])
def test_the_write_ratio_is_kept(name: str, ratio: float) -> None:
    """Of many accesses the asked share writes."""
    program = Program(ProgramSpec(name, write_ratio=ratio), guest_of(1000))
    share = np.count_nonzero(program.batch(0, 0, 50_000).is_write) / 50_000
    assert share == pytest.approx(ratio, abs=0.01)


def test_programs_are_exact_to_the_last_step() -> None:
    """The arithmetic does not overflow at the greatest step on the smallest guest."""
    program = Program(ProgramSpec("uniform", write_ratio=1.0), guest_of(1))
    batch = program.batch(0, STEP_MAX - 2, 3)
    assert batch.is_write.all()
    assert np.array_equal(batch.new_values[:-1], batch.expected[1:])


def test_reads_of_an_image_guest_are_unchecked_until_written() -> None:
    """Nobody knows what an image holds, and the program does not pretend to."""
    program = Program(ProgramSpec("sequential", write_ratio=1.0, image=True), guest_of(10))
    assert program.batch(0, 0, 30).has_expected.tolist() == [False] * 10 + [True] * 20


def test_a_trace_ends() -> None:
    """After its last access a vCPU has nothing to do."""
    trace = Trace(np.zeros(3, np.uint8), np.arange(3, dtype=np.uint64), np.ones(3, np.bool_))
    program = Program(ProgramSpec("trace", 2, trace=trace), guest_of(3))
    assert len(program.batch(0, 1, 10)) == 2
    assert len(program.batch(0, 3, 10)) == 0
    assert len(program.batch(1, 0, 10)) == 0


def test_scripted_vcpus_do_nothing_by_themselves() -> None:
    """Their reads, when told, expect the guest's first contents."""
    program = Program(ProgramSpec("scripted", seed=5), guest_of(3))
    assert len(program.batch(0, 0, 10)) == 0
    read = program.first_reads(0, np.array([2], dtype=np.uint64))
    expected = Pattern(5).initial_values(read.flat_pages, read.slot_offsets // np.uint64(8))
    assert read.expected.tolist() == expected.tolist()
    assert not read.is_write.any()


@settings(max_examples=40)
@given(page_count=st.integers(1, 70), data=st.data())
def test_a_spec_crosses(page_count: int, data: st.DataObject) -> None:
    """Through msgpack and back a spec gives the same program."""
    spec = data.draw(specs(page_count))
    plain = msgpack.unpackb(msgpack.packb(spec.to_plain()))
    crossed = ProgramSpec.from_plain(plain, guest_of(page_count))
    assert crossed.name == spec.name
    ours, theirs = (replace(each, name="scripted", trace=None) for each in (spec, crossed))
    assert ours == theirs
    made, remade = (Program(each, guest_of(page_count)).batch(0, 7, 50) for each in (spec, crossed))
    assert np.array_equal(made.flat_pages, remade.flat_pages)
    assert np.array_equal(made.expected, remade.expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "random"},
        {"name": 5},
        {"name": "trace"},
        {"vcpu-count": 0},
        {"vcpu-count": VCPU_COUNT_MAX + 1},
        {"vcpu-count": True},
        {"vcpu-count": 1.0},
        {"access-rates": [-1.0]},
        {"access-rates": [1e12]},
        {"access-rates": [float("nan")]},
        {"access-rates": [float("inf")]},
        {"access-rates": []},
        {"access-rates": [1.0, 2.0]},
        {"access-rates": [1]},
        {"access-rates": ["1"]},
        {"access-rates": 1.0},
        {"write-ratio": 1.5},
        {"write-ratio": float("nan")},
        {"write-ratio": 1},
        {"seed": -1},
        {"seed": 1 << 64},
        {"image": 1},
        {"trace": {}},
        {"trace": Trace(*(np.zeros(1, kind) for kind in ("u1", "u8", "?"))).to_plain()},
        {"more": 1},
    ],
)
def test_a_wrong_spec_is_refused(wrong: dict[str, Any]) -> None:
    """A field that is missing, too many, of the wrong type or out of range is the peer's fault."""
    plain = ProgramSpec("uniform").to_plain()
    with pytest.raises(RemoteProtocolError):
        ProgramSpec.from_plain({**plain, **wrong}, guest_of(4))


@pytest.mark.parametrize("plain", [None, [], {}, "uniform", {1: 2}])
def test_what_is_no_spec_is_refused(plain: object) -> None:
    """So is anything that is no dict of exactly the fields."""
    with pytest.raises(RemoteProtocolError):
        ProgramSpec.from_plain(plain, guest_of(4))


def test_a_wrong_value_here_is_our_fault() -> None:
    """The same check in this process blames this side."""
    with pytest.raises(LocalProtocolError, match="random"):
        ProgramSpec("random")
