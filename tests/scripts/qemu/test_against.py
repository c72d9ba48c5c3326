"""A QEMU beside the policies: what --against names, and a run of both processes on a link."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest

from guest.probe import can_stop_at_faults
from protocol.errors import MigrationError
from scripts.links.link import LOOPBACK
from scripts.qemu.against import peer_of, run_pair
from scripts.qemu.command import PROGRAM
from tests.bounds import bounded, nothing_left
from tests.qemu_relay import Relay
from tests.reports import read_report


def program(folder: Path, *lines: str) -> Path:
    """Return a program that runs these lines of a shell."""
    path = folder / "qemu"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_qemu_is_known_by_its_version(tmp_path: Path) -> None:
    """It is the program that is named, and what that says it is; without a name there is none."""
    path = program(tmp_path, "echo 'QEMU emulator version 9.1.2 (Debian 1:9.1.2+ds-1)'")
    peer = peer_of(f"qemu={path}")

    assert peer is not None
    assert (peer.program, peer.title) == (str(path), "QEMU 9.1.2")
    assert peer_of(None) is None


def test_the_usual_program_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file it is the one on the path, and that it is not there is told."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(click.BadParameter, match="there is no program qemu-system-x86_64"):
        peer_of("qemu")
    program(tmp_path, "echo 'QEMU emulator version 7.2.0'").rename(tmp_path / "qemu-system-x86_64")
    peer = peer_of("qemu")

    assert peer is not None
    assert (peer.program, peer.title) == ("qemu-system-x86_64", "QEMU 7.2.0")


def test_what_is_no_qemu_is_refused(tmp_path: Path) -> None:
    """Another name, another program, and one that cannot be run are told apart."""
    with pytest.raises(click.BadParameter, match="'xen' is not qemu"):
        peer_of("xen")
    path = program(tmp_path, "echo 'version 3'")
    with pytest.raises(click.BadParameter, match="is no QEMU"):
        peer_of(f"qemu={path}")
    path.write_text("#!/nowhere/sh\n", encoding="utf-8")
    with pytest.raises(click.BadParameter, match="No such file"):
        peer_of(f"qemu={path}")


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
    told = read_report(report)
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
            [*SMALL, preempt, "--max-postcopy-bandwidth=20MB/s", "--reconnect-timeout=30s",
             f"--save={near}"],
            ["--access-rate=500", f"--report={report}", f"--save={far}"],
            relay,
        )  # fmt: skip
    own = read_report(report)["midstream"]
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
    told = read_report(report)
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
