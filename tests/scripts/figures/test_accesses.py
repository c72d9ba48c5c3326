"""The trace that policies are compared on."""

from pathlib import Path

from guest.trace import read_trace
from protocol.units import parse_geometry
from scripts.figures.accesses import write_trace

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
