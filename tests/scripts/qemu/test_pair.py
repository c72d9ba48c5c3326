"""A QEMU and its destination as two processes: both end, and why one failed is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from guest.probe import can_stop_at_faults
from protocol.errors import MigrationError
from scripts.processes.link import LOOPBACK
from scripts.qemu.command import PROGRAM
from scripts.qemu.pair import run_pair
from tests.helpers import bounded, nothing_left

SMALL = ["--size=16MiB", "--page-size=4KiB"]


async def test_a_pair_runs_to_its_end(tmp_path: Path) -> None:
    """A recorded trace is replayed on what a real QEMU brings; both processes are gone."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    trace, report, page = tmp_path / "trace", tmp_path / "report", tmp_path / "page.html"
    trace.write_text("".join(f"0 ram {page} r\n" for page in (4000, 17, 900)), encoding="utf-8")
    with nothing_left(), bounded(60):
        await run_pair(
            [*SMALL, "--no-preempt"],
            [f"--program=trace:{trace}", "--vcpus=1", f"--report={report}", f"--html={page}"],
            LOOPBACK,
        )
    told = json.loads(report.read_text(encoding="utf-8"))
    assert told["status"] == "completed"
    assert told["midstream"]["peer"] == "qemu"
    by_kernel = can_stop_at_faults().ok
    assert told["midstream"]["placement"] == ("userfault" if by_kernel else "simulated")
    assert "postcopy-active" in page.read_text(encoding="utf-8")


async def test_a_pair_whose_qemu_does_not_start() -> None:
    """The QEMU's own words are the reason, and its destination is not left waiting."""
    with nothing_left(), bounded(60), pytest.raises(MigrationError, match="no such program"):
        await run_pair([*SMALL, "--qemu=/nowhere/qemu"], [], LOOPBACK)
