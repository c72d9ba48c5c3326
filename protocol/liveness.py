"""When to say that one is alive, and when the peer is taken for dead; counts, and has no clock.

Silence is counted in pulses, not by the clock: a side that was stopped for an hour (SIGSTOP, a
debugger) counts one pulse for it, and finds what the peer has said meanwhile before the next.
Without this a peer that is gone is noticed only by who has bytes for it: TCP itself says nothing
on a connection over which nothing is sent.
"""

from __future__ import annotations

from typing import NamedTuple

from protocol.limits import PING_SECONDS, PULSE_SECONDS


class Pulse(NamedTuple):
    """What a pulse comes to.

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
        """Take the connection's counters, `PULSE_SECONDS` after the last time.

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
