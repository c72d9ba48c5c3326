"""How long a migration may stay paused.  Pure: times come in as arguments.

The limit is for the time without progress: pauses add up until memory has arrived in between.  So a
connection that comes back only to break again does not keep a side for ever, and one that brings
the least each time does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PauseLimit:
    """The time that one side may be paused; `pause` and `go_on` in turns.

    At progress `renew` it, or say with `lacks` how much is missing and let that tell.

    Attributes:
        seconds_max: All of it.
    """

    seconds_max: float
    _spent_seconds: float = 0.0
    _since: float | None = None
    _least_missing: float = float("inf")

    def pause(self, now: float) -> None:
        """Begin a pause; in one that has begun nothing happens."""
        if self._since is None:
            self._since = now

    def go_on(self, now: float) -> None:
        """End a pause."""
        if self._since is not None:
            self._spent_seconds += now - self._since
            self._since = None

    def renew(self) -> None:
        """Give all of the time anew: memory has arrived since the last pause."""
        self._spent_seconds = 0.0

    def lacks(self, missing_pages: float) -> bool:
        """Say how much memory is missing; return whether that is less than ever: progress.

        Args:
            missing_pages: In target pages; infinite where the guest has not been taken.
        """
        has_come = missing_pages < self._least_missing
        if has_come:
            self._least_missing = missing_pages
            self.renew()
        return has_come

    def seconds_left(self, now: float) -> float:
        """Return how much longer the side may be paused, 0 if no longer."""
        paused = now - self._since if self._since is not None else 0.0
        return max(self.seconds_max - self._spent_seconds - paused, 0.0)
