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


def test_recorded_faults_are_replayed_in_their_order(lab: Lab, tmp_path: Path) -> None:
    """Record, import, replay, import again: both traces have all pages, in one order."""
    order = Random(5).sample(range(PAGES), PAGES)
    (tmp_path / "first").write_text("".join(f"0 {page} r\n" for page in order), encoding="utf-8")
    for name, follower in (("first", "second"), ("second", "third")):
        events = f"{name}.jsonl"
        lab.run("migrate", *OPTIONS, f"--program=trace:{name}", f"--events={events}").succeed()
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
