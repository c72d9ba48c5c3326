"""A page that lies in the precopy connection goes again, is placed once, and comes late once more.

Real processes and sockets.  The background hands over the beginning of its first frame and stands
there (tests/rigged.py); vCPUs touch what lies in the rest of it.  When their pages are placed the
limit is lifted, and the frame's own copies of these pages come.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import write_certificates
from tests.processes import Lab, Process, has_state, read_events, until
from tests.test_half_sent_page import PATIENT, step

# Of the first 64 KiB, that are a frame, and behind what goes of it at once.
WANTED, OTHER = 9, 12
FIRST_BYTES = 10_000
HELD = (
    "--policy=critical-first", "--size=1MiB", "--page-size=4KiB", "--chunk-size=64KiB",
    "--program=scripted", "--postcopy-after=0", "--max-postcopy-bandwidth=1GB/s", "--vcpus=2",
)  # fmt: skip


class Run:
    """A migration whose first frame is under way, and of which two pages were asked for."""

    def __init__(self, lab: Lab, *arguments: str, dest_arguments: tuple[str, ...] = ()) -> None:
        """Start both sides."""
        self._lab = lab
        self.source_events, self.dest_events = (
            lab.folder / f"{side}.jsonl" for side in ("source", "dest")
        )
        self._report = lab.folder / "report.json"
        script = lab.folder / "steps.toml"
        script.write_text(step("page = 0, received = 1", [WANTED, OTHER]), encoding="utf-8")
        self.source, self.dest = lab.start_pair(
            *HELD, *PATIENT, *arguments, f"--events={self.source_events}",
            f"--report={self._report}",
            dest_arguments=(
                f"--steps={script}", f"--events={self.dest_events}", *PATIENT, *dest_arguments,
            ),
            source_rig=f"hold-frame {FIRST_BYTES}",
        )  # fmt: skip
        self.address = self.dest.listening()

    def tell(self, *arguments: str) -> Process:
        """Tell the source something, as its user would."""
        return self._lab.run(*arguments, f"--session={self.session}")

    @property
    def session(self) -> str:
        """The session's name."""
        (told,) = read_events(self.source_events, "session")
        return str(told["session"])

    def resume(self) -> None:
        """Break the connections, and have the source come back."""
        self.tell("pause").succeed()
        until(lambda: has_state(self.dest_events, "postcopy-paused"))
        self._lab.run("source", f"--resume={self.session}", f"--connect={self.address}").succeed()

    def until_placed(self) -> None:
        """Wait until the copies of both pages are placed; their frame is still on its way."""
        until(lambda: {WANTED, OTHER} <= set(placed(self.dest_events)))
        assert not read_events(self.source_events, "page-sent")

    def finish(self) -> dict[str, Any]:
        """Lift the limit; return what the report says of itself, of a migration that ended well."""
        self.tell("set", "max-postcopy-bandwidth=0").succeed()
        self.source.succeed()
        assert self.dest.wait() == 0, self.dest.errors
        report: dict[str, Any] = json.loads(self._report.read_text(encoding="utf-8"))
        own: dict[str, Any] = report["midstream"]
        assert own["verified"]["digest-equal"]
        # Each page is placed once.
        assert sorted(placed(self.dest_events)) == list(range(256))
        assert own["pages-sent-twice"] == 2
        return own | {"sent-bytes": report["ram"]["normal-bytes"]}


def placed(path: Path) -> list[int]:
    """Return the pages that were placed so far, in order."""
    return [
        line["page"] + index
        for line in read_events(path, "page-placed")
        for index in range(line.get("pages", 1))
    ]


def answers(path: Path) -> dict[int, str]:
    """Return how the source answered the requests for each page."""
    return {line["page"]: line["answer"] for line in read_events(path, "page-request")}


def security(lab: Lab, how: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options of both sides for what lies between them."""
    if how == "tls":
        options = [tuple(write_certificates(lab.folder, side)) for side in ("source", "dest")]
        return options[0], options[1]
    return (("--checksum",) if how == "checksum" else ()), ()


@pytest.mark.parametrize("how", ["plain", "checksum", "tls"])
def test_a_page_in_the_connection_goes_again_and_is_placed_once(lab: Lab, how: str) -> None:
    """It is counted, what came late is dropped, and its frame is not in a hurry for it."""
    source_arguments, dest_arguments = security(lab, how)
    run = Run(lab, *source_arguments, dest_arguments=dest_arguments)
    run.until_placed()
    own = run.finish()
    assert answers(run.source_events) == {WANTED: "sent-again", OTHER: "sent-again"}
    assert own["bytes-sent-twice"] == 2 * 4096
    assert own["sent-bytes"] == (256 + 2) * 4096
    assert own["requests"]["on-postcopy-channel"] == 2
    assert own["requests"]["on-precopy-channel"] == 0
    assert own["preemptions"] == {"count": 1, "boosted": 0}
    assert own["checksums"]["changed"] == 0
    told = {line["page"]: line for line in read_events(run.dest_events, "vcpu-wake")}
    assert {page: told[page]["answer"] for page in told} == dict.fromkeys(
        (WANTED, OTHER), "sent-again"
    )
    overtaking = read_events(run.source_events, "overtake")
    assert [(line["page"], line["channel"]) for line in overtaking] == [
        (WANTED, "postcopy"), (OTHER, "postcopy")
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["plain", "checksum", "tls"])
def test_a_break_between_the_two_copies(lab: Lab, how: str) -> None:
    """What the first copy brought is not missed when the frame's own is lost."""
    source_arguments, dest_arguments = security(lab, how)
    run = Run(lab, *source_arguments, dest_arguments=dest_arguments)
    run.until_placed()
    run.resume()
    own = run.finish()
    assert own["recoveries"] == 1
    # Of what was compared with nothing what had come goes again, too.
    dropped_bytes = own["bytes-sent-twice"] - 2 * 4096
    assert 0 < dropped_bytes < FIRST_BYTES if how == "checksum" else dropped_bytes == 0
    assert own["sent-bytes"] <= 256 * 4096
