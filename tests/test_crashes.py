"""An interpreter that crashes: where its threads were is told, and who is left says what happened.

The kernel sends the signal of a crash to whoever touches memory that is not there; here tests do.
"""

import os
import signal

import pytest

from tests.processes import Lab, has_state, until
from tests.reports import read_report

# Slow enough to be caught in postcopy.
SLOW = (
    "--size=12MiB", "--program=sequential", "--access-rate=1", "--postcopy-after=0",
    "--max-postcopy-bandwidth=10kB/s", "--vcpus=1", "--quiet",
)  # fmt: skip
WHERE = "Fatal Python error: Segmentation fault\n"


@pytest.mark.parametrize(
    ("victim", "status", "reason"),
    [
        ("dest", 1, "the destination was killed by SIGSEGV"),
        # Who has the guest, without all of its memory, has more to say.
        ("source", 4, "memory of the guest is lost"),
        # Whoever maps a page for it at that moment hears only that it is gone.
        ("dest's guest", 1, "the guest process "),
    ],
)
def test_where_a_side_crashed_is_told(lab: Lab, victim: str, status: int, reason: str) -> None:
    """By `migrate`, though its user wants to read as little as can be; the last line says why."""
    events, report = lab.folder / "events.jsonl", lab.folder / "report"
    process = lab.fork("migrate", *SLOW, f"--events={events}", f"--report={report}")
    for side in ("source", "dest"):
        until(lambda: has_state(events, "postcopy-active", side))  # noqa: B023 - called now
    side, _, guest = victim.partition("'")
    pid = lab.pid_of(f"scripts {side}", process.pid)
    os.kill(lab.pid_of("guest.process", pid) if guest else pid, signal.SIGSEGV)
    assert process.wait() == status
    told, _, last = process.errors.rstrip("\n").rpartition("\n")
    assert last == f"midstream: {read_report(report)['midstream']['reason']}"
    assert reason in last
    assert told.startswith(WHERE)
    # Of every thread a stack; no other lines stand between.
    assert "most recent call first" in told
    assert all(line.startswith(("Fatal", "Thread", "Current", "  ", "Extension")) or not line
               for line in told.splitlines()), told  # fmt: skip


def test_a_destination_that_crashes_by_itself(lab: Lab) -> None:
    """Its exit status is the signal's; the source, which alone is left, says that it is gone."""
    events = lab.folder / "events.jsonl"
    dest = lab.fork("dest", "--listen=127.0.0.1:0", f"--events={events}", "--quiet")
    source = lab.fork("source", f"--connect={dest.listening()}", *SLOW, "--reconnect-timeout=100ms")
    until(lambda: has_state(events, "postcopy-active", "dest"))
    dest.signal(signal.SIGSEGV)
    assert dest.wait() == -signal.SIGSEGV
    assert dest.errors.startswith(WHERE)
    source.fail(1, "it could not be resumed in 0.1 s")
