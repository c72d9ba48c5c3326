"""The checked-in machine code is what its source makes, by what it does, and can be called."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from guest.native import code
from guest.native.code import Told, functions, load
from guest.spec import ProgramSpec
from protocol.errors import GuestFailed
from tests.machines import bench, needs_native

NATIVE_FOLDER = Path(code.__file__).parent


def test_reasons_are_those_of_the_source() -> None:
    """The names and numbers in which the program tells why it comes back are told once each."""
    source = (NATIVE_FOLDER / "program.c").read_text(encoding="ascii")
    told = dict(re.findall(r"^    ([A-Z]+) = ([0-9]+)", source, re.MULTILINE))
    assert told == {each.name: str(each.value) for each in Told}


@needs_native
def test_the_counter_goes_up() -> None:
    """The time stamp counter is read by the code itself."""
    read = functions().counter
    assert 0 < read() < read()


@needs_native
@pytest.mark.parametrize("name", ["uniform", "zipf", "hotspot", "sequential"])
def test_the_source_makes_a_program_that_does_the_same(name: str, tmp_path: Path) -> None:
    """Another compiler's bytes may differ; what they do to memory does not."""
    for tool in ("gcc", "ld", "objcopy"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    built = tmp_path / "program.bin"
    subprocess.run([NATIVE_FOLDER / "build", built], check=True)
    spec = ProgramSpec(name, 2, write_ratio=0.4, seed=11)
    counters = []
    for made in (functions(), load(built.read_bytes())):
        with bench(spec) as guest:
            told = [guest.run_thread(vcpu, 5000, code=made)[0] for vcpu in range(2)]
            assert told == [Told.PARKED, Told.PARKED]
            assert guest.is_as_replayed()
            counters.append([guest.board.counters(vcpu).writes for vcpu in range(2)])
    assert counters[0] == counters[1]


def test_memory_that_may_not_be_executed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel refuses, the guest's process can say why."""

    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("guest.native.code.libc.map_executable", deny)
    with pytest.raises(GuestFailed, match="memory that can be executed: Permission denied"):
        load(b"\xc3")
