"""`midstream report` shows saved runs again, side by side; what is no run is refused in a line."""

import json
import re
from pathlib import Path

import pytest

from protocol.report import assemble_failed
from scripts.commands import run
from scripts.views.report import kind_of
from tests.stories import half_sent, write
from tests.traces import check_rules


def test_two_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table has a column a run, under its file's name, and the page holds both."""
    events = half_sent()
    slow = [event | {"t-ns": event["t-ns"] * 3} for event in events]
    slow[0] |= {"policy": "drop"}
    for event in slow:
        if event["event"] == "vcpu-wake":
            event["latency-us"] *= 3
    paths = [write(tmp_path / f"{name}.jsonl", told) for name, told in (("a", events), ("b", slow))]
    page = tmp_path / "page"
    assert run(["report", *map(str, paths), f"--html={page}"]) == 0
    # The verdicts, a paragraph each, and then the tables; two blanks and more are between columns.
    *verdicts, tables = capsys.readouterr().out.split("\n\n")
    assert [text.partition(" the")[0] for text in verdicts] == ["a:\nVerified:", "b:\nVerified:"]
    lines = [re.split(r"\s{2,}", line.strip()) for line in tables.splitlines()]
    rows = {name: cells for name, *cells in lines}
    assert lines[0] == ["a", "b"]
    assert rows["policy"] == ["ordered", "drop"]
    assert rows["wait max"] == ["28.8 ms", "86.4 ms"]
    assert rows["finished early on request"] == ["1", "1"]
    assert rows["queue"][0] == "2.54 ms"
    text = page.read_text(encoding="utf-8")
    data = text.partition('id="data">')[2].partition("</script>")[0]
    assert [each["name"] for each in json.loads(data)["runs"]] == ["a", "b"]


def test_a_trace_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `--perfetto` wrote can be made later, too; with `--quiet` nothing is printed."""
    events = write(tmp_path / "events", half_sent())
    trace = tmp_path / "trace"
    assert run(["report", str(events), f"--perfetto={trace}", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    check_rules(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"])


def test_a_name_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File names with brackets are printed as they are."""
    assert run(["report", str(write(tmp_path / "[bold]x[b]", half_sent()))]) == 0
    assert "[bold]x[b]" in capsys.readouterr().out


@pytest.mark.parametrize("quiet", [False, True])
def test_events_that_were_cut_off_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    """A full disk or a kill cuts the last line off; all before it is shown, and a line says so."""
    path = write(tmp_path / "events", half_sent())
    path.write_bytes(path.read_bytes()[:-5])
    page = tmp_path / "page"
    assert run(["report", str(path), f"--html={page}", *(["--quiet"] if quiet else [])]) == 0
    said = capsys.readouterr()
    assert said.err == (
        f"midstream: {path}, line {len(half_sent())}: the last line is unfinished and left out\n"
    )
    assert ("wait max" in said.out) is not quiet
    assert page.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bad"], ["bad, line 2", "no JSON"]),
        (["missing"], ["missing", "No such file"]),
        (["report"], ["FILE", "report: no report of midstream"]),
        (["torn"], ["torn: no JSON", "line 2"]),
        (["edited"], ["edited: the report is not as its schema says"]),
        (["good", "--csv=table"], ["--csv", "'good' holds events"]),
        (["good", "--parquet=table"], ["--parquet", "'good' holds events"]),
        (["whole", "--html=page"], ["--html", "'whole' is a report"]),
        (["whole", "--csv=missing/table"], ["--csv", "folder"]),
        (["good", "bad"], ["bad, line 2"]),
        (["good", "good", "--perfetto=trace"], ["--perfetto", "one run"]),
        (["good"] * 5, ["FILE", "more than 4"]),
        (["good", "--html=missing/page"], ["--html", "folder"]),
        ([], ["FILE"]),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    """The exit status is 2, the line names file, line and reason, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    good = write(tmp_path / "good", half_sent()).read_bytes()
    first = good.index(b"\n") + 1
    (tmp_path / "bad").write_bytes(good[: first + 20] + b"\n" + good[first:])
    (tmp_path / "report").write_text('{"status": "failed",\n"midstream": {}}', encoding="utf-8")
    whole = json.dumps(assemble_failed("failed", "why"), indent=2)
    (tmp_path / "whole").write_text(whole, encoding="utf-8")
    (tmp_path / "torn").write_text("{\n", encoding="utf-8")
    (tmp_path / "edited").write_text(
        '{"status": "failed", "midstream": {"schema": "midstream-report/1", "faults": 7}}',
        encoding="utf-8",
    )
    before = {path.name for path in tmp_path.iterdir()}
    assert run(["report", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("midstream: ")
    for word in words:
        assert word in line
    assert {path.name for path in tmp_path.iterdir()} == before


EVENT = '{"event":"state","side":"dest","t-ns":1,"state":"active"}\n'


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (json.dumps(assemble_failed("failed", "no reason"), indent=2), "a report"),
        ('{"schema": "midstream-compare/1"}', "figures"),
        ('{"traceEvents": []}', "Perfetto"),
        ('{"traceEvents": [' + "1," * (1 << 19) + "1]}", "Perfetto"),
        ("<!DOCTYPE html><p>", "a page"),
        ("[migration]\n", "a scenario"),
        ("\x7fELF\0\0", "no text"),
    ],
)
def test_what_else_it_may_be(tmp_path: Path, text: str, kind: str) -> None:
    """Everything that midstream writes or reads is known by its beginning."""
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    assert kind in kind_of(path)


@pytest.mark.parametrize("text", ["", EVENT, EVENT * 2, "{", "[" * 5000, '{"a":' * 5000])
def test_what_is_nothing_else(tmp_path: Path, text: str) -> None:
    """Of events with a mistake in them, or of anything, no kind is made up."""
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    assert kind_of(path) == ""


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """That it is missing, or a directory, its reader has said already."""
    assert kind_of(tmp_path / "missing") == kind_of(tmp_path) == ""
    assert kind_of(Path("/dev/zero")) == "no text"
