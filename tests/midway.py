"""Migrations of real processes, caught in the middle of what they do."""

from __future__ import annotations

from pathlib import Path

from tests.processes import Lab, connection_count, has_state, read_events, until
from tests.reports import read_report

# Slow enough to be caught at whatever it is doing: both phases take longer than any wait here.
SLOW = (
    "--size=12MiB", "--program=sequential", "--access-rate=1", "--max-bandwidth=10kB/s",
    "--max-postcopy-bandwidth=10kB/s", "--vcpus=1", "--quiet",
)  # fmt: skip
PHASES = {"active": SLOW, "postcopy-active": (*SLOW, "--postcopy-after=0")}

# A side that is told to end, or whose peer has, does so well within this.
END_SECONDS_MAX = 20.0


def expect_known(events: Path, phase: str) -> None:
    """Wait until the source has heard that the guest runs there, if it is in postcopy."""
    if phase == "postcopy-active":
        until(lambda: read_events(events, "downtime", "source"))


class Pair:
    """A source and a destination that were started by hand, in the middle of a migration."""

    def __init__(self, lab: Lab, phase: str, name: str) -> None:
        """Start both; `name` begins the names of the events files."""
        self._events = [lab.folder / f"{name}-{side}.jsonl" for side in ("source", "dest")]
        self._phase = phase
        self.dest_report = lab.folder / f"{name}-dest.json"
        self.source_report = lab.folder / f"{name}-source.json"
        self.dest = lab.fork(
            "dest", "--listen=127.0.0.1:0", "--quiet", f"--events={self._events[1]}",
            f"--report={self.dest_report}", "--recover-timeout=100ms",
        )  # fmt: skip
        self.port = int(self.dest.listening().rpartition(":")[2])
        self.source = lab.fork(
            "source", f"--connect=127.0.0.1:{self.port}", *PHASES[phase],
            f"--events={self._events[0]}", f"--report={self.source_report}",
        )  # fmt: skip

    def reach_phase(self) -> None:
        """Wait until both sides are in the phase that it was started for."""
        until(lambda: all(has_state(events, self._phase) for events in self._events))
        expect_known(self._events[0], self._phase)
        # Who else is on this machine may try this port, and is sent away.
        until(lambda: connection_count(self.port) == 2)


class Migration:
    """`midstream migrate` in the middle of its work, and its processes by their names."""

    def __init__(self, lab: Lab, phase: str, name: str) -> None:
        """Start it; `name` begins the name of the events file."""
        self._lab = lab
        self._events = lab.folder / f"{name}.jsonl"
        self._phase = phase
        self.report = lab.folder / f"{name}.json"
        self.launcher = lab.fork(
            "migrate", *PHASES[phase], f"--events={self._events}", f"--report={self.report}"
        )

    def fail(self, status: int, words: str, seconds_max: float = END_SECONDS_MAX) -> None:
        """Wait for its end, which the report must tell of as standard error does."""
        self.launcher.fail(status, words, seconds_max=seconds_max)
        report = read_report(self.report)
        assert report["status"] == ("cancelled" if status == 130 else "failed")
        assert f"midstream: {report['midstream']['reason']}\n" == self.launcher.errors

    def reach_phase(self) -> dict[str, int]:
        """Wait until both sides are in the phase that it was started for; return pids by name."""
        sides = ("source", "dest")
        until(lambda: all(has_state(self._events, self._phase, side) for side in sides))
        expect_known(self._events, self._phase)
        source = self._lab.pid_of("scripts source", self.launcher.pid)
        dest = self._lab.pid_of("scripts dest", self.launcher.pid)
        return {
            "launcher": self.launcher.pid,
            "source": source,
            "dest": dest,
            "source's guest": self._lab.pid_of("guest.process", source),
            "destination's guest": self._lab.pid_of("guest.process", dest),
        }
