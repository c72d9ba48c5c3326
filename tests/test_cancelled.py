"""Ctrl-C, and what is like it: the last line says where the guest is, and reports say the same.

Real processes, which are told to end when their events say that they have come so far.
"""

import os
import signal
from pathlib import Path

import pytest

from scripts.processes import launcher
from tests.midway import END_SECONDS_MAX, PHASES, Migration, Pair
from tests.processes import Lab, Process, kill, until
from tests.reports import expect_valid, read_report

# What `migrate` waits for a side before it kills it: an end before that has another reason.
PATIENCE_SECONDS = launcher.END_SECONDS_MAX

STAYS = "the guest stays at the source\n"
MOVED = "the guest is at the destination, "
LOST = f"{MOVED}memory of the guest is lost: "
NOWHERE = "there is no guest yet\n"

# By the phase: where a source and a destination that are cancelled say that the guest is, the exit
# status of that destination, and the side that reports name.
ENDS = {
    "active": (STAYS, f"cancelled by SIGTERM; {STAYS}", 130, "source"),
    "postcopy-active": (MOVED, f"cancelled by its user; {LOST}", 4, "dest"),
}


def expect_told(process: Process, path: Path, guest_side: str) -> None:
    """Expect that a report gives the line's reason, and where the guest is."""
    report = read_report(path)
    expect_valid(report)
    own = report["midstream"]
    assert report["status"] == "cancelled"
    assert process.errors == f"midstream: {own['reason']}\n"
    assert own["guest-side"] == guest_side
    # Once, though the verdict is made of both.
    assert own["verdict"]["sentences"][0].count("the guest") == own["reason"].count("the guest")


@pytest.mark.parametrize("phase", PHASES)
def test_either_side_can_be_cancelled(lab: Lab, phase: str) -> None:
    """A signal ends one side with 130, and the other with the reason: it is told what it knows.

    A destination that runs the guest loses memory with that, whichever side is told to end.
    """
    place, told, status, guest_side = ENDS[phase]
    first, second = Pair(lab, phase, "first"), Pair(lab, phase, "second")
    first.reach_phase()
    first.source.signal(signal.SIGINT)
    second.reach_phase()
    second.dest.signal(signal.SIGTERM)
    first.source.fail(130, f"cancelled by SIGINT; {place}", seconds_max=END_SECONDS_MAX)
    expect_told(first.source, first.source_report, guest_side)
    loss = LOST if status == 4 else ""
    first.dest.fail(
        status if loss else 1, "cancelled by its user", loss, seconds_max=END_SECONDS_MAX
    )
    second.dest.fail(status, told, seconds_max=END_SECONDS_MAX)
    expect_told(second.dest, second.dest_report, guest_side)
    second.source.fail(1, "cancelled by its user", seconds_max=END_SECONDS_MAX)


def test_migrate_can_be_cancelled(lab: Lab) -> None:
    """Ctrl-C and SIGTERM end `migrate` with 130 and one line, whatever it is doing."""
    cases = {
        "SIGINT": ("active", STAYS, "source"), "SIGTERM": ("postcopy-active", LOST, "dest"),
    }  # fmt: skip
    migrations = {name: Migration(lab, case[0], name) for name, case in cases.items()}
    for name, migration in migrations.items():
        _, place, guest_side = cases[name]
        migration.reach_phase()
        migration.launcher.signal(signal.Signals[name])
        migration.fail(130, f"cancelled by {name}; {place}")
        expect_told(migration.launcher, migration.report, guest_side)


def test_migrate_can_be_cancelled_before_the_sides_meet(lab: Lab, tmp_path: Path) -> None:
    """Ctrl-C ends a destination too that waits for a source which never came."""
    os.mkfifo(tmp_path / "pipe")
    migrate = lab.fork("migrate", "--size=4MiB", "--image=pipe", "--report=report")
    # It opens when the source has come as far as to read it.
    with (tmp_path / "pipe").open("wb"):
        migrate.signal(signal.SIGINT)
        migrate.fail(130, f"cancelled by SIGINT; {NOWHERE}", seconds_max=PATIENCE_SECONDS)
    expect_told(migrate, tmp_path / "report", "nowhere")


def test_a_side_alone_has_no_guest(lab: Lab, tmp_path: Path) -> None:
    """A source that still fills its memory, and a destination to which nobody has come."""
    os.mkfifo(tmp_path / "pipe")
    dest = lab.fork("dest", "--listen=127.0.0.1:0", "--quiet", "--report=dest.json")
    source = lab.fork(
        "source", f"--connect={dest.listening()}", "--size=4MiB", "--image=pipe", "--quiet",
        "--report=source.json",
    )  # fmt: skip
    with (tmp_path / "pipe").open("wb"):
        source.signal(signal.SIGINT)
        source.fail(130, f"cancelled by SIGINT; {NOWHERE}")
    dest.signal(signal.SIGINT)
    dest.fail(130, f"cancelled by SIGINT; {NOWHERE}")
    for process, name in ((source, "source"), (dest, "dest")):
        expect_told(process, tmp_path / f"{name}.json", "nowhere")


def test_who_insists_is_told_too(lab: Lab, tmp_path: Path) -> None:
    """The guest has come whole and is being saved, which a second Ctrl-C does not wait for."""
    source, dest = lab.start_pair(
        "--size=4MiB", "--page-size=4KiB", "--vcpus=1", "--access-rate=100", "--quiet",
        dest_arguments=("--quiet", "--save=guest", "--report=report"), dest_rig="block-saving",
    )  # fmt: skip
    until((tmp_path / "saving").exists)

    def insist() -> bool:
        kill(dest.pid, signal.SIGINT)
        return dest.status is not None

    until(insist)
    dest.fail(130, f"cancelled by SIGINT; {MOVED}all of its memory is here\n")
    expect_told(dest, tmp_path / "report", "dest")
    source.fail(1, "connection")
