"""Scenarios between two real QEMUs, and what is said of a run that is not as it is expected."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.geometry import TARGET_PAGE_BYTES
from scripts.relay.judging import unmet
from scripts.relay.pair import PairOutcome
from scripts.relay.scenario import PairScenario, read_pair
from scripts.views.saved import read_all
from tests.huge_pages import huge_pages
from tests.processes import ROOT, Lab
from tests.qemus import need_dest, qemu_of

FOLDER = ROOT / "tests" / "scenarios" / "pair"
HUGE = 2 << 20


def huge_page_count(scenario: PairScenario) -> int:
    """Return how many huge pages both QEMUs of a scenario take."""
    return 2 * sum(
        block.page_count
        for block in scenario.geometry.blocks
        if block.page_bytes > TARGET_PAGE_BYTES
    )


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_a_scenario_between_two_qemus(lab: Lab, path: Path) -> None:
    """Both QEMUs do what the scenario says of their version, and nothing is left of them."""
    scenario = read_pair(path)
    program = qemu_of(*scenario.versions)
    with ExitStack() as stack:
        if count := huge_page_count(scenario):
            stack.enter_context(huge_pages(count))
        process = lab.run("inject", f"--qemu={shutil.which(program)}", path)
    assert (process.status, process.output) == (0, f"ok {scenario.name}\n"), process.errors


def test_another_qemu_is_taken(lab: Lab) -> None:
    """With --qemu its program is taken at both ends; one that cannot be started is told."""
    process = lab.run("inject", "--qemu=/nowhere/qemu", FOLDER / "one-bit.toml")
    assert process.status == 1
    assert "cannot start /nowhere/qemu" in process.output


def test_a_qemu_of_another_version_is_told(lab: Lab) -> None:
    """A scenario that is about other versions is not run, and says so."""
    need_dest()
    path = lab.folder / "old.toml"
    text = (FOLDER / "one-bit.toml").read_text(encoding="utf-8")
    path.write_text(f'versions = "2"\n{text}', encoding="utf-8")
    process = lab.run("inject", path)
    assert process.status == 1
    assert "this is about QEMU 2, and the source is" in process.output


def test_what_happened_is_kept(lab: Lab) -> None:
    """The relay's events of a run are kept where they are wanted."""
    need_dest()
    kept = lab.folder / "kept"
    process = lab.run("inject", f"--keep={kept}", FOLDER / "one-bit.toml")
    assert process.status == 0, process.output
    told = list(read_all(kept / "one-bit-1" / "events.jsonl"))
    assert {each["side"] for each in told} == {"relay"}
    assert [each["step"] for each in told if each["event"] == "inject"] == [1]


def test_what_is_not_as_expected_is_said() -> None:
    """Each expectation that is not met is told, and with them what went wrong on the way."""
    scenario = read_pair(FOLDER / "half-sent-7.toml")
    outcome = PairOutcome(
        states={"source": "completed", "dest": "failed"},
        served=[("ram:15", "precopy"), ("ram:16", "postcopy")],
        differing_bytes=7,
        undone=(3,),
        timed_out=True,
        trouble=["recovery: refused"],
    )
    told = {each.what: (each.expected, each.seen) for each in unmet(scenario, outcome)}
    assert told == {
        "dest": ("completed", "failed"),
        "served": ("ram:15, ram:16, ram:6, ram:17, ram:18", "ram:15, ram:16"),
        "channels of ram:6": ("precopy", "none"),
        "channels of ram:15": ("postcopy", "precopy"),
        "channels of ram:18": ("postcopy", "none"),
        "memory-equal": ("true", "7 bytes differ"),
        "step 3 (half-sent-7.toml:25)": ("its moment", "it never came"),
        "end": ("by itself in 120 s", "source completed, dest failed"),
        "run": ("no trouble", "recovery: refused"),
    }


def test_what_is_expected_is_nothing_to_tell() -> None:
    """A run that is as expected is told nothing of, whatever went wrong on the way."""
    scenario = replace(read_pair(FOLDER / "one-bit.toml"), steps=())
    outcome = PairOutcome(
        states={"source": "completed", "dest": "completed"}, differing_bytes=1, trouble=["late"]
    )
    assert unmet(scenario, outcome) == []
