"""`midstream demo`: what it prints and writes, also as an ordinary user."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts.demo.cases import POLICIES, REQUESTS
from scripts.demo.command import command_name
from scripts.injection.scenario import read_scenario
from tests.processes import Lab, read_events
from tests.reports import read_report


def test_it_tells_and_writes_what_came_of_the_page(lab: Lab, tmp_path: Path) -> None:
    """The text, the figures, the page and what is kept are about the same three runs."""
    done = lab.run("demo", "--html=page.html", "--report=demo.json", "--keep=kept")
    assert done.status == 0, done.errors
    assert done.errors.splitlines() == [
        f"run {number} of 3: {policy}" for number, policy in enumerate(POLICIES, 1)
    ]
    text = " ".join(done.output.split())
    assert "page 5 was requested while it was half-sent" in text
    assert "open page.html in a browser" in text
    report = read_report(tmp_path / "demo.json")
    assert (report["schema"], report["status"]) == ("midstream-demo/1", "completed")
    assert list(report["policies"]) == list(POLICIES)
    assert report["policies"]["drop"]["sent-before-it"] == REQUESTS - 1
    assert report["policies"]["ordered"]["sent-before-it"] == 1
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    for policy in POLICIES:
        assert read_scenario(tmp_path / "kept" / f"{policy}.toml").source.policy.name == policy
        assert read_events(tmp_path / "kept" / f"{policy}.jsonl", "preempt")


def test_figures_alone_on_standard_output(lab: Lab) -> None:
    """`--report -` has standard output to itself, as everywhere."""
    done = lab.run("demo", "--report=-")
    assert done.status == 0, done.errors
    assert json.loads(done.output)["policies"].keys() == set(POLICIES)


def test_what_cannot_be_written_is_said_before_anything_runs(lab: Lab) -> None:
    """A wrong name costs no time."""
    lab.run("demo", "--html=no/such/folder/page.html").fail(2, "--html")


@pytest.mark.parametrize(
    ("program", "name"),
    [("/x/scripts/__main__.py", "midstream"), ("bin/midstream", "bin/midstream")],
)
def test_the_command_as_this_user_types_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, name: str
) -> None:
    """Where no shell finds it, it is called by its path; started in another way, by its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [program])
    assert command_name() == name


def test_a_command_that_a_shell_finds_has_its_plain_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its folder on PATH nobody types a path; another of that name is not it."""
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "midstream").touch(0o755)
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "ours" / "midstream")])
    monkeypatch.setenv("PATH", str(tmp_path / "ours"))
    assert command_name() == "midstream"
    monkeypatch.setenv("PATH", str(tmp_path / "theirs"))
    assert command_name() == str(tmp_path / "ours" / "midstream").lstrip("/")
