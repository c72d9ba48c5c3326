"""Policies: what the source does with a page request, as data.

Each preset is one answer to "a fault hits the page that the background stream is in the middle of",
so that all can be measured on the same trace.  Both ends know the table: the destination must know
which chunks may come over which channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocol.errors import LocalProtocolError


class HalfSent(Enum):
    """What a request for the preempted, half-sent page leads to."""

    # It keeps its turn in the queue: urgent, on the channel where it began.
    FINISH = "finish"
    # It is forgotten: the page comes when no request is queued.
    POSTPONE = "postpone"
    # The whole page goes again, urgent, over the postcopy channel; what went of it is wasted.
    RESEND = "resend"
    # What no frame was begun of goes over the postcopy channel, urgent.
    SPLIT = "split"


@dataclass(frozen=True)
class Policy:
    """The switches of a scheduling policy.

    Attributes:
        name: As in `--policy`.
        own_channel: Urgent pages have a connection of their own.
        preempts: A background page is broken off when a request comes.
        half_sent: What a request for the broken-off page leads to.
        locality: The background goes on behind the last requested page.
        concurrent: Urgent pages are sent beside the background, by a task of their own; a request
            for the page that the background is in the middle of is left to the background.
        critical: Only the target page that was touched is urgent; what is left of its page becomes
            background, the newest first, and may come over both channels.
    """

    name: str
    own_channel: bool = True
    preempts: bool = True
    half_sent: HalfSent = HalfSent.FINISH
    locality: bool = True
    concurrent: bool = False
    critical: bool = False

    def __post_init__(self) -> None:
        """Refuse a combination in which an urgent page could split a frame of another.

        Raises:
            LocalProtocolError: Preemption without a second channel.
        """
        if self.preempts and not self.own_channel:
            raise LocalProtocolError("a policy that preempts needs a channel of its own")
        if self.concurrent and (self.preempts or not self.own_channel):
            raise LocalProtocolError("what is sent concurrently needs no preemption but a channel")

    @property
    def mixes_channels(self) -> bool:
        """Whether chunks of one huge page may come over both channels."""
        return self.critical or self.half_sent is HalfSent.SPLIT


PRESETS = {
    policy.name: policy
    for policy in (
        # QEMU postcopy-ram without preemption: one stream, requests jump its queue.
        Policy("vanilla", own_channel=False, preempts=False),
        # The preempt series without breaking huge pages (x-postcopy-preempt-break-huge=off).
        Policy("own-channel", preempts=False),
        # QEMU 7.1 before "Respect postcopy request order in preemption mode".
        Policy("drop", half_sent=HalfSent.POSTPONE),
        # QEMU 7.1 with it.
        Policy("ordered"),
        # QEMU 8.0 and later, without its hint of locality.
        Policy("parallel", preempts=False, concurrent=True, locality=False),
        # What users of other hypervisors ask for.
        Policy("resend", half_sent=HalfSent.RESEND),
        Policy("split", half_sent=HalfSent.SPLIT),
        # The destination can map a target page of a huge page as soon as it is there.
        Policy("critical-first", critical=True),
    )
}


def preset(name: str) -> Policy:
    """Return the policy of that name.

    Raises:
        LocalProtocolError: There is none.
    """
    if name not in PRESETS:
        raise LocalProtocolError(f"unknown policy {name[:40]!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
