"""What a run's events tell of its faults can be replayed: the same pages in the same order."""

import json
from pathlib import Path
from random import Random

from tests.processes import Lab

PAGES = 48

# The background may send a byte a second: whatever comes, a vCPU has asked for.
OPTIONS = (
    f"--size={4 * PAGES}KiB", "--page-size=4KiB", "--vcpus=1", "--access-rate=0",
    "--postcopy-after=0", "--start-paused", "--chunk-size=4KiB",
    "--max-postcopy-bandwidth=1B/s", "--quiet",
)  # fmt: skip


def waits(path: Path) -> list[int]:
    """Return the pages that vCPUs waited for, in the order of their faults."""
    events = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    faults = [
        (event["fault-ns"], event["page"]) for event in events if event["event"] == "vcpu-wait"
    ]
    return [page for _, page in sorted(faults)]


def left(path: Path) -> int:
    """Return how many accesses a trace had left at the switch-over, of a report."""
    report = json.loads(path.read_text(encoding="utf-8"))
    count: int = report["midstream"]["switch-over"]["trace-accesses-left"]
    return count


def test_recorded_faults_are_replayed_in_their_order(lab: Lab, tmp_path: Path) -> None:
    """Record, import, replay, import again: both traces have all pages, in one order."""
    order = Random(5).sample(range(PAGES), PAGES)
    (tmp_path / "first").write_text("".join(f"0 {page} r\n" for page in order), encoding="utf-8")
    for name, follower in (("first", "second"), ("second", "third")):
        events = f"{name}.jsonl"
        program = f"--program=trace:{name}"
        lab.run("migrate", *OPTIONS, program, f"--events={events}", "--report=report").succeed()
        assert left(tmp_path / "report") == PAGES
        assert waits(tmp_path / events) == order
        lab.run("trace", "import", "--from=events", events, "-o", follower).succeed()
    places = [
        [
            line.split()[1:]
            for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()[1:]
        ]
        for name in ("second", "third")
    ]
    assert places[0] == places[1] == [["0", "ram", f"{4096 * page:#x}", "r"] for page in order]


def test_a_trace_that_leaves_nothing_for_the_destination_is_told(lab: Lab, tmp_path: Path) -> None:
    """The report has it as a number and the table in words; without a trace neither says it."""
    (tmp_path / "empty").write_text("# nothing\n", encoding="utf-8")
    size = ("--size=4MiB", "--report=report")
    told = lab.run("migrate", *size, "--program=trace:empty").succeed().output
    assert "trace           used up before the switch-over" in told
    assert left(tmp_path / "report") == 0
    assert "used up before" not in lab.run("migrate", *size).succeed().output
    report = json.loads((tmp_path / "report").read_text(encoding="utf-8"))
    assert "trace-accesses-left" not in report["midstream"]["switch-over"]
