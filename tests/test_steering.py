"""A precopy that never converges ends by each means there is, and the guest is where it is said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import GaveUp, PeerAborted
from source.convergence import SwitchRule
from tests.bounds import bounded, nothing_left
from tests.breaking import Breaking
from tests.guests import KIB, small_geometry
from tests.processes import AT_ONCE, Lab, Process, has_state, read_events, until

# A guest that writes all the time, and may not stand still at all: as long as it has written one
# page in a pass, there is another.  Each pass takes four seconds.
NEVER_CONVERGES = (
    "--size=8MiB", "--page-size=4KiB", "--vcpus=1", "--access-rate=2000", "--write-ratio=1",
    "--max-bandwidth=2MB/s", "--downtime-limit=0ms",
)  # fmt: skip


@dataclass
class Steered:
    """A migration between processes, and what it tells."""

    lab: Lab
    source: Process
    dest: Process

    def events(self, side: str, name: str = "") -> list[dict[str, Any]]:
        """Return the events of a side so far."""
        return read_events(self.lab.folder / f"{side}.jsonl", name)

    def report(self, side: str) -> dict[str, Any]:
        """Return the report of a side that has ended."""
        report: dict[str, Any] = json.loads((self.lab.folder / f"{side}.json").read_text())
        return report

    def tell(self, *arguments: str) -> Process:
        """Tell the source something, as its user would."""
        until(lambda: self.events("source", "session"))
        (told,) = self.events("source", "session")
        return self.lab.run(*arguments, f"--session={told['session']}")

    def reach(self, state: str) -> None:
        """Wait until the source is in a state."""
        until(lambda: has_state(self.lab.folder / "source.jsonl", state))

    def check_completed(self, reason: str) -> dict[str, Any]:
        """Check that the guest is the destination's, for that reason; return what is told of it."""
        assert self.source.wait() == 0, self.source.errors
        self.dest.succeed()
        for side in ("source", "dest"):
            report = self.report(side)
            assert report["status"] == "completed"
            assert report["midstream"]["switch-over"] == {"reason": reason}
            assert report["midstream"]["guest-side"] == "dest"
            assert report["midstream"]["verified"]["digest-equal"] is True
            assert report["ram"]["remaining"] == 0
        assert len(self.events("dest", "guest-run")) == 1
        assert self.events("source", "guest-run") == []
        own: dict[str, Any] = self.report("source")["midstream"]
        return own


@pytest.fixture
def steer(lab: Lab) -> Any:  # noqa: ANN401 - a factory
    """Start migrations that do not converge."""

    def start(*arguments: str) -> Steered:
        source, dest = lab.start_pair(
            *NEVER_CONVERGES, *arguments, "--events=source.jsonl",
            "--report=source.json",
            dest_arguments=("--events=dest.jsonl", "--report=dest.json"),
            source_environment=AT_ONCE,
        )  # fmt: skip
        return Steered(lab, source, dest)

    return start


def test_postcopy_after_a_time(steer: Any) -> None:  # noqa: ANN401
    """Time ends it in the middle of the first pass; what was not sent of that follows."""
    run = steer("--postcopy-after-time=500ms")
    own = run.check_completed("postcopy-after-time")
    assert own["passes"] == 0
    assert run.events("source", "pass-end") == []


def test_the_switch_over_by_hand(steer: Any) -> None:  # noqa: ANN401
    """The user's word ends it, though postcopy was never to be; afterwards it is too late."""
    run = steer("--postcopy-after=never", "--max-postcopy-bandwidth=1MB/s")
    run.reach("active")
    assert run.tell("switch-over").succeed().output == "switching over to postcopy\n"
    run.reach("postcopy-active")
    run.tell("switch-over").fail(1, "precopy is over, its state is postcopy-active")
    assert run.tell("set", "max-postcopy-bandwidth=0").succeed().output == (
        "max-postcopy-bandwidth is unlimited\n"
    )
    own = run.check_completed("switch-over")
    assert own["passes"] == 0


def test_other_limits_make_it_converge(steer: Any) -> None:  # noqa: ANN401
    """A pass that would take an hour is over at once without a limit, and what is left may go."""
    run = steer("--postcopy-after=never", "--max-bandwidth=2kB/s")
    run.reach("active")
    done = run.tell("set", "max-bandwidth=0", "downtime-limit=1min").succeed()
    assert done.output == "max-bandwidth is unlimited, downtime-limit is 60000 ms\n"
    own = run.check_completed("converged")
    assert own["passes"] >= 1
    # Those of the command line are told at the start.
    at_start, limits = run.events("source", "limits")
    assert (at_start["max-bandwidth"], limits["max-bandwidth"]) == (2000, 0)


def test_given_up(steer: Any) -> None:  # noqa: ANN401
    """It is cancelled in good order: both sides say so, and the guest was never stopped."""
    run = steer("--postcopy-after=never", "--give-up-after=500ms")
    words = ("given up after", "in pass 1, with", "the guest runs on at the source")
    run.source.fail(1, *words)
    run.dest.fail(1, "the source ended the migration", *words)
    for side in ("source", "dest"):
        report = run.report(side)
        assert report["status"] == "cancelled"
        assert "given up after" in report["midstream"]["reason"]
        states = [event["state"] for event in run.events(side, "state")]
        assert states == ["setup", "active", "cancelling", "cancelled"]
    report = run.report("source")
    assert report["midstream"]["guest-side"] == "source"
    assert report["midstream"]["switch-over"] == {"reason": "give-up-after"}
    assert 0 < report["ram"]["remaining"] < report["ram"]["total"]
    assert (report["downtime"], report["ram"]["postcopy-bytes"]) == (0, 0)
    for name in ("guest-stop", "guest-run"):
        assert run.events("source", name) + run.events("dest", name) == []


async def test_a_guest_that_was_given_up_runs_on(breaking: Breaking) -> None:
    """When the migration is cancelled the guest runs, and nobody has ever stopped it."""
    rule = SwitchRule(None, downtime_ms_max=-1, give_up_after_seconds=0.05)
    with nothing_left(), bounded():
        run = await breaking.run(small_geometry(), {}, rule=rule, bandwidth=512 * KIB)
    assert isinstance(run.errors["source"], GaveUp)
    assert isinstance(run.errors["dest"], PeerAborted)
    assert [run.states(side)[-1] for side in ("source", "dest")] == ["cancelled", "cancelled"]
    guest = breaking.guests["source"].made[-1]
    assert guest.is_running
    assert guest.calls == ["run"]
    assert breaking.guests["dest"].made[-1].calls == []


def test_a_pass_that_does_not_shrink_is_said(lab: Lab, tmp_path: Path) -> None:
    """The user hears once why it does not end, in rates, and the events have it too."""
    source, dest = lab.start_pair(
        "--size=256KiB", "--page-size=4KiB", "--vcpus=2", "--access-rate=0", "--write-ratio=1",
        "--postcopy-after=3", "--max-bandwidth=256KiB/s", "--downtime-limit=0ms",
        "--events=events",
        source_environment=AT_ONCE,
    )  # fmt: skip
    assert source.wait() == 0
    assert dest.wait() == 0
    (told,) = read_events(tmp_path / "events", "not-converging")
    assert told["dirty-bytes"] >= 0.9 * told["bytes"] > 0
    (line,) = source.errors.splitlines()
    assert line.startswith("precopy does not converge: the guest dirties memory at ")
    assert "kB/s" in line
    assert "midstream switch-over --session " in line
