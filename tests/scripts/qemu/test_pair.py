"""A QEMU and its destination as two processes: both end, and why one failed is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from guest.probe import can_stop_at_faults
from protocol.errors import MigrationError
from scripts.links.link import LOOPBACK
from scripts.qemu.command import PROGRAM
from scripts.qemu.pair import run_pair
from tests.bounds import bounded, nothing_left
from tests.qemu_relay import Relay

MIB = 1 << 20
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


@pytest.mark.parametrize("preempt", ["--preempt", "--no-preempt"])
async def test_a_migration_that_breaks_twice_is_resumed(tmp_path: Path, preempt: str) -> None:
    """QEMU hears what is here, sends the rest, and all of its memory arrives."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    report, near, far = (tmp_path / name for name in ("report", "near", "far"))
    relay = Relay(cuts=[4 * MIB, 8 * MIB])
    with nothing_left(), bounded(60):
        await run_pair(
            [*SMALL, preempt, "--max-postcopy-bandwidth=20MB/s", "--reconnect-for=30s",
             f"--save={near}"],
            ["--access-rate=500", f"--report={report}", f"--save={far}"],
            relay,
        )  # fmt: skip
    own = json.loads(report.read_text(encoding="utf-8"))["midstream"]
    assert own["recoveries"] == 2
    offset = 0
    for block in own["blocks"]:
        if block["name"] == "ram":
            saved = far.read_bytes()[offset : offset + block["length"]]
            assert saved == near.read_bytes()
            return
        offset += block["length"]
    pytest.fail("there is no block of that name")


async def test_compressed_pages_are_inflated(tmp_path: Path) -> None:
    """With its capability compress a real QEMU's memory arrives whole, in postcopy too."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    image, report, far = (tmp_path / name for name in ("image", "report", "far"))
    image.write_bytes(b"".join(b"%08d" % page * 512 for page in range(16 * MIB // 4096)))
    with nothing_left(), bounded(60):
        try:
            await run_pair(
                [*SMALL, "--no-preempt", "--compress", f"--image={image}"],
                ["--access-rate=500", f"--report={report}", f"--save={far}"],
                LOOPBACK,
            )
        except MigrationError as error:
            if "compress" in str(error):
                pytest.skip(f"{PROGRAM} has no capability compress: {error}")
            raise
    told = json.loads(report.read_text(encoding="utf-8"))
    assert told["midstream"]["channels"]["precopy"] < 8 * MIB
    assert far.read_bytes()[: 16 * MIB] == image.read_bytes()


async def test_a_pair_whose_qemu_does_not_start() -> None:
    """The QEMU's own words are the reason, and its destination is not left waiting."""
    with nothing_left(), bounded(60), pytest.raises(MigrationError, match="no such program"):
        await run_pair([*SMALL, "--qemu=/nowhere/qemu"], [], LOOPBACK)


async def test_a_pair_whose_qemu_does_not_say_why() -> None:
    """Where QEMU knows only that it has failed, the destination's words are the reason."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    converged = pytest.raises(MigrationError, match=r"destination has failed: .*before precopy has")
    with nothing_left(), bounded(60), converged:
        await run_pair(["--size=1MiB", "--page-size=4KiB", "--postcopy-after=1"], [], LOOPBACK)
