"""When a peer is given up: it was silent for too long, or paused for too long.  Has no clock.

Silence is counted in pulses, not by the clock: a side that was stopped for an hour (SIGSTOP, a
debugger) counts one pulse for it, and finds what the peer has said meanwhile before the next.
Without this a peer that is gone is noticed only by who has bytes for it: TCP itself says nothing
on a connection over which nothing is sent.

The limit of a pause is for the time without progress: pauses add up until memory has arrived in
between.  So a connection that comes back only to break again does not keep a side for ever, and one
that brings the least each time does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from protocol.limits import PING_SECONDS, PULSE_SECONDS


class Pulse(NamedTuple):
    """The outcome of a pulse.

    Attributes:
        ping: Say something now.
        lost: The peer has been silent for too long.
    """

    ping: bool
    lost: bool


class Liveness:
    """Watches one connection; its user looks at the connection's counters at each pulse."""

    def __init__(self, silence_seconds_max: float) -> None:
        """Begin with both sides just heard.

        Args:
            silence_seconds_max: How long the peer may be silent.
        """
        self._pings_after = round(PING_SECONDS / PULSE_SECONDS)
        self._lost_after = round(silence_seconds_max / PULSE_SECONDS)
        self._sent_bytes = self._received_bytes = -1
        self._quiet_pulses = self._silent_pulses = 0

    def pulse(self, *, sent_bytes: int, received_bytes: int, listening: bool) -> Pulse:
        """Compare the connection's counters, `PULSE_SECONDS` after the last time.

        Args:
            sent_bytes: All that was sent so far.
            received_bytes: All that was received so far.
            listening: Somebody waits for bytes; where nobody does, silence means nothing.
        """
        quiet, silent = sent_bytes == self._sent_bytes, received_bytes == self._received_bytes
        self._sent_bytes, self._received_bytes = sent_bytes, received_bytes
        self._quiet_pulses = self._quiet_pulses + 1 if quiet else 0
        self._silent_pulses = self._silent_pulses + 1 if silent and listening else 0
        ping = self._quiet_pulses >= self._pings_after
        if ping:
            self._quiet_pulses = 0
        return Pulse(ping, self._silent_pulses >= self._lost_after)


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
