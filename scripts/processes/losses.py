"""Losses of a run's outputs: what its readers did not take, and what could not be written.

The first is their own doing, and is counted in the report (`midstream.dropped`).  The second, a
disk that is full, never stops a migration; that something which was asked for is not there is said
by the exit status, whichever output it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from protocol.errors import MidstreamError
from scripts.screen.output import dropped_messages

if TYPE_CHECKING:
    # Loading them takes the launcher 7 ms, and it has neither.
    from scripts.screen.recorder import Recorder
    from scripts.views.watch import Watcher

Report = dict[str, Any]


@dataclass(frozen=True)
class Losses:
    """Of one process, or of several together.

    Attributes:
        events: Lines of `--events`.
        messages: Lines on standard error.
        viewers: Browsers of `--serve` that were cut off.
        missing: What could not be written, as it is told; empty for nothing.
    """

    events: int = 0
    messages: int = 0
    viewers: int = 0
    missing: str = ""

    def __add__(self, other: Losses) -> Losses:
        """Return the losses of both; of what is missing one thing is told."""
        return Losses(
            self.events + other.events,
            self.messages + other.messages,
            self.viewers + other.viewers,
            self.missing or other.missing,
        )

    def to_plain(self) -> dict[str, int | str]:
        """Return them as a process hands them to the one that started it."""
        return asdict(self)

    def put_into(self, report: Report) -> Report:
        """Return a report with what was dropped; QEMU's own has nothing of midstream's but that."""
        dropped = {"events": self.events, "messages": self.messages, "viewers": self.viewers}
        if "midstream" in report or any(dropped.values()):
            report.setdefault("midstream", {})["dropped"] = dropped
        return report

    def check(self) -> None:
        """Fail if something is missing.

        Raises:
            MidstreamError: That is so.
        """
        if self.missing:
            raise MidstreamError(self.missing)


def losses_here(watchers: list[Watcher], recorder: Recorder | None = None) -> Losses:
    """Return what this process has lost so far."""
    return Losses(
        recorder.dropped if recorder is not None else 0,
        dropped_messages(),
        sum(watcher.dropped for watcher in watchers),
        str(recorder.failure or "") if recorder is not None else "",
    )
