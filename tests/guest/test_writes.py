"""What a guest has changed since it began is counted from its program alone."""

import numpy as np
import pytest

from guest import writes
from guest.programs import Program, ProgramSpec
from guest.slices import finish
from guest.spec import BAND_PROGRAMS
from guest.states import VcpuState
from guest.trace import Trace
from guest.writes import Written, count_written
from protocol.geometry import Geometry, RamBlock

GUEST = Geometry((RamBlock("ram", 256 << 10, 4096), RamBlock("rom", 20 << 10, 4096)))


def states(*steps: int) -> tuple[VcpuState, ...]:
    """Return the state of each vCPU."""
    return tuple(VcpuState(vcpu, step) for vcpu, step in enumerate(steps))


@pytest.mark.parametrize("name", BAND_PROGRAMS)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_pages_are_counted_once(name: str, ratio: float) -> None:
    """Whoever writes to a page, and however often, it is one page that differs."""
    program = Program(ProgramSpec(name, 2, (0.0,), ratio, 7, image=True), GUEST)
    for steps in ((0, 0), (5, 40), (200, 3)):
        pages: set[int] = set()
        for vcpu, count in enumerate(steps):
            batch = program.batch(vcpu, 0, count)
            pages |= set(batch.flat_pages[batch.is_write].tolist())
        written = finish(count_written(program, GUEST, states(*steps)))
        assert written == Written(len(pages), is_whole=True)


def test_a_trace_ends() -> None:
    """Steps that nobody made write nothing."""
    trace = Trace(
        np.zeros(3, dtype=np.uint8), np.array([4, 4, 9], dtype=np.uint64), np.array([True] * 3)
    )
    program = Program(ProgramSpec("trace", 1, trace=trace), GUEST)
    assert finish(count_written(program, GUEST, states(100))) == Written(2, is_whole=True)


def test_long_runs_are_counted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many steps it is at least what was found; where all is written there is no more."""
    monkeypatch.setattr(writes, "_BATCH_STEPS", 10)
    monkeypatch.setattr(writes, "_BATCH_COUNT_MAX", 3)
    program = Program(ProgramSpec("sequential", 1, write_ratio=1.0, image=True), GUEST)
    assert finish(count_written(program, GUEST, states(30))) == Written(30, is_whole=True)
    assert finish(count_written(program, GUEST, states(31))) == Written(30, is_whole=False)
    monkeypatch.setattr(writes, "_BATCH_COUNT_MAX", 100)
    everything = Written(GUEST.target_page_count, is_whole=True)
    assert finish(count_written(program, GUEST, states(1 << 30))) == everything
