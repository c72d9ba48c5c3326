"""What a report says was run: the command, its options and files, versions, and where it stands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.commands import midstream
from scripts.options import OPTIONS
from scripts.provenance import begin_run, describe, end_run, run_of, versions
from scripts.reports import amend_report, begin_report, cancel_report
from tests.reports import expect_valid, read_report
from tests.reports import run_of as told_run

VALUES = {option.name: option.default for option in OPTIONS}


@pytest.fixture
def running() -> Iterator[None]:
    """A process that runs `migrate --size 8MiB`, and no command after the test."""
    begin_run(run_of("migrate", OPTIONS, {**VALUES, "size": "8MiB"}, {"size", "report"}))
    yield
    end_run()


@pytest.mark.usefixtures("running")
def test_a_report_has_its_run_from_the_beginning(tmp_path: Path) -> None:
    """That it goes on, and how it ended at once, say what was run; QEMU's part is left alone."""
    path = tmp_path / "report"
    begin_report(str(path))
    told = read_report(path)
    assert set(told) == {"status", "midstream"}
    run = told_run(told)
    assert run["command"] == "migrate"
    assert run["options"]["given"] == {"size": "8MiB"}
    assert set(run["outputs"]) == {"report"}
    assert describe({"schema": "x"})["run"] == run
    end = cancel_report(str(path))
    assert end is not None
    end("cancelled by SIGTERM")
    assert read_report(path)["status"] == "cancelled"
    # One that somebody else has put there stays.
    amend_report(str(path), lambda report: {**report, "midstream": {"run": "other"}})
    assert path.read_text(encoding="utf-8").count('"other"') == 1


def test_who_runs_no_command_says_nothing() -> None:
    """A side that was started leaves it to who started it."""
    assert describe({"status": "failed"}) == {"status": "failed"}


def test_versions_are_those_that_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the folders that installations leave; the first on the path counts, none is null."""
    for folder, version in (("a", "1.0"), ("b", "2.0")):
        (tmp_path / folder / f"numpy-{version}.dist-info").mkdir(parents=True)
        (tmp_path / folder / "notnumpy-9.dist-info").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path / name) for name in ("missing", "a", "b")])
    told = versions()
    assert (told["numpy"], told["trio"]) == ("1.0", None)
    assert told["python"]
    assert told["kernel"]


def test_options_have_the_names_that_are_typed(tmp_path: Path) -> None:
    """Whatever Python calls them; of a file that is read the digest stands with it."""
    path = tmp_path / "mine.py"
    path.write_text(_POLICY, encoding="utf-8")
    context = midstream.make_context("midstream", ["compare"])
    compare = midstream.get_command(context, "compare")
    assert compare is not None
    values = {"policies": "ordered,split", "more": (f"{path}:mine",), "report": "x"}
    run = run_of("compare", compare.params, values, set(values))
    options = run.plain["options"]
    assert options["given"] == {"policies": "ordered,split", "policy": [f"{path}:mine"]}
    assert options["resolved"]["policies"] == ["ordered", "split"]
    definitions = options["resolved"]["policy-definitions"]
    assert list(definitions) == ["ordered", "split", f"{path}:mine"]
    assert definitions[f"{path}:mine"]["locality"] is False
    assert len(options["resolved"]["files-sha256"]["policy"]) == 1
    expect_valid({"schema": "midstream-compare/1", "status": "setup", "run": run.plain})


_POLICY = """
from source.scheme import Scheme

mine = Scheme("mine", locality=False)
"""


def test_files_are_looked_at_when_a_run_begins(tmp_path: Path) -> None:
    """A report that is written in the end has what was read, not what has become of it."""
    path = tmp_path / "steps"
    path.write_text("one", encoding="utf-8")
    values = {**VALUES, "steps": str(path), "report": "-"}
    told = []
    try:
        for text in ("one", "two"):
            path.write_text(text, encoding="utf-8")
            begin_run(run_of("migrate", OPTIONS, values, {"steps", "report"}))
            path.write_text("three", encoding="utf-8")
            told.append(told_run(describe({"status": "failed"}))["options"])
    finally:
        end_run()
    one, two = told
    assert one["given"] == two["given"]
    assert one["resolved"]["files-sha256"] != two["resolved"]["files-sha256"]
