"""A trace's guest is as large as its accesses reach, if nobody says more."""

from pathlib import Path

import pytest

from protocol.errors import LocalProtocolError
from scripts.traces.layout import as_size, fitting, read_for

MIB = 1 << 20


def written(folder: Path, text: str) -> Path:
    """Return a trace file with this text."""
    path = folder / "t.trace"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_guest_is_as_large_as_it_must_be(tmp_path: Path) -> None:
    """Whole pages of every block that is named, up to the last access."""
    path = written(tmp_path, "pc.ram 0x300000\n3 pc.bios 0x10\npc.ram 0\n")
    geometry, trace = read_for(path, None, "2MiB")
    assert as_size(geometry) == "pc.ram=4MiB,pc.bios=2MiB"
    assert (trace.access_count, trace.vcpus.tolist()) == (3, [0, 3, 0])
    geometry, _ = read_for(written(tmp_path, "2+1\n"), None, "2MiB")
    assert as_size(geometry) == "6MiB"
    geometry, _ = read_for(written(tmp_path, ""), None, "4KiB")
    assert as_size(geometry) == "4KiB"


def test_a_size_that_is_given_is_taken(tmp_path: Path) -> None:
    """And what lies outside is refused with its line."""
    path = written(tmp_path, "0\n1\n")
    assert read_for(path, "1GiB", "2MiB")[0].page_count == 512
    with pytest.raises(LocalProtocolError, match=r"t.trace:2: page 1 is outside"):
        read_for(path, "2MiB", "2MiB")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0\nram 0\n", r":2: some accesses name a RAMBlock and others none.*--size"),
        ("ram 0\n0\n", r":2: some accesses name a RAMBlock and others none.*--size"),
        ("0xffffffffffffffff\n", r":1: it is past the 64 TiB of any guest"),
        ("999999999999\n", r":1: it is past the 64 TiB of any guest"),
        ("0+512\n", r":1: target page 512 is outside"),
        ("".join(f"b{n} 0\n" for n in range(65)), ":65: more than 64 RAMBlocks"),
        ("64 0\n", ":1: '64' is not a vCPU"),
    ],
)
def test_what_no_guest_has_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """With its place, before memory is taken for it."""
    with pytest.raises(LocalProtocolError, match=reason):
        read_for(written(tmp_path, text), None, "2MiB")


def test_a_wrong_page_size_is_refused(tmp_path: Path) -> None:
    """Before the file is read."""
    with pytest.raises(LocalProtocolError, match="4 KiB, 2 MiB or 1 GiB"):
        read_for(tmp_path / "none", None, "3MiB")


def test_a_size_is_written_as_it_is_typed() -> None:
    """In the largest unit that divides it."""
    assert as_size(fitting({"": 1}, 1 << 30)) == "1GiB"
    assert as_size(fitting({"": 3 * MIB}, 2 * MIB)) == "4MiB"
