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


def test_an_empty_file_is_an_empty_trace(tmp_path: Path) -> None:
    """No access is allowed."""
    assert len(read(tmp_path, "").vcpus) == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 ram 0", "VCPU BLOCK PAGE"),
        ("2 ram 0 r", "not a vCPU from 0 to 1"),
        ("-1 ram 0 r", "not a vCPU"),
        ("x ram 0 r", "not a vCPU"),
        ("\u0661 ram 0 r", "not a vCPU"),
        ("0 rom 0 r", "no RAMBlock is named 'rom'"),
        ("0 ram 2 r", "outside RAMBlock 'ram' of 2 pages"),
        ("0 ram 99999999999999999999 r", "not PAGE"),
        ("0 ram 0+512 r", "outside a page of 512"),
        ("0 ram 0x1 r", "not PAGE"),
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
