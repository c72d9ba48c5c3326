"""What a real QEMU logged of its postcopy faults becomes accesses."""

from pathlib import Path

import pytest

from guest.access_line import WrongLineError
from scripts.traces.found import Found, Wishes
from scripts.traces.qemu_log import import_qemu

LOG = Path(__file__).parent / "files" / "qemu.log"
LINE = "postcopy_ram_fault_thread_request Request for HVA=0x7f00 rb=pc.ram offset=0x1000 pid=7\n"


def found(text: str) -> list[Found]:
    """Return what lines tell of."""
    return list(import_qemu(iter(text.splitlines(keepends=True)), Wishes()))


def test_a_real_log_is_imported() -> None:
    """Of QEMU 7.2.22 with -msg timestamp=on: its words are in its migration/trace-events."""
    accesses = found(LOG.read_text(encoding="utf-8"))
    assert [(each.block, each.address) for each in accesses] == [
        ("pc.bios", 0x2B000), ("pc.bios", 0x2A000), ("pc.ram", 0xEA000), ("pc.ram", 0xEB000),
        ("pc.bios", 0x38000), ("pc.bios", 0x3F000), ("pc.ram", 0xE7000), ("pc.ram", 0xDB000),
        ("pc.ram", 0x2FFF000), ("pc.ram", 0x2FEB000),
    ]  # fmt: skip
    assert accesses[0].time_ns == 1796059275_029362000
    assert {each.owner for each in accesses} == {"thread 20317"}


def test_without_timestamps_there_are_no_times() -> None:
    """QEMU logs without them unless it is told to; what else it says is passed over."""
    assert found("qemu-system-x86_64: -incoming defer\n" + LINE) == [
        Found(0x1000, None, "thread 7", "pc.ram")
    ]
    (access,) = found(LINE.replace("pc.ram", "/objects/mem 0"))
    assert access.block == "/objects/mem 0"


@pytest.mark.parametrize("wrong", ["rb=pc.ram ", "offset=", "0x1000", "pid=7", "Request for "])
def test_a_wrong_line_is_refused(wrong: str) -> None:
    """The event without one of its parts was not logged by QEMU."""
    with pytest.raises(WrongLineError, match="not as QEMU logs"):
        found(LINE.replace(wrong, ""))
