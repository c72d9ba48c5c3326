"""Somebody's own policies, in a file outside of the tree, between real processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT, Lab, Process, read_events
from tests.reports import read_report, run_of

README = (ROOT / "source" / "README.md").read_text(encoding="utf-8")
# What source/README.md tells somebody to put into a file, and two that fail.
EXAMPLE = README.partition("```python\n")[2].partition("```")[0]
MINE = (
    EXAMPLE
    + """

class Failing(ReadAhead):
    def sent(self, page, channel):
        raise ValueError(f"page {page.index}")


class AtOnce(ReadAhead):
    def restart(self, geometry, remaining):
        raise ValueError("not today")


failing = Scheme("failing", prefetcher=Failing)
at_once = Scheme("at-once", prefetcher=AtOnce)
"""
)

GUEST = ("--size=8MiB", "--page-size=4KiB", "--postcopy-after=0", "--start-paused", "--quiet")

Run = Callable[..., tuple[Process, dict[str, Any]]]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Write the file."""
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return path


@pytest.fixture
def run(lab: Lab, tmp_path: Path, mine: Path) -> Run:
    """Return what migrates a guest under one of its policies."""

    def migrate(name: str, *options: str) -> tuple[Process, dict[str, Any]]:
        report, events = tmp_path / "report.json", tmp_path / "events.jsonl"
        process = lab.run(
            "migrate", *GUEST, "--policy", f"{mine}:{name}", "--report", report, "--events", events,
            *options,
        )  # fmt: skip
        return process, read_report(report)

    return migrate


def test_a_prefetcher_of_ones_own_migrates_a_guest(run: Run, tmp_path: Path) -> None:
    """Its picks are told with their cause; each page is late, useful or useless; all arrives."""
    process, report = run("read_ahead", "--program=uniform", "--max-postcopy-bandwidth=20MB/s")
    process.succeed()
    own = report["midstream"]
    assert own["policy"] == "read-ahead-of-4"
    asked_for = run_of(report)["options"]["resolved"]
    assert asked_for["policy-switches"] == [
        "own-channel", "preempts", "half-sent=finish", "priority=urgency"
    ]  # fmt: skip
    definition = asked_for["policy-definition"]
    assert (definition["name"], definition["locality"]) == ("read-ahead-of-4", False)
    assert definition["prefetcher"] == {"name": "ReadAhead", "options": {}}
    assert own["verified"]["digest-equal"]
    assert "policy-failure" not in own
    prefetch = own["prefetch"]
    picked = read_events(tmp_path / "events.jsonl", "page-start", "source")
    causes = {event.get("cause") for event in picked}
    assert causes == {None, "read ahead"}
    assert prefetch["causes"] == {"read ahead": prefetch["pages"]}
    assert prefetch["pages"] > 0
    assert prefetch["bytes"] == prefetch["pages"] * 4096
    assert prefetch["late"] + prefetch["useful"] + prefetch["useless"] == prefetch["pages"]
    assert prefetch["useless-bytes"] == prefetch["useless"] * 4096
    assert not read_events(tmp_path / "events.jsonl", "policy-off")


def test_an_order_of_ones_own_migrates_a_guest(run: Run) -> None:
    """Nothing is prefetched, and all arrives."""
    process, report = run("newest_first", "--vcpus=4", "--access-rate=0")
    process.succeed()
    assert report["midstream"]["policy"] == "newest-first"
    assert "prefetch" not in report["midstream"]


def test_what_fails_before_the_guest_moves_ends_the_run(run: Run, mine: Path) -> None:
    """One line with the file's, exit status 1, and the guest stays at the source."""
    process, report = run("at_once")
    process.fail(1, f"policy at-once: {mine}:{line_of('not today')}: ValueError: not today")
    assert len(process.errors.splitlines()) == 1
    assert report["status"] == "failed"
    assert report["midstream"]["guest-side"] == "source"


def test_what_fails_once_the_guest_has_moved_costs_no_page(
    run: Run, mine: Path, tmp_path: Path
) -> None:
    """It is switched off, all pages go, and report, event and exit status 5 say so."""
    saved = tmp_path / "saved"
    process, report = run("failing", "--save", str(saved))
    failure = f"policy failing: {mine}:{line_of('page {page.index}')}: ValueError: page "
    process.fail(5, failure, "it was switched off, and the guest has moved without it")
    assert len(process.errors.splitlines()) == 1
    assert report["status"] == "completed"
    own = report["midstream"]
    assert own["verified"]["digest-equal"]
    assert own["policy-failure"].startswith(failure)
    assert own["reason"].startswith(failure)
    assert saved.stat().st_size == 8 << 20
    (off,) = read_events(tmp_path / "events.jsonl", "policy-off")
    assert off["reason"] == own["policy-failure"]


def line_of(text: str) -> int:
    """Return the number of the line of the file in which a text stands."""
    lines = MINE.splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Write a trace of pages in a row, from the guest's middle on."""
    path = tmp_path / "trace"
    lines = (
        f"@{number / 1000:.3f} 0 ram 0x{(1024 + number) * 4096:x} r\n" for number in range(300)
    )
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_policies_of_ones_own_are_compared(lab: Lab, mine: Path, trace: Path) -> None:
    """Beside one of the tree, with what prefetching was worth; each by its own name."""
    report = trace.parent / "compare.json"
    compared = lab.run(
        "compare", "--policies=no-prefetch", f"--policy={mine}:read_ahead",
        f"--policy={mine}:newest_first", f"--accesses={trace}", "--size=8MiB", "--page-size=4KiB",
        "--vcpus=1", "--link=100Mbit/s", f"--report={report}",
    )  # fmt: skip
    assert compared.wait() == 0, compared.errors
    told = read_report(report)["policies"]
    assert list(told) == ["no-prefetch", "read-ahead-of-4", "newest-first"]
    prefetch = told["read-ahead-of-4"]["prefetch"]
    assert prefetch["against"] == "no-prefetch"
    assert prefetch["useful"] + prefetch["useless"] + prefetch["late"] > 0
    assert told["no-prefetch"]["prefetch"]["late"] is None
    assert "useless" in compared.output


SCENARIO = """\
[migration]
size = "8MiB"
page-size = "2MiB"
policy = "{policy}"
postcopy-after = 0

[[step]]
when = {{ time = "0ms" }}
fault = [2, 3, 1]

[expect]
exit-status = 0
"""


def test_policies_of_ones_own_are_injected_faults(lab: Lab, mine: Path) -> None:
    """As a scenario names them, seen from where it stands, or as the command line does."""
    scenario = mine.parent / "scenario.toml"
    scenario.write_text(SCENARIO.format(policy="mine.py:newest_first"), encoding="utf-8")
    lab.run("inject", scenario).succeed()
    lab.run("inject", "--policy", f"{mine}:read_ahead", scenario).succeed()
    unmet = lab.run("inject", "--policy", f"{mine}:failing", scenario)
    assert (unmet.wait(), unmet.errors) == (1, "")
    assert "exit-status" in unmet.output
    scenario.write_text(SCENARIO.format(policy="mine.py:nobody"), encoding="utf-8")
    lab.run("inject", scenario).fail(2, "scenario.toml:4: policy: ", "has no 'nobody'")


def test_a_changed_file_is_seen(run: Run, mine: Path) -> None:
    """Runs that were asked the same have equal options; not if their policy's file has changed."""
    told = [run_of(run("read_ahead")[1])["options"] for _ in range(2)]
    assert told[0] == told[1]
    mine.write_text(f"{MINE}\n# Another.\n", encoding="utf-8")
    changed = run_of(run("read_ahead")[1])["options"]
    assert changed["given"] == told[0]["given"]
    assert changed["resolved"]["files-sha256"].keys() == {"policy"}
    assert changed["resolved"]["files-sha256"] != told[0]["resolved"]["files-sha256"]
    del changed["resolved"]["files-sha256"], told[0]["resolved"]["files-sha256"]
    assert changed == told[0]
