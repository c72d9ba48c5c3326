"""What DAMON saw becomes accesses: as often as it says, over the regions and times that it says."""

from collections import Counter
from pathlib import Path

import pytest

from guest.access_line import WrongLineError
from scripts.traces.damon import import_damon
from scripts.traces.found import Found, Wishes

FILES = Path(__file__).parent / "files"
MIB, MS, S = 1 << 20, 10**6, 10**9
HEAP, STACK = 0x55D0F8A00000, 0x7FFC0A1FF000
HEAD = "monitoring_start: 0 ns\nmonitoring_end: 1 ms\ntarget_id: 0\nnr_regions: 1\n"


def found(text: str, step_bytes: int = 2 * MIB) -> list[Found]:
    """Return what lines tell of."""
    lines = iter(text.splitlines(keepends=True))
    return list(import_damon(lines, Wishes(step_bytes=step_bytes)))


def test_the_raw_form_is_imported() -> None:
    """As damo report access --raw_form prints it (damo's USAGE.md, and its older `report raw`)."""
    accesses = found((FILES / "damon-raw.txt").read_text(encoding="utf-8"))
    base_ns = 3723 * S + 500 * MS
    pieces = [(each.address, (each.time_ns or 0) - base_ns) for each in accesses]
    # The heap's two pieces of 2 MiB twice, evenly over the interval; the stack across a border.
    assert pieces == [
        (HEAP, 0), (HEAP + 2 * MIB, 25 * MS), (HEAP, 50 * MS), (HEAP + 2 * MIB, 75 * MS),
        (STACK, 0), (0x7FFC0A200000, 50 * MS),
        (HEAP, 100 * MS), (HEAP + 2 * MIB, 150 * MS),
    ]  # fmt: skip
    assert {each.owner for each in accesses} == {"target 0"}


def test_the_trace_point_is_imported() -> None:
    """As in the kernel's Documentation/admin-guide/mm/damon/usage.rst; the first is at its end."""
    accesses = found((FILES / "damon-trace-point.txt").read_text(encoding="utf-8"))
    end_ns = 79357 * S + 842_179_000
    assert [each.time_ns for each in accesses[:2]] == [end_ns, end_ns]
    assert [((each.time_ns or 0) - end_ns) // MS for each in accesses[2:]] == [
        0, 16, 33, 50, 66, 83,
    ]  # fmt: skip
    assert Counter(each.address for each in accesses) == {58418 * 2 * MIB: 4, 58419 * 2 * MIB: 4}


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0 ns", 0), ("104.599 ms", 104_599_000), ("8 m 59.809 s", 539_809 * MS),
        ("23 h 20.852 s", 82_820_852 * MS), ("539809000123", 539_809_000_123),
        ("1,234 d 1 us", 1234 * 86400 * S + 1000),
    ],
)  # fmt: skip
def test_times_are_read_as_damo_writes_them(text: str, ns: int) -> None:
    """With units, and with --raw_number in nanoseconds."""
    (access,) = found(f"base_time_absolute: {text}\n{HEAD}1000-2000 (4096): 1\n")
    assert access.time_ns == ns


def test_what_was_not_accessed_is_no_access() -> None:
    """Neither 0 nor the -1 of a snapshot that damo made up."""
    assert found(f"{HEAD}1000-2000 (4.000 KiB)  0  3\n") == []
    assert found(f"{HEAD}0-1 (1 B)  -1  -1\n") == []


def test_a_step_says_how_much_an_access_stands_for() -> None:
    """Smaller steps make more accesses of the same region, each of which begins a step."""
    text = f"{HEAD}1800-4000 (10.000 KiB): 1\n"
    assert [each.address for each in found(text, 4096)] == [0x1800, 0x2000, 0x3000]
    assert [each.address for each in found(text, 2 * MIB)] == [0x1800]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1000-2000 (4096): 1\n", "nr_regions promises none"),
        (f"{HEAD}1000-2000 (4096): 1\n2000-3000 (4096): 1\n", "nr_regions promises none"),
        (f"{HEAD}2000-2000 (0 B): 1\n", "is no region"),
        (f"{HEAD}1000 - 2000 4096 1\n", "not a line of damo's raw form"),
        ("monitoring_start: 5 ms\nmonitoring_end: 4 ms\n", "ended before it started"),
        ("monitoring_start: 5 fortnights\n", "is not a time"),
        ("monitoring_start: 5 ms 3\n", "is not a time"),
        ("monitoring_start:\n", "is not a time"),
        ("base_time_absolute: 99999999 d\n", "is not a time"),
        ("nr_regions: many\n", "is not a number of regions"),
        ("colour: blue\n", "not a field"),
        (f"{HEAD}0-ffffffffffffffff (16 EiB): 9\n", "a larger --step makes fewer"),
        (f"{HEAD}0-1000 (4 KiB): 999999999\n", "a larger --step makes fewer"),
        ("x 1.000000: damon:damon_aggregated: target_id=0\n", "not as the kernel writes"),
    ],
)
def test_a_wrong_line_is_refused(text: str, reason: str) -> None:
    """Also one region that would stand for more accesses than any trace has."""
    with pytest.raises(WrongLineError, match=reason):
        found(text)
