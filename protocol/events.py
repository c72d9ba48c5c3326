"""The names of what is told as it happens, and the shape of whoever listens.

An event is a name and a few plain fields; the listener adds the time and the side.  Both sides'
code calls an `Emit`; what becomes of the events (a file, a progress line, nothing) is not its
business.
"""

from __future__ import annotations

from typing import Protocol

from protocol.geometry import Geometry

RUN = "run"
RAM_BLOCK = "ram-block"
SESSION = "session"
STATE = "state"
PROGRESS = "progress"
PASS_END = "pass-end"
NOT_CONVERGING = "not-converging"
LIMITS = "limits"
PAGE_REQUEST = "page-request"
PAGE_START = "page-start"
PREEMPT = "preempt"
BOOST = "boost"
PART_SENT = "part-sent"
PAGE_SENT = "page-sent"
PAGE_PLACED = "page-placed"
TOUCH = "touch"
TOUCHED = "touched"
VCPU_WAIT = "vcpu-wait"
VCPU_WAKE = "vcpu-wake"
GUEST_STOP = "guest-stop"
GUEST_RUN = "guest-run"
DOWNTIME = "downtime"
MISSING = "missing"
FRAME_CHANGED = "frame-changed"
MISMATCH = "mismatch"
ACCESSES = "accesses"
VERDICT = "verdict"
CHANNEL_LOST = "channel-lost"
RESUME_ATTEMPT = "resume-attempt"
RECOVERED = "recovered"
MEMORY_LOST = "memory-lost"
EVENTS_DROPPED = "events-dropped"


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


def tell_run(
    emit: Emit, geometry: Geometry, *, policy: str, chunk_bytes: int, vcpus: int, program: str
) -> None:
    """Tell what is migrated and how, so that what is told after it explains itself.

    Args:
        emit: Takes the events: one RUN, and a RAM_BLOCK for each block, in their order.
        geometry: The guest's blocks.
        policy: The policy's name.
        chunk_bytes: The most that one frame carries.
        vcpus: How many vCPUs the guest has.
        program: What they run.
    """
    emit(
        RUN,
        policy=policy, chunk_bytes=chunk_bytes, vcpus=vcpus, program=program,
        blocks=len(geometry.blocks),
    )  # fmt: skip
    for index, block in enumerate(geometry.blocks):
        emit(
            RAM_BLOCK,
            block=index, name=block.name, length_bytes=block.length_bytes,
            page_bytes=block.page_bytes,
        )  # fmt: skip
