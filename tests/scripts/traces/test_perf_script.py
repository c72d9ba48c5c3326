"""What perf script prints becomes accesses; what it prints of code and not of data is refused."""

from pathlib import Path

import pytest

from guest.access_line import WrongLineError
from scripts.traces.found import Found, Wishes
from scripts.traces.perf_script import import_perf

FILES = Path(__file__).parent / "files"


def found(text: str) -> list[Found]:
    """Return what lines tell of."""
    return list(import_perf(iter(text.splitlines(keepends=True)), Wishes()))


def test_page_faults_are_imported() -> None:
    """As perf 6.1 printed them with -F comm,tid,time,event,addr (perf-script(1), --fields)."""
    accesses = found((FILES / "perf-page-faults.txt").read_text(encoding="utf-8"))
    assert len(accesses) == 10
    assert accesses[0] == Found(0x7FEAD2B12B70, 25_317_791_970_000, "thread 10203")
    assert accesses[-1].address == 0x7FEAD29D65E0


def test_the_trace_point_tells_reads_from_writes() -> None:
    """As perf 6.1 printed exceptions:page_fault_user; bit 1 of the code is a write."""
    accesses = found((FILES / "perf-trace-point.txt").read_text(encoding="utf-8"))
    assert [each.is_write for each in accesses] == [False, True, True, False]
    assert [each.address for each in accesses[:3]] == [
        0x7FE47A2E7000, 0x7FE47A2E9000, 0x7FE47A2E5000,
    ]  # fmt: skip


def test_sampled_loads_and_stores_are_imported() -> None:
    """As perf script prints what perf mem record took (perf-mem(1); data_src and weight behind)."""
    accesses = found((FILES / "perf-mem.txt").read_text(encoding="utf-8"))
    assert [each.owner for each in accesses] == ["thread 4242", "thread 4243", "thread 4242"]
    assert [each.address for each in accesses] == [0x7F20C4003A40, 0x7F20C4201008, 0x7F20C4004000]
    assert [each.is_write for each in accesses] == [False, True, False]


@pytest.mark.parametrize(
    ("line", "address", "owner"),
    [
        ("10203 25317.792438:     7fead2804000 [unknown]     557ddfe16182 main\n", 0x7FEAD2804000,
         "thread 10203"),
        ("  a b 1/2 3 [1]  77/78 [000] 1.123456789:  1  page-faults: 1000\n", 0x1000, "thread 78"),
        ("t 5 1.000000: page-faults:u: ffff8000 \n", 0xFFFF8000, "thread 5"),
        ("swapper -1/0 [002] 9.000001: page-faults: 0\n", 0, "thread 0"),
    ],
)  # fmt: skip
def test_other_fields_are_no_hindrance(line: str, address: int, owner: str) -> None:
    """Names of any kind, processes, processors, periods, symbols, and nanoseconds."""
    (access,) = found(line)
    assert (access.address, access.owner) == (address, owner)


def test_remarks_and_call_chains_are_passed_over() -> None:
    """The access is what stands in the line with the time."""
    text = (
        "# captured on: today\n\nt 5 1.000000:  1 page-faults:  7f00\n"
        "\t    55d0f8a01234 main+0x14 (/usr/bin/t)\n\t    7fead29d65e0 exit (/lib/libc.so.6)\n\n"
    )
    assert [each.address for each in found(text)] == [0x7F00]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("base_time_absolute: 8 m 59.809 s\n", "not a line of perf script"),
        ("t 5 1.000000: 1 page-faults:u:  7fead2b12b70 _start+0x0 (/lib/ld.so)\n", "no address of"),
        ("t 5 1.000000: 1 page-faults:u:\n", "no address of data"),
        ("t 5 1.000000: 1 page-faults:u: xyz\n", "no address of data"),
        ("t 5 1.000000: e:p: address=_text ip=0x1 error_code=0x4\n", "no address of data"),
        ("t 5 1.000000: page-faults: 11112222333344445\n", "no address of data"),
        ("\x1b[31mred\n", "not a line"),
    ],
)
def test_a_wrong_line_is_refused(line: str, reason: str) -> None:
    """Above all where perf was not asked for the address of the data, and printed the code's."""
    with pytest.raises(WrongLineError, match=reason):
        found(line)


def test_a_long_line_of_blanks_takes_no_time() -> None:
    """No line makes the pattern try everything."""
    with pytest.raises(WrongLineError):
        found("Z 1" + " " * 8000 + "x" + " 1" * 2000 + "\n")
