"""What the scheduler says of what it does: answers to requests, notices, counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocol import answers
from protocol.channels import Channel
from protocol.events import PageEvent
from protocol.geometry import PageId


class Answer(Enum):
    """What a page request leads to, by the words that cross."""

    QUEUED = answers.QUEUED
    DUPLICATE = answers.DUPLICATE
    ALREADY_SENT = answers.ALREADY_SENT
    URGENT_IN_PLACE = answers.URGENT_IN_PLACE
    POSTPONED = answers.POSTPONED


@dataclass(slots=True)
class Notice:
    """Something that the scheduler did on the way to a decision, for whoever watches.

    Attributes:
        event: What it is to be told as.
        page: Which page.
        channel: Where it goes, or went.
        urgent: Whether a vCPU waits for it.
        boosted: Whether it had been broken off in the background.
    """

    event: type[PageEvent]
    page: PageId
    channel: Channel
    urgent: bool
    boosted: bool


@dataclass
class SchedulerCounts:
    """What happened so far, under the names of the report."""

    received: int = 0
    duplicate: int = 0
    already_sent: int = 0
    postponed: int = 0
    on_precopy_channel: int = 0
    on_postcopy_channel: int = 0
    preemptions: int = 0
    boosted: int = 0
    # Bytes of guest memory that went a second time though the destination had them: of what went
    # when a page was broken off, or of target pages that a break left half-received.
    resent_bytes: int = 0
    # Bytes that went a second time because a break had lost them on their way.
    lost_bytes: int = 0
    recoveries: int = 0
    # Frames that came changed, and the bytes of guest memory that went again for that.
    changed_frames: int = 0
    changed_bytes: int = 0
