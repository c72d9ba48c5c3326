"""Nothing is decided twice: simulated runs do what real runs do, by the same code."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from protocol.channels import Channel
from protocol.geometry import Geometry, PageId, RamBlock
from protocol.pageset import PageSet
from protocol.policy import PRESETS, Policy, preset
from source.scheduler import Scheduler
from tests.points import point, recorded
from tests.processes import Lab, read_events

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "scripts" / "simulate"

# What decides, and what of it nothing here may look at: that would be to decide with it.
DECIDING = {
    "source.phases", "source.engine", "source.buffering", "dest.phases", "dest.engine",
    "dest.executor", "dest.channel", "guest.programs",
}  # fmt: skip
# What starts whole runs, and so names their policies as a person would.
STARTING = {"calibrate.py", "growth.py"}
SWITCHES = {
    "own_channel", "preempts", "half_sent", "locality", "concurrent", "critical", "priority",
    "mixes_channels",
}  # fmt: skip
DECISIONS = {
    "wants_preemption", "queued_requests", "next_chunk", "chunk_sent", "chunk_interrupted",
    "goes_first", "pause_ns", "allowance", "take_first", "after_pass", "claim", "take_early",
}  # fmt: skip

SIZE = 64 << 20
GEOMETRY = Geometry((RamBlock("ram", SIZE, 2 << 20),))
# Those whose pages go whole, one after the other: a log then tells all that was decided on.
WHOLE = ("vanilla", "own-channel", "drop", "ordered", "priority-by-channel")


def trees() -> Iterable[tuple[str, ast.AST]]:
    """Yield every module of the package, as it is written."""
    for path in sorted(PACKAGE.glob("*.py")):
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))


def decides(tree: ast.AST) -> list[str]:
    """Return by what of a module something is decided that the engines decide."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in SWITCHES | DECISIONS:
            # A Surroundings' own field is told, not looked at.
            if not (node.attr == "priority" and ast.unparse(node.value) == "self"):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and node.value in PRESETS:
            found.append(repr(node.value))
        elif isinstance(node, ast.Name) and node.id in {"PRESETS", "HalfSent", "Priority"}:
            found.append(node.id)
    return found


def test_no_module_decides() -> None:
    """Neither a policy's name nor a switch of one, nor an engine's inner decision, is looked at."""
    simulating = [(name, tree) for name, tree in trees() if name not in STARTING]
    assert {name: found for name, tree in simulating if (found := decides(tree))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "if policy.preempts: pass",
        "order = 'critical-first'",
        "scheduler.next_chunk()",
        "from protocol.policy import HalfSent\nx = HalfSent.SPLIT",
    ],
)
def test_a_decision_is_found(text: str) -> None:
    """What decides is noticed, however little it is."""
    assert decides(ast.parse(text))


def test_the_engines_are_the_real_ones() -> None:
    """Each of the modules that decide is imported, none is stood in for."""
    imported = {
        node.module
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert imported >= DECIDING


class Replay:
    """A scheduler of its own that is told what a log tells, and must decide as the log says."""

    def __init__(self, policy: Policy) -> None:
        """Begin with all of the guest to send."""
        self._scheduler = Scheduler(GEOMETRY, policy, 8 << 20)
        missing = PageSet(GEOMETRY)
        missing.fill()
        self._scheduler.add(missing, postcopy=True)
        self._now_ns = 0
        self._sending = False
        self.counts = dict.fromkeys(("page-request", "page-start", "preempt", "boost"), 0)

    def run(self, log: list[dict[str, Any]]) -> None:
        """Follow the source's part of a log."""
        for each in log:
            name = each["event"]
            if name in self.counts:
                self.counts[name] += 1
            match name:
                case "page-request":
                    self._now_ns += 1
                    page = PageId(each["block"], each["page"])
                    answer = self._scheduler.request(page, 0, self._now_ns)
                    assert answer.value == each["answer"], each
                case "preempt":
                    self._scheduler.chunk_interrupted(begun=True)
                    self._sending = False
                case "page-start":
                    self._start(each)
                case "page-sent":
                    self._scheduler.chunk_sent()
                    self._sending = False
        assert self._scheduler.unsent_bytes == 0

    def _start(self, each: dict[str, Any]) -> None:
        if self._sending:
            # Nothing of it had gone, so nobody was told.
            self._scheduler.chunk_interrupted(begun=False)
        chunk = self._scheduler.next_chunk()
        assert chunk is not None, each
        self._sending = True
        decided = (chunk.page, chunk.channel, chunk.urgent, chunk.boosted)
        told = (
            PageId(each["block"], each["page"]), Channel(each["channel"]), each["urgent"],
            each["boosted"],
        )  # fmt: skip
        assert decided == told, each


@pytest.mark.parametrize("policy", WHOLE)
def test_a_simulated_run_decides_as_the_scheduler_does(policy: str) -> None:
    """Told the same, in the same order, another scheduler gives the same answers and pages."""
    _, log = recorded(point(policy=policy, size=str(SIZE), vcpus="4"))
    replay = Replay(preset(policy))
    replay.run([each for each in log if each["side"] == "source"])
    assert replay.counts["page-request"] > 10
    assert replay.counts["page-start"] >= 32


def test_a_real_run_decides_as_the_simulated_one_does(lab: Lab) -> None:
    """The log of a real run is one that the same replay follows, event for event."""
    done = lab.run(
        "migrate", "--size=64MiB", "--policy=ordered", "--postcopy-after=0", "--vcpus=4",
        "--access-rate=0", "--write-ratio=0", "--start-paused", "--quiet",
        "--max-postcopy-bandwidth=400Mbit/s", "--events=events", "--guest=python",
    )  # fmt: skip
    assert done.status == 0
    log = sorted(read_events(lab.folder / "events", side="source"), key=lambda each: each["t-ns"])
    replay = Replay(preset("ordered"))
    replay.run(log)
    assert replay.counts["page-start"] >= 32
