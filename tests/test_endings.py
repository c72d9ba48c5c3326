"""How a run ended is one word, wherever it is looked up, and comes with the same reason."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.processes import Lab, has_state, read_events, until


@pytest.mark.parametrize(
    ("postcopy_after", "state", "guest", "where"),
    [
        ("never", "active", "source", "the guest stays at the source"),
        ("0", "postcopy-active", "dest", "the guest is at the destination, "),
    ],
)
def test_cancelled_is_cancelled_everywhere(
    lab: Lab, tmp_path: Path, postcopy_after: str, state: str, guest: str, where: str
) -> None:
    """Terminal, report, events of both sides, table and page say cancelled, by whom, and where."""
    migration = lab.start(
        "migrate", "--size=8MiB", "--page-size=4KiB", f"--postcopy-after={postcopy_after}",
        "--max-bandwidth=64KiB/s", "--max-postcopy-bandwidth=64KiB/s", "--vcpus=1",
        "--program=scripted", "--report=report.json", "--events=events", "--html=page.html",
    )  # fmt: skip
    events = tmp_path / "events"
    until(lambda: has_state(events, state, "source") and read_events(events, "page-sent"))
    migration.signal(signal.SIGINT)
    migration.fail(130, "cancelled by SIGINT", where)
    reason = migration.errors.strip().removeprefix("midstream: ")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["status"], report["midstream"]["reason"]) == ("cancelled", reason)
    assert report["midstream"]["guest-side"] == guest
    assert 0 < report["ram"]["remaining"] <= report["ram"]["total"]
    assert report["ram"]["mbps"] > 0
    for side in ("source", "dest"):
        assert read_events(events, "state", side)[-1]["state"] == "cancelled"
    table = lab.run("report", "events").succeed().output
    rows = dict(line.split(None, 1) for line in table.splitlines() if " " in line.strip())
    assert rows["status"].strip() == "cancelled"
    assert rows["reason"].strip() == "cancelled by SIGINT"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"status":"cancelled","reason":"cancelled by SIGINT"' in page.replace(": ", ":").replace(
        ", ", ","
    )


def test_a_source_that_gave_up_is_cancelled_in_the_report_of_migrate(
    lab: Lab, tmp_path: Path
) -> None:
    """Exit status 1 is no failure where the user has said for how long."""
    migration = lab.run(
        "migrate", "--size=8MiB", "--page-size=4KiB", "--postcopy-after=never", "--vcpus=1",
        "--program=scripted", "--max-bandwidth=64KiB/s", "--give-up-after=200ms",
        "--report=report.json",
    )  # fmt: skip
    migration.fail(1, "given up after", "the guest runs on at the source")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"] == "cancelled"
    assert report["midstream"]["reason"] == migration.errors.strip().removeprefix("midstream: ")
    assert report["midstream"]["switch-over"] == {"reason": "give-up-after"}
