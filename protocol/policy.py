"""Policies: what the source does with a page request, as data.

Each preset is one answer to "a fault hits the page that the background stream is in the middle of",
so that all can be measured on the same trace.  The destination must know which chunks may come over
which channel: it is told the switches, and a policy's name is only for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self

from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.text import did_you_mean, one_line

# The switches that are on or off, by their names in Setup.
_FLAGS = {
    "own-channel": "own_channel",
    "preempts": "preempts",
    "locality": "locality",
    "concurrent": "concurrent",
    "critical": "critical",
    "overtakes": "overtakes",
}
_HALF_SENT, _PRIORITY = "half-sent=", "priority="

POLICY_NAME_CHARS_MAX = 64


class HalfSent(Enum):
    """The answer of a policy to a request for the preempted, half-sent page."""

    # It keeps its turn in the queue: urgent, on the channel where it began.
    FINISH = "finish"
    # It is forgotten: the page comes when no request is queued.
    POSTPONE = "postpone"
    # The whole page goes again, urgent, over the postcopy channel; what went of it is wasted.
    RESEND = "resend"
    # What no frame was begun of goes over the postcopy channel, urgent.
    SPLIT = "split"


class Priority(Enum):
    """The traffic that goes first in the queues of the source's host."""

    # Nothing does: its connections are alike.
    NONE = "none"
    # The postcopy connection, whatever somebody waits for on the precopy connection.
    CHANNEL = "channel"
    # What somebody waits for: the postcopy connection, but not before such bytes on the other.
    URGENCY = "urgency"


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
        priority: What goes first in the queues of the source's host.
        overtakes: A target page, or a page of that size, that is asked for when its bytes lie in
            the precopy connection behind others goes again over the postcopy connection; the copy
            that comes first counts.
    """

    name: str
    own_channel: bool = True
    preempts: bool = True
    half_sent: HalfSent = HalfSent.FINISH
    locality: bool = True
    concurrent: bool = False
    critical: bool = False
    priority: Priority = Priority.NONE
    overtakes: bool = False

    def __post_init__(self) -> None:
        """Refuse a combination in which an urgent page could split a frame of another.

        Raises:
            LocalProtocolError: Preemption without a second channel.
        """
        if self.preempts and not self.own_channel:
            raise LocalProtocolError("a policy that preempts needs a channel of its own")
        if self.concurrent and (self.preempts or not self.own_channel):
            raise LocalProtocolError("what is sent concurrently needs no preemption but a channel")
        if self.priority is not Priority.NONE and not self.own_channel:
            raise LocalProtocolError("a policy with a priority needs a channel of its own")
        if self.overtakes and not (self.preempts and self.half_sent is HalfSent.FINISH):
            raise LocalProtocolError("what overtakes preempts, and what is half-sent is finished")

    @classmethod
    def from_switches(cls, name: str, switches: Sequence[str]) -> Self:
        """Return the policy that a peer describes; one of any name, if its switches are known.

        Args:
            name: For people.
            switches: As `switches` returns them, in any order.

        Raises:
            LocalProtocolError: A switch is unknown or there twice, or they do not go together.
        """
        name = one_line(name)[:POLICY_NAME_CHARS_MAX]
        if len(set(switches)) < len(switches):
            raise LocalProtocolError(f"policy {name!r} has a switch twice")
        half_sent, priority = [HalfSent.FINISH.value], [Priority.NONE.value]
        flags = dict.fromkeys(_FLAGS.values(), False)
        for switch in switches:
            if switch in _FLAGS:
                flags[_FLAGS[switch]] = True
            elif switch in _HALF_SENT_SWITCHES:
                half_sent.append(switch.removeprefix(_HALF_SENT))
            elif switch in _PRIORITY_SWITCHES:
                priority.append(switch.removeprefix(_PRIORITY))
            else:
                raise LocalProtocolError(
                    f"policy {name!r} has the unknown switch {switch[:POLICY_NAME_CHARS_MAX]!r}; "
                    f"known: {', '.join((*_FLAGS, *_HALF_SENT_SWITCHES, *_PRIORITY_SWITCHES))}"
                )
        if len(half_sent) > 2:
            raise LocalProtocolError(f"policy {name!r} has two answers to a half-sent page")
        if len(priority) > 2:
            raise LocalProtocolError(f"policy {name!r} has two priorities")
        return cls(
            name, half_sent=HalfSent(half_sent[-1]), priority=Priority(priority[-1]), **flags
        )

    @property
    def switches(self) -> tuple[str, ...]:
        """The switches that are on, as they go in Setup: `own-channel`, `half-sent=finish`."""
        flags = [switch for switch, name in _FLAGS.items() if getattr(self, name)]
        answers = f"{_HALF_SENT}{self.half_sent.value}", f"{_PRIORITY}{self.priority.value}"
        return (*flags, *answers)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The connections that its pages may come over."""
        return tuple(Channel) if self.own_channel else (Channel.PRECOPY,)

    @property
    def prioritizes(self) -> bool:
        """Whether the postcopy connection goes first in the queues of its host."""
        return self.priority is not Priority.NONE

    @property
    def sends_again(self) -> bool:
        """Whether a huge page may come over both connections, and one copy is waste."""
        return self.half_sent is HalfSent.RESEND

    @property
    def mixes_channels(self) -> bool:
        """Whether chunks of one huge page may come over both channels."""
        return self.critical or self.half_sent is HalfSent.SPLIT


_HALF_SENT_SWITCHES = tuple(f"{_HALF_SENT}{each.value}" for each in HalfSent)
_PRIORITY_SWITCHES = tuple(f"{_PRIORITY}{each.value}" for each in Priority)
_BY_URGENCY = Priority.URGENCY

PRESETS = {
    policy.name: policy
    for policy in (
        # QEMU postcopy-ram without preemption: one stream, requests jump its queue.
        Policy("vanilla", own_channel=False, preempts=False),
        # The preempt series without breaking huge pages (x-postcopy-preempt-break-huge=off).
        Policy("own-channel", preempts=False, priority=_BY_URGENCY),
        # QEMU 7.1 before "Respect postcopy request order in preemption mode".
        Policy("drop", half_sent=HalfSent.POSTPONE, priority=_BY_URGENCY),
        # QEMU 7.1 with it.
        Policy("ordered", priority=_BY_URGENCY),
        # `ordered`, but priority in the host's queues follows the channel: what lies on the precopy
        # connection, the half-sent page that was asked for, too, has to wait for what came later.
        Policy("priority-by-channel", priority=Priority.CHANNEL),
        # QEMU 8.0 and later, without its hint of locality.  What goes concurrently shares the link.
        Policy("parallel", preempts=False, concurrent=True, locality=False),
        # What users of other hypervisors ask for.
        Policy("resend", half_sent=HalfSent.RESEND, priority=_BY_URGENCY),
        Policy("split", half_sent=HalfSent.SPLIT, priority=_BY_URGENCY),
        # The destination can map a target page of a huge page as soon as it is there.
        Policy("critical-first", critical=True, priority=_BY_URGENCY, overtakes=True),
    )
}


def preset(name: str) -> Policy:
    """Return the policy of that name.

    Raises:
        LocalProtocolError: There is none.
    """
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS)
        raise LocalProtocolError(f"unknown policy {name[:40]!r}{hint}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
