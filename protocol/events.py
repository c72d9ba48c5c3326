"""The names of what is told as it happens, and the shape of whoever listens.

An event is a name and a few plain fields; the listener adds the time and the side.  Both sides'
code calls an `Emit`; what becomes of the events (a file, a progress line, nothing) is not its
business.
"""

from __future__ import annotations

from typing import Protocol

STATE = "state"
PASS_END = "pass-end"
PAGE_REQUEST = "page-request"
PAGE_START = "page-start"
PREEMPT = "preempt"
BOOST = "boost"
PAGE_SENT = "page-sent"
PAGE_PLACED = "page-placed"
TOUCH = "touch"
VCPU_WAIT = "vcpu-wait"
VCPU_WAKE = "vcpu-wake"
MISMATCH = "mismatch"
CHANNEL_LOST = "channel-lost"
RECOVERED = "recovered"
MEMORY_LOST = "memory-lost"


class Emit(Protocol):
    """Takes an event; must be cheap and must not raise."""

    def __call__(self, event: str, **fields: str | int | float | bool | None) -> None:
        """Take one event.

        Args:
            event: One of this module's names.
            **fields: Under the names of the events file: `block`, `page`, `channel`, `urgent`, ...
        """


def ignore(event: str, **fields: str | int | float | bool | None) -> None:
    """Take an event and do nothing with it."""
