"""`midstream trace`: every command does what it says, and harms no file that was there."""

import os
from pathlib import Path

import pytest

from guest.trace import read_trace
from protocol.units import parse_geometry
from scripts.commands import run

FILES = Path(__file__).parent / "files"
TRACE = "@0.5 0 0x0 r\n@1.5 1 0x200000 w\n@2.5 0 0x0 r\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that commands run in, with a trace in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.trace").write_text(TRACE, encoding="utf-8")
    return tmp_path


def test_a_file_is_imported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The trace says what it was made of, and the command what guest it takes."""
    assert run(["trace", "import", "--from=qemu", f"{FILES / 'qemu.log'}", "-o", "out"]) == 0
    told = capsys.readouterr().out
    assert told == (
        "out: 10 accesses of 1 vCPU in 861 ms; fits --size pc.bios=2MiB,pc.ram=48MiB --vcpus 1\n"
    )
    text = (folder / "out").read_text(encoding="utf-8")
    assert text.startswith("# qemu.log, by midstream trace import --from qemu\n@0.000000000 0 pc.")
    trace = read_trace(folder / "out", parse_geometry("pc.bios=2MiB,pc.ram=48MiB", "2MiB"), 1)
    assert trace.access_count == 10


def test_options_say_what_the_file_does_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Window, block, columns, page size and step."""
    (folder / "in").write_text("n,p\n0,9\n1,5\n2,5000\n", encoding="utf-8")
    options = [
        "--from=csv", "--column=page=p", "--column=time=n", "--page-size=2MiB", "--block=ram",
        "--base=0xa00000", "--size=9MiB",
    ]  # fmt: skip
    assert run(["trace", "import", "in", "--out=out", *options]) == 0
    assert "1 vCPU in 1 s; 1 outside; fits --size 10MiB" in capsys.readouterr().out
    assert (folder / "out").read_text(encoding="utf-8").splitlines()[1:] == [
        "@0.000000000 0 ram 0x800000 r", "@1.000000000 0 ram 0x0 r",
    ]  # fmt: skip
    damon = str(FILES / "damon-raw.txt")
    assert run(["trace", "import", "--from=damon", damon, "-oout", "--pack=2MiB"]) == 0
    assert "8 accesses" in capsys.readouterr().out
    assert run(
        ["trace", "import", "--from=damon", damon, "-oout", "--pack=2MiB", "--step=4MiB"]
    ) == 0  # fmt: skip
    assert "7 accesses" in capsys.readouterr().out
    events = ["--from=events", str(FILES / "events.jsonl"), "-oout", "--event=page-request"]
    assert run(["trace", "import", *events]) == 0


def test_a_trace_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures and a picture in characters; in a file where that is wanted."""
    assert run(["trace", "show", "t.trace", "--picture=out.svg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:16].strip(): line[16:] for line in lines[:8]}
    assert rows["accesses"] == "3: 2 reads, 1 write"
    assert rows["by vCPU"] == "0: 2, 1: 1"
    assert rows["time"] == "2 s, 1.5 accesses a second"
    assert rows["guest"] == "4MiB, pages of 2MiB"
    assert rows["footprint"] == "8 KiB in 4 KiB, 2 of 2 pages"
    assert rows["reuse distance"] == "2 accesses in the median"
    picture = [line for line in lines if line.startswith("|")]
    assert len(picture) == 12
    assert len({len(line) for line in picture}) == 1
    assert (folder / "out.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert max(map(len, lines)) < 80
    (folder / "empty").touch()
    assert run(["trace", "show", "empty"]) == 0
    assert capsys.readouterr().out == "empty: no accesses\n"


def test_a_part_is_cut_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a trace of its own; one that comes out empty is told."""
    assert run(["trace", "cut", "t.trace", "-o", "out", "--from=1s", "--vcpus=1"]) == 0
    assert capsys.readouterr().out == "out: 1 access\n"
    assert (folder / "out").read_text(encoding="utf-8") == (
        "# a part of t.trace, by midstream trace cut\n@0.500000000 0 0x200000 w\n"
    )
    assert run(["trace", "cut", "t.trace", "-o", "out", "--from=3"]) == 0
    assert "out has no accesses: nothing of t.trace" in capsys.readouterr().err
    (folder / "untimed").write_text("0\n", encoding="utf-8")
    assert run(["trace", "cut", "untimed", "-o", "out", "--to=1s"]) == 2
    assert "untimed: its accesses have no times" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["import", "--from=perf", "t.trace", "-oold"], "t.trace:1: not a line of perf script"),
        (["import", "--from=csv", "none", "-oold"], "'none': No such file"),
        (["import", "--from=csv", "t.trace", "-onone/out"], "its folder does not exist"),
        (["import", "--from=vtune", "t.trace", "-oold"], "'vtune' is not one of"),
        (["import", "t.trace", "-oold"], "Missing option '--from'"),
        (["import", "--from=csv", "t.trace"], "Missing option"),
        (["import", "--from=csv", "t.trace", "-oold", "--base=x"], "'x' is not an address"),
        (["import", "--from=csv", "t.trace", "-oold", "--step=1"], "not a multiple of 4KiB"),
        (["import", "--from=csv", "t.trace", "-oold", "--pack=0"], "not a multiple of 4KiB"),
        (["import", "--from=csv", "t.trace", "-oold", "--column=x=y"], "is not MEANING=HEADER"),
        (["show", "t.trace", "--picture=old.gif"], "does not end in .svg, .png, .pdf"),
        (["show", "t.trace", "--size=2MiB"], "t.trace:2: 0x200000 is outside a guest of"),
        (["show", "t.trace", "--page-size=3MiB"], "2 MiB"),
        (["show", "/dev/null"], "is not a regular file"),
        (["cut", "t.trace", "-oold", "--from=x"], "'x' is not a duration"),
        (["cut", "t.trace", "-oold", "--vcpus=64"], "'64' is not a vCPU"),
        (["cut", "wrong", "-oold"], "wrong:2: it has no time"),
        (["import", "--from=csv", "t.trace", "-ot.trace"], "name one file: 't.trace'"),
        (["cut", "t.trace", "-o", "link"], "name one file"),
        (["show", "t.trace", "--picture=t.trace"], "name one file"),
    ],
)
def test_what_is_refused_leaves_all_files_as_they_were(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    """One line, exit status 2, nothing written: neither over an input nor over an old result."""
    (folder / "old").write_text("of yesterday\n", encoding="utf-8")
    (folder / "wrong").write_text("@1 0\n0\n", encoding="utf-8")
    (folder / "link").symlink_to("t.trace")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(["trace", *arguments]) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_trace_goes_into_a_pipe(folder: Path) -> None:
    """What is no file is written to, and what cannot be written is an error of its own."""
    read_end, write_end = os.pipe()
    assert run(["trace", "cut", "t.trace", "-o", f"/dev/fd/{write_end}", "--to=1"]) == 0
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8") as pipe:
        assert pipe.read().endswith("@0.500000000 0 0x0 r\n")
    assert run(["trace", "cut", "t.trace", "-o", "/dev/full"]) == 1


def test_without_a_command_its_help_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As for midstream itself; each command's help has an example."""
    assert run(["trace"]) == 2
    assert "import  Make a trace of a file" in capsys.readouterr().err
    for name in ("import", "show", "cut"):
        assert run(["trace", name, "--help"]) == 0
        assert f"midstream trace {name} " in capsys.readouterr().out.partition("Example:")[2]
