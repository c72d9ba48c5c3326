"""A file becomes a trace within bounds, and every complaint has its place in the file."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.access_line import WrongLineError
from guest.trace import read_trace
from protocol.errors import LocalProtocolError
from protocol.units import parse_geometry
from scripts.traces import importing
from scripts.traces.found import ADDRESS_MAX, CLOCK_NS_MAX, LINE_CHARS_MAX, Found, Wishes
from scripts.traces.importing import IMPORTERS, Imported, Window, import_file

FILES = Path(__file__).parent / "files"
MIB = 1 << 20


def imported(folder: Path, text: str, window: Window = Window()) -> Imported:  # noqa: B008
    """Import a CSV file with this text."""
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return import_file(path, "csv", Wishes(), window)


def refusal(folder: Path, text: str, window: Window = Window()) -> str:  # noqa: B008
    """Return why such a file is refused, behind its name."""
    with pytest.raises(LocalProtocolError) as refused:
        imported(folder, text, window)
    return str(refused.value).removeprefix(str(folder / "t.csv"))


@pytest.mark.parametrize(
    ("kind", "file", "count"),
    [
        ("csv", "accesses.csv", 3), ("perf", "perf-page-faults.txt", 10),
        ("perf", "perf-trace-point.txt", 4), ("perf", "perf-mem.txt", 3),
        ("damon", "damon-raw.txt", 8), ("damon", "damon-trace-point.txt", 8),
        ("qemu", "qemu.log", 10), ("events", "events.jsonl", 4),
    ],
)  # fmt: skip
def test_each_tools_file_makes_a_trace_that_is_read(
    tmp_path: Path, kind: str, file: str, count: int
) -> None:
    """Its accesses fit in a guest that is no larger than what they touch, and begin at time 0."""
    made = import_file(FILES / file, kind, Wishes(), Window(pack_bytes=2 * MIB))
    path = tmp_path / "out"
    path.write_text("".join(made.lines()), encoding="utf-8")
    trace = read_trace(path, parse_geometry("16MiB", "2MiB"), 64)
    assert trace.access_count == count
    assert trace.times_ns is not None
    assert trace.times_ns[0] == 0


def test_all_importers_have_a_file() -> None:
    """None is left out above."""
    assert set(IMPORTERS) == {"csv", "perf", "damon", "qemu", "events"}


def test_a_window_maps_addresses_into_the_guest(tmp_path: Path) -> None:
    """What is outside is passed over and counted; what is inside counts from its beginning."""
    window = Window(base=0x7F00_0000_0000, length_bytes=2 * MIB, block="ram")
    text = "address\n0x7f0000000000\n0x7f00001fffff\n0x7f0000200000\n0x1000\n"
    made = imported(tmp_path, text, window)
    assert list(made.lines()) == ["0 ram 0x0 r\n", "0 ram 0x1fffff r\n"]
    assert made.outside_count == 2
    assert made.ends() == {"ram": 2 * MIB}
    assert refusal(tmp_path, "address\n1\n", window) == (
        " tells of no access, and 1 outside --base and --size"
    )


def test_touched_pieces_are_laid_together(tmp_path: Path) -> None:
    """In the order of their addresses, each block's behind the one before; offsets stay."""
    text = (
        "address,block\n0x7f0000003000,a\n0x1000,a\n0x7f0000000010,a\n0x1000,b\n"
        "0xffffffffffffffff,a\n"
    )
    made = imported(tmp_path, text, Window(pack_bytes=8192))
    assert [line.split()[1] for line in made.lines()] == [
        "0x5000", "0x1000", "0x2010", "0x9000", "0x7fff",
    ]  # fmt: skip
    assert made.ends() == {"": 0x9001}


def test_accesses_stand_in_the_order_of_their_times(tmp_path: Path) -> None:
    """Those of one time in that of the file; the first is at 0."""
    made = imported(tmp_path, "time,vcpu,address\n7,0,1\n5.5,1,2\n7,2,3\n5.5,3,4\n")
    assert list(made.lines()) == [
        "@0.000000000 1 0x2 r\n", "@0.000000000 3 0x4 r\n", "@1.500000000 0 0x1 r\n",
        "@1.500000000 2 0x3 r\n",
    ]  # fmt: skip


def test_accesses_of_one_time_keep_their_order(tmp_path: Path) -> None:
    """However many there are."""
    rows = "".join(f"{number % 2},{number}\n" for number in range(1000))
    made = imported(tmp_path, f"time,address\n{rows}")
    assert made.addresses.tolist() == [*range(0, 1000, 2), *range(1, 1000, 2)]


def test_threads_become_vcpus_in_the_order_in_which_they_appear(tmp_path: Path) -> None:
    """Up to as many as a guest has."""
    rows = "".join(f"1,{tid}\n" for tid in (900, 7, 900, 1))
    made = imported(tmp_path, f"address,tid\n{rows}")
    assert made.vcpus.tolist() == [0, 1, 0, 2]
    rows = "".join(f"1,{tid}\n" for tid in range(65))
    assert refusal(tmp_path, f"address,tid\n{rows}").startswith(":66: thread 64 is one more than")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("address\n1\nx\n", ":3: 'x' is not an address"),
        ("address\n0x7f0000000000\n", ":2: 0x7f0000000000 is past what a guest can have; --base"),
        ("address,block\n1,a  b\n", ":2: no trace can name a RAMBlock 'a  b'"),
        ("address,block\n1,#a\n", ":2: no trace can name a RAMBlock '#a'"),
        ("address,block\n1,\u00e9\n", ":2: no trace can name a RAMBlock"),
        ("address,block\n1," + "x" * 65 + "\n", ":2: no trace can name a RAMBlock"),
        ("address\n" + "1" * LINE_CHARS_MAX + "1\n", f":2: longer than {LINE_CHARS_MAX}"),
        ("address\n1\0\n", ":2: not a text file"),
        ("address,time\n1,0\n1,4e9\n", ": its times are more than thirty years apart"),
        ("address\n", " tells of no access"),
        ("address,block\n" + "".join(f"1,b{n}\n" for n in range(65)), ":66: more than 64 RAMB"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, reason: str) -> None:
    """FILE:LINE: reason, as far as it is of a line."""
    assert refusal(tmp_path, text).startswith(reason)


def test_more_accesses_than_a_trace_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the window and outside, while they are read."""
    monkeypatch.setattr(importing, "TIMED_ACCESS_COUNT_MAX", 2)
    monkeypatch.setattr(importing, "TRACE_LINE_COUNT_MAX", 2)
    text = "address\n" + "0\n" * 4
    assert refusal(tmp_path, text) == ":4: more than 2 accesses"
    assert refusal(tmp_path, text, Window(base=1)) == ":4: more than 2 accesses outside"


SAMPLES = {
    kind: [
        line
        for path in sorted(FILES.iterdir())
        if path.name.startswith(begin)
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
    ]
    for kind, begin in (
        ("csv", "accesses"), ("perf", "perf"), ("damon", "damon"), ("qemu", "qemu"),
        ("events", "events"),
    )
}  # fmt: skip


@st.composite
def damaged_lines(draw: st.DrawFn, kind: str) -> list[str]:
    """Draw lines of a tool's file in any order, some of them with parts cut out or put in."""
    lines = draw(st.lists(st.sampled_from(SAMPLES[kind]), min_size=1, max_size=6))
    for index in draw(st.sets(st.integers(0, len(lines) - 1))):
        line = lines[index]
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(line))] * 2)))
        lines[index] = line[:start] + draw(st.text(max_size=8)) + line[stop:]
    return lines


@pytest.mark.parametrize("kind", IMPORTERS)
@settings(max_examples=200)
@given(data=st.data())
def test_whatever_a_file_holds_it_is_imported_or_refused(kind: str, data: st.DataObject) -> None:
    """Nothing but accesses that can be written, or the one error that gets a place."""
    found: list[Found] = []
    with suppress(WrongLineError):
        found.extend(IMPORTERS[kind](iter(data.draw(damaged_lines(kind))), Wishes()))
    for each in found:
        assert 0 <= each.address <= ADDRESS_MAX
        assert each.time_ns is None or 0 <= each.time_ns <= CLOCK_NS_MAX
        assert isinstance(each.owner, str) or 0 <= each.owner < 64


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Its name and the kernel's reason."""
    with pytest.raises(LocalProtocolError, match=r"none: No such file"):
        import_file(tmp_path / "none", "csv", Wishes(), Window())
