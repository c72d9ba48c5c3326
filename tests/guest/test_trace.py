"""The trace format is read, and every wrong line refused with its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guest import trace as trace_module
from guest.trace import Trace, read_trace, write_trace
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import Geometry, RamBlock
from protocol.units import parse_geometry

GUEST = Geometry(
    (RamBlock("ram", 4 << 20, 2 << 20), RamBlock("video ram#2", 64 << 10, 4096)),
)


def read(tmp_path: Path, text: str) -> Trace:
    """Read a trace of two vCPUs from a file with this text."""
    path = tmp_path / "t.trace"
    path.write_text(text, encoding="utf-8")
    return read_trace(path, GUEST, 2)


def test_a_trace_is_read(tmp_path: Path) -> None:
    """Numbers, offsets, comments, empty lines, and names with spaces and a #."""
    trace = read(
        tmp_path,
        "# all\n\n0 ram 0 r\n0 ram 1+3 w  # a remark\n\t1  video ram#2 15+0 r\n1 ram 1+511 w\n",
    )
    assert trace.vcpus.tolist() == [0, 0, 1, 1]
    assert trace.is_write.tolist() == [False, True, False, True]
    assert trace.flat_pages.tolist() == [0, 515, 1024 + 15, 1023]


def test_all_but_the_place_may_be_left_out(tmp_path: Path) -> None:
    """Without a vCPU it is the first, without a block the whole guest, without r or w a read."""
    trace = read(tmp_path, "1\n1 1+1\nvideo ram#2 2 w\n1 ram 0x3fffff\n0x400fff w\n1 3 r\n")
    assert trace.vcpus.tolist() == [0, 1, 0, 1, 0, 1]
    assert trace.is_write.tolist() == [False, False, True, False, True, False]
    # Pages of the whole guest are counted block by block: two of 2 MiB, then those of 4 KiB.
    assert trace.flat_pages.tolist() == [512, 513, 1026, 1023, 1024, 1025]
    assert trace.times_ns is None


def test_an_address_names_the_same_bytes_whatever_the_page_size(tmp_path: Path) -> None:
    """What a page is differs, and with it what a page index means; what an address means, not."""
    path = tmp_path / "t.trace"
    path.write_text("0x5123\nram 0x200000 w\n", encoding="utf-8")
    traces = [
        read_trace(path, parse_geometry("4MiB", page_size), 1) for page_size in ("2MiB", "4KiB")
    ]
    assert [trace.flat_pages.tolist() for trace in traces] == [[5, 512], [5, 512]]


def test_times_are_read_to_nanoseconds(tmp_path: Path) -> None:
    """Seconds with up to nine digits behind the point; each vCPU's own do not go back."""
    trace = read(tmp_path, "@0 1 0\n@2.5 1 1\n@1.000000001 0 1 w\n@2.5 1 0\n")
    assert trace.times_ns is not None
    assert trace.times_ns.tolist() == [0, 2_500_000_000, 1_000_000_001, 2_500_000_000]
    for wrong, reason in (
        ("@2.4 1 0", "its time is before that of vCPU 1's last access"),
        ("1 0", "it has no time, and the lines before have one"),
    ):
        with pytest.raises(LocalProtocolError) as refused:
            read(tmp_path, f"@2.5 1 0\n@0.5 0 0\n{wrong}\n")
        assert str(refused.value) == f"{tmp_path / 't.trace'}:3: {reason}"


def test_what_vcpus_have_not_made_is_left(tmp_path: Path) -> None:
    """Of each vCPU what lies behind its step; who has no accesses has none left."""
    trace = read(tmp_path, "0 0\n1 0\n0 1\n0 0\n")
    assert trace.left_after([1, 0]) == 3
    assert trace.left_after([3, 1]) == 0
    assert trace.left_after([9, 0, 5]) == 1
    assert read(tmp_path, "").left_after([0, 0]) == 0


def test_an_empty_file_is_an_empty_trace(tmp_path: Path) -> None:
    """No access is allowed."""
    assert len(read(tmp_path, "").vcpus) == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("@0.1", "[VCPU] [BLOCK] PAGE"),
        ("r", "[VCPU] [BLOCK] PAGE"),
        ("2 ram 0 r", "not a vCPU from 0 to 1"),
        ("-1 ram 0 r", "not a vCPU"),
        ("x ram 0 r", "not a vCPU"),
        ("\u0661 ram 0 r", "not a vCPU"),
        ("0 rom 0 r", "no RAMBlock is named 'rom'"),
        ("0 ram 2 r", "outside RAMBlock 'ram' of 2 pages"),
        ("0 ram 99999999999999999999 r", "not PAGE"),
        ("0 ram 0+512 r", "outside a page of 512"),
        ("0 ram 0x1g r", "not PAGE"),
        ("0 ram 0x400000 r", "0x400000 is outside RAMBlock 'ram' of 0x400000 bytes"),
        ("0 0x410000 r", "0x410000 is outside a guest of 0x410000 bytes"),
        ("0 18 r", "page 18 is outside a guest of 18 pages"),
        ("@0.1 0 ram 0 r", "it has a time, and the lines before have none"),
        ("@1e3 0 ram 0 r", "'@1e3' is not a time"),
        ("@1.0000000001 0 ram 0 r", "is not a time"),
        ("0 ram 1+ r", "not PAGE"),
        ("0 ram 1 rw", "neither r nor w"),
        ("0 ram 0 r " + "x" * 1000, "longer than"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(tmp_path: Path, line: str, reason: str) -> None:
    """The message begins FILE:LINE: and says why."""
    with pytest.raises(LocalProtocolError) as refused:
        read(tmp_path, f"0 ram 0 r\n\n{line}\n")
    assert str(refused.value).startswith(f"{tmp_path / 't.trace'}:3: ")
    assert reason in str(refused.value)


def test_too_many_accesses_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is checked while reading, not when memory has run out."""
    monkeypatch.setattr(trace_module, "TRACE_ACCESS_COUNT_MAX", 3)
    with pytest.raises(LocalProtocolError, match=":4: more than 3"):
        read(tmp_path, "0 ram 0 r\n" * 5)


def test_a_file_of_remarks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that hold no access are counted, too."""
    monkeypatch.setattr(trace_module, "TRACE_LINE_COUNT_MAX", 3)
    assert len(read(tmp_path, "# a remark\n" * 3).vcpus) == 0
    with pytest.raises(LocalProtocolError, match=":4: more than 3 lines"):
        read(tmp_path, "\n" * 4)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, a directory and a binary file are named in one line."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing", tmp_path, binary):
        with pytest.raises(LocalProtocolError, match=str(path)):
            read_trace(path, GUEST, 2)


def test_a_trace_crosses(tmp_path: Path) -> None:
    """What was made plain comes back equal."""
    trace = read(tmp_path, "0 ram 0 r\n1 ram 1+3 w\n")
    crossed = Trace.from_plain(trace.to_plain(), GUEST, 2)
    for field in ("vcpus", "flat_pages", "is_write"):
        assert np.array_equal(getattr(trace, field), getattr(crossed, field))


def test_times_cross_where_there_are_some(tmp_path: Path) -> None:
    """A trace without times says nothing of them, which is what earlier peers know."""
    plain = read(tmp_path, "0 0\n").to_plain()
    assert plain.keys() == {"vcpus", "flat-pages", "is-write"}
    timed = read(tmp_path, "@0.5 0 0\n@0.25 1 1 w\n")
    crossed = Trace.from_plain(timed.to_plain(), GUEST, 2)
    assert crossed.times_ns is not None
    assert crossed.times_ns.tolist() == [500_000_000, 250_000_000]


def times(*values: int) -> bytes:
    """Return times as they cross."""
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


@pytest.mark.parametrize(
    "wrong",
    [times(0), times(0, 0, 0), b"", "", times(-1, 0), times(0, 10**18), times(5, 4), times(0)[:-1]],
)
def test_wrong_times_of_a_peer_are_refused(wrong: object) -> None:
    """As many as there are accesses, not negative, not past all reason, not going back."""
    plain: dict[str, Any] = {"vcpus": b"\0\0", "flat-pages": bytes(16), "is-write": b"\0\0"}
    Trace.from_plain({**plain, "times-ns": times(4, 4)}, GUEST, 2)
    with pytest.raises(RemoteProtocolError):
        Trace.from_plain({**plain, "times-ns": wrong}, GUEST, 2)


def test_a_peers_times_of_different_vcpus_may_cross() -> None:
    """What does not go back are those of one vCPU."""
    plain = {"vcpus": b"\1\0\1", "flat-pages": bytes(24), "is-write": bytes(3)}
    Trace.from_plain({**plain, "times-ns": times(5, 4, 5)}, GUEST, 2)
    with pytest.raises(RemoteProtocolError, match="go back"):
        Trace.from_plain({**plain, "times-ns": times(5, 4, 3)}, GUEST, 2)


def test_a_timed_trace_of_a_peer_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes with its times is bounded, too."""
    monkeypatch.setattr(trace_module, "TIMED_ACCESS_COUNT_MAX", 1)
    plain = {"vcpus": b"\0\0", "flat-pages": bytes(16), "is-write": b"\0\0"}
    Trace.from_plain(plain, GUEST, 2)
    with pytest.raises(RemoteProtocolError, match="too many"):
        Trace.from_plain({**plain, "times-ns": times(0, 0)}, GUEST, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"vcpus": b"\0\0"},
        {"vcpus": b"\2"},
        {"vcpus": "\0"},
        {"flat-pages": b"\0"},
        {"flat-pages": (1040).to_bytes(8, "little")},
        {"is-write": b""},
        {"more": b""},
    ],
)
def test_a_wrong_trace_of_a_peer_is_refused(wrong: dict[str, Any]) -> None:
    """Arrays of different lengths, vCPUs and pages that are not there: the peer's fault."""
    plain = {"vcpus": b"\0", "flat-pages": bytes(8), "is-write": b"\1"}
    Trace.from_plain(plain, GUEST, 2)
    with pytest.raises(RemoteProtocolError):
        Trace.from_plain({**plain, **wrong}, GUEST, 2)


GEOMETRY = parse_geometry("ram=8MiB@2MiB,rom=16KiB@4KiB", "2MiB")


def test_each_vcpu_reads_every_page_once(tmp_path: Path) -> None:
    """The file is a trace in which each vCPU touches one target page of every page."""
    write_trace(tmp_path / "trace.txt", GEOMETRY, 3, seed=1)

    trace = read_trace(tmp_path / "trace.txt", GEOMETRY, 3)
    touched = [
        (int(vcpu), GEOMETRY.page_of(*GEOMETRY.locate(int(page))))
        for vcpu, page in zip(trace.vcpus, trace.flat_pages, strict=True)
    ]
    assert len(touched) == len(set(touched)) == 3 * GEOMETRY.page_count
    assert not trace.is_write.any()


def test_a_seed_gives_the_same_trace_again(tmp_path: Path) -> None:
    """Two files of one seed are equal, of another they differ."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_trace(tmp_path / name, GEOMETRY, 2, seed)

    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert (tmp_path / "a").read_text() != (tmp_path / "c").read_text()
