"""A destination that holds a guest saves it whatever ends the migration; both sides say the same.

Real processes and real signals; a signal comes when the events say that its moment is there.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Lab, Process, environment_of, has_state, is_stopped, kill, until

# Postcopy that takes longer than any wait here.
SLOW = (
    "--size=12MiB", "--program=sequential", "--access-rate=1", "--vcpus=1", "--quiet",
    "--max-postcopy-bandwidth=10kB/s", "--postcopy-after=0",
)  # fmt: skip
QUICK = ("--size=8MiB", "--page-size=4KiB", "--vcpus=1", "--access-rate=100", "--quiet")

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


def report_of(path: Path) -> dict[str, Any]:
    """Return a report."""
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def names(folder: Path) -> set[str]:
    """Return what lies in a folder, hidden or not."""
    return {path.name for path in folder.iterdir()}


class Saving:
    """A pair whose destination saves its guest to a file in a folder of its own."""

    def __init__(self, lab: Lab, *source: str, dest: tuple[str, ...] = (), rig: str = "") -> None:
        """Start both."""
        self.folder = lab.folder / "saved"
        self.folder.mkdir()
        self.guest = self.folder / "guest"
        self.reports = {side: lab.folder / f"{side}.json" for side in ("source", "dest")}
        self.events = lab.folder / "dest.jsonl"
        self.source, self.dest = lab.start_pair(
            *source, f"--report={self.reports['source']}",
            dest_arguments=(
                "--quiet", f"--save={self.guest}", f"--report={self.reports['dest']}",
                f"--events={self.events}", *dest,
            ),
            dest_rig=rig,
        )  # fmt: skip

    def reach(self, state: str) -> None:
        """Wait until the destination is in a state."""
        until(lambda: has_state(self.events, state))

    def expect_part(self) -> None:
        """Expect the part that was there, the map of the rest, and nothing else."""
        self.dest.fail(4, "memory of the guest is lost", f"what is here is in {self.guest}")
        assert names(self.folder) == {"guest", "guest.missing.json"}
        assert self.guest.stat().st_size == 12 << 20
        assert {stat.S_IMODE(path.stat().st_mode) for path in self.folder.iterdir()} == {0o600}
        missing = report_of(self.folder / "guest.missing.json")
        assert 0 < missing["missing-bytes"] <= 12 << 20
        self.expect_told(self.dest, "dest", "cancelled")

    def expect_told(self, process: Process, side: str, status: str) -> None:
        """Expect that a side's report says what its last line says."""
        report = report_of(self.reports[side])
        assert report["status"] == status
        assert process.errors.splitlines()[-1] == f"midstream: {report['midstream']['reason']}"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_a_signal_in_postcopy_saves_what_is_here(lab: Lab, number: signal.Signals) -> None:
    """Whichever signal ends a destination that runs a guest, its memory so far is kept."""
    saving = Saving(lab, *SLOW)
    saving.reach("postcopy-active")
    saving.dest.signal(number)
    saving.expect_part()
    saving.source.fail(1, "cancelled by its user")
    saving.expect_told(saving.source, "source", "cancelled")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_a_signal_while_paused_saves_what_is_here(lab: Lab, number: signal.Signals) -> None:
    """The same as in postcopy: it makes no difference whether the source is there."""
    saving = Saving(lab, *SLOW, "--reconnect-timeout=60s")
    saving.reach("postcopy-active")
    kill(saving.source.pid)
    saving.reach("postcopy-paused")
    saving.dest.signal(number)
    saving.expect_part()


def test_a_part_never_replaces_a_good_guest(lab: Lab, tmp_path: Path) -> None:
    """An earlier guest is as it was, and the line says where the part is."""
    (tmp_path / "guest").write_bytes(b"an earlier guest")
    source, dest = lab.start_pair(
        *SLOW, dest_arguments=("--save=guest", "--quiet", "--events=dest.jsonl")
    )
    until(lambda: has_state(tmp_path / "dest.jsonl", "postcopy-active"))
    dest.signal(signal.SIGTERM)
    dest.fail(4, "what is here is in guest.partial", "guest, saved before, is left as it was")
    source.fail(1, "cancelled by its user")
    assert (tmp_path / "guest").read_bytes() == b"an earlier guest"
    assert (tmp_path / "guest.partial").stat().st_size == 12 << 20
    assert report_of(tmp_path / "guest.partial.missing.json")["missing-bytes"] > 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=lambda each: each.name)
def test_a_signal_while_saving_loses_no_guest(lab: Lab, number: signal.Signals) -> None:
    """A whole guest that nobody else has is written to its end; then both sides say the same."""
    saving = Saving(lab, *QUICK, rig="stop-saving")
    until(lambda: is_stopped(saving.dest.pid))
    assert names(saving.folder) == set()
    saving.dest.signal(number)
    saving.dest.signal(signal.SIGCONT)
    saving.dest.fail(130, f"cancelled by {number.name}", f"is here, in {saving.guest}")
    assert names(saving.folder) == {"guest"}
    assert saving.guest.stat().st_size == 8 << 20
    saving.source.fail(1, "cancelled by its user")
    saving.expect_told(saving.dest, "dest", "cancelled")
    saving.expect_told(saving.source, "source", "cancelled")


def test_a_second_signal_ends_a_save_that_hangs(lab: Lab) -> None:
    """Who insists is not kept waiting by a disk, and nothing of the file is left."""
    saving = Saving(lab, *QUICK, rig="block-saving")
    until((lab.folder / "saving").exists)
    saving.dest.signal(signal.SIGHUP)

    def insist() -> bool:
        # Of two that are sent one behind the other either may be heard first, and a terminal that
        # is closed after that insists on nothing.
        kill(saving.dest.pid, signal.SIGTERM)
        return saving.dest.status is not None

    until(insist)
    saving.dest.fail(130, "cancelled by SIG")
    assert names(saving.folder) == set()
    saving.expect_told(saving.dest, "dest", "cancelled")
    saving.source.fail(1, "connection")


def test_a_kill_while_saving_leaves_nothing(lab: Lab) -> None:
    """Not a byte of the guest is left under any name; the source says that it did not work."""
    saving = Saving(lab, *QUICK, rig="stop-saving")
    until(lambda: is_stopped(saving.dest.pid))
    kill(saving.dest.pid)
    assert saving.dest.wait() == -signal.SIGKILL
    saving.source.fail(1, "connection")
    assert names(saving.folder) == set()
    assert report_of(saving.reports["source"])["status"] == "failed"


def test_a_full_disk_is_one_truth(lab: Lab, tmp_path: Path) -> None:
    """A guest that cannot be saved has not arrived: both sides fail, for the same reason."""
    reason = "cannot save the guest to /dev/full: No space left on device"
    source, dest = lab.start_pair(
        *QUICK, "--report=source.json",
        dest_arguments=("--quiet", "--save=/dev/full", "--report=dest.json"),
    )  # fmt: skip
    migrate = lab.start("migrate", *QUICK, "--save=/dev/full", "--report=both.json")
    for process, name in ((source, "source"), (dest, "dest"), (migrate, "both")):
        process.fail(1, reason)
        report = report_of(tmp_path / f"{name}.json")
        assert report["status"] == "failed"
        assert reason in report["midstream"]["reason"]


# A file system of its own in a folder: so many MiB of which are free.
ON_SMALL_DISK = """
set -e
mount -t tmpfs -o size={size} none small
head -c {filled} /dev/zero > small/filler 2> /dev/null || true
exec "$@"
"""


def on_small_disk(folder: Path, size: str, filled: int, *arguments: str) -> tuple[int, str]:
    """Run a command whose folder `small` is a disk of its own; return its status and last line."""
    (folder / "small").mkdir(exist_ok=True)
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare")
    namespaces = [unshare, "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    mount = ["mount", "-t", "tmpfs", "none", "small"]
    tried = subprocess.run(
        [*namespaces, *mount], cwd=folder, capture_output=True, text=True, timeout=30, check=False
    )
    if tried.returncode:
        pytest.skip(f"no file system can be mounted in a namespace: {tried.stderr.strip()}")
    script = ON_SMALL_DISK.format(size=size, filled=filled)
    command = [sys.executable, "-P", "-m", "scripts", *arguments]
    done = subprocess.run(
        [*namespaces, "sh", "-c", script, "sh", *command], cwd=folder, env=environment_of({}),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_guest_larger_than_the_disk_stays_where_it_is(tmp_path: Path) -> None:
    """Room is looked for before the migration begins, and a full disk before anything does."""
    save = ("--save=small/guest", "--report=report.json")
    status, told = on_small_disk(tmp_path, "4m", 0, "migrate", *QUICK, *save)
    words = "cannot save the guest to small/guest: "
    assert status == 1, told
    assert words in told
    assert "4 MiB are free there, and it has 8 MiB" in told
    report = report_of(tmp_path / "report.json")
    assert report["status"] == "failed"
    assert words in report["midstream"]["reason"]
    status, told = on_small_disk(tmp_path, "1m", 2 << 20, "migrate", *QUICK, *save)
    assert status == 2, told
    assert told == ("midstream: Invalid value for --save: 'small/guest': No space left on device\n")


@pytest.mark.parametrize(
    ("name", "prepare", "reason"),
    [
        ("f", "f.missing.json", "'f.missing.json': is a directory"),
        ("x" * 250, "", "File name too long"),
        ("no/f", "", "its folder does not exist"),
    ],
)
def test_names_are_looked_at_first(lab: Lab, name: str, prepare: str, reason: str) -> None:
    """The memory's and the map's: what one of them cannot have is told before anything begins."""
    if prepare:
        (lab.folder / prepare).mkdir()
    before = names(lab.folder)
    commands = (("migrate",), ("dest", "--listen=127.0.0.1:0"), ("qemu", "--connect=127.0.0.1:1"))
    for command in commands:
        lab.start(*command, f"--save={name}").fail(2, "--save", reason)
    assert {each for each in names(lab.folder) - before if not each.startswith("process-")} == set()
