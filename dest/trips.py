"""A vCPU's wait for a page: its marks, the page's way to here, and the stages that it divides into.

`detect`: from the touch until the engine knows.  `request`: until the source has read the request.
`postponed`: the policy put it off.  `queue`: it waited for its turn, behind other pages.  `send`:
the page's bytes were being handed to the socket.  `receive`: from then until the last of them is
here.  `place` and `wake`: as they say.  `broken`: from a break until the page is asked for again.

The source tells how long a request was in each of its stages, and when it came by its own clock
(`dest.waits` says what that is here); what is left is on the way.  So no stage needs a clock that
both sides share, but for where `request` ends and `receive` begins.  Of what it sent twice it tells
that, too, of the first copy, and what it tells of the copy that is sooner here counts.

None is negative and together they are the wait: what happened before the vCPU touched the page, or
was noted only after it ran again, takes none of its time.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from protocol.channels import Channel
from protocol.geometry import PageId
from protocol.page_messages import SENT_AGAIN
from protocol.report import STAGES

Part = tuple[str, int]

# From when a page is asked for until it is here.
_AT_SOURCE = ("request", "postponed", "queue", "send", "receive")


class Urgent(NamedTuple):
    """Words in the head of a frame that is sent because of a page request.

    Attributes:
        queue_us: How long the request waited at the source.
        send_us: How long the page's urgent frames have been on their way to the socket.
    """

    queue_us: int = 0
    send_us: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """Answer of the source to a request.

    Attributes:
        answer: One of `protocol.page_messages`.
        came_ns: When it read the request, by this side's clock.
        queued_ns: How long the request waited for its turn.
        postponed_ns: How long the policy put it off.
        sending_ns: How long its bytes were being handed to the socket.
        behind: The pages that went before it; the first of them, if many.
        behind_count: How many those are in all.
        first_queued_ns: Of what went again, how long its first copy had waited by then; 0 where it
            was with the socket before.
    """

    answer: str
    came_ns: int
    queued_ns: int = 0
    postponed_ns: int = 0
    sending_ns: int = 0
    behind: tuple[PageId, ...] = ()
    behind_count: int = 0
    first_queued_ns: int = 0


@dataclass(slots=True)
class Round:
    """A request that came to nothing: its connection broke, or its bytes came changed.

    Attributes:
        ended_ns: When that was known.
        again_ns: When the page was asked for again, None until it is.
        said: What the source says of it; it may do so only when it is here again.
    """

    ended_ns: int
    again_ns: int | None = None
    said: Said | None = None


@dataclass(slots=True)
class Trip:
    """A page that is asked for.

    Attributes:
        asked_ns: When the request last went out, None before it has.
        said: What the source says of it.
        rounds: The requests before it that came to nothing.
        urgent_ns: When the first frame came that was sent because of it.
        queue_us: How long it waited at the source, as the head of such a frame says.
        send_us: How long these frames had been on their way to the socket, likewise.
        channel: Over which channel the last of the page came; None until it has.
        was_asked: The request has gone out at least once.
    """

    asked_ns: int | None = None
    said: Said | None = None
    rounds: list[Round] = field(default_factory=list)
    urgent_ns: int | None = None
    queue_us: int = 0
    send_us: int = 0
    channel: Channel | None = None
    was_asked: bool = field(default=False, compare=False)

    @property
    def said_of_copy(self) -> Said | None:
        """Word of the source on the copy that came: of two, the first may have been sooner."""
        said = self.said
        if said is None or said.answer != SENT_AGAIN or self.channel is not Channel.PRECOPY:
            return said
        if said.first_queued_ns:
            return replace(said, queued_ns=said.first_queued_ns, sending_ns=0)
        return replace(said, queued_ns=0, sending_ns=0, behind=(), behind_count=0)

    def asked(self, now_ns: int) -> None:
        """Note that the request goes out."""
        self.asked_ns = now_ns
        self.was_asked = True
        if self.rounds and self.rounds[-1].again_ns is None:
            self.rounds[-1].again_ns = now_ns

    def end_round(self, now_ns: int) -> None:
        """Note that what was asked for does not come, and has to be asked for again."""
        if self.rounds and self.rounds[-1].again_ns is None:
            return
        self.rounds.append(Round(now_ns, said=self.said))
        self.asked_ns = self.said = self.urgent_ns = None
        self.queue_us = self.send_us = 0

    def say_of_last_round(self, said: Said) -> None:
        """Enter what the source says of a request that came to nothing."""
        for each in reversed(self.rounds):
            if each.said is None:
                each.said = said
                return


@dataclass(slots=True)
class Wait:
    """One vCPU's wait for one page; times in nanoseconds of the machine's monotonic clock.

    Attributes:
        vcpu: Who waits.
        page: For what.
        fault_ns: When the vCPU touched the page.
        detect_ns: When the engine knew.
        placed_ns: When the page was whole and placed.
        wake_ns: When the vCPU ran again.
        last_byte_ns: When the page's last byte had come.
        trip: What is known of the page's request; None where the page was here already.
    """

    vcpu: int
    page: PageId
    fault_ns: int
    detect_ns: int
    last_byte_ns: int | None = None
    placed_ns: int | None = None
    wake_ns: int | None = None
    trip: Trip | None = field(default=None, compare=False, repr=False)

    @property
    def latency_ns(self) -> int:
        """Fault to wake-up; 0 while it lasts."""
        return self.wake_ns - self.fault_ns if self.wake_ns is not None else 0


def stages_ns(wait: Wait) -> dict[str, int]:
    """Return how long a complete wait was in each stage, in nanoseconds."""
    lengths_ns = dict.fromkeys(STAGES, 0)
    for stage, length_ns in parts_of(wait):
        lengths_ns[stage] += length_ns
    return lengths_ns


def parts_of(wait: Wait) -> list[Part]:
    """Return the stages of a complete wait in the order of time; after a break they begin anew."""
    assert wait.last_byte_ns is not None
    assert wait.placed_ns is not None
    assert wait.wake_ns is not None
    wake_ns = max(wait.wake_ns, wait.fault_ns)
    # A vCPU may join a wait that goes on, and may run again before the engine has noted why it can:
    # no mark is outside the wait or before the one before it.
    detect_ns = min(max(wait.detect_ns, wait.fault_ns), wake_ns)
    last_byte_ns = min(max(wait.last_byte_ns, detect_ns), wake_ns)
    placed_ns = min(max(wait.placed_ns, last_byte_ns), wake_ns)
    parts = [("detect", detect_ns - wait.fault_ns)]
    begin_ns = detect_ns
    for each in wait.trip.rounds if wait.trip is not None else ():
        ended_ns = min(max(each.ended_ns, begin_ns), last_byte_ns)
        again_ns = last_byte_ns if each.again_ns is None else each.again_ns
        again_ns = min(max(again_ns, ended_ns), last_byte_ns)
        if each.said is None:
            # The request, or its answer, did not get through.
            parts.append(("request", ended_ns - begin_ns))
        else:
            parts += _said(begin_ns, ended_ns, each.said)
        parts.append(("broken", again_ns - ended_ns))
        begin_ns = again_ns
    parts += _last_round(wait, begin_ns, last_byte_ns)
    parts += [("place", placed_ns - last_byte_ns), ("wake", wake_ns - placed_ns)]
    return parts


def _last_round(wait: Wait, begin_ns: int, end_ns: int) -> list[Part]:
    """Return the stages from when a page was asked for until it was here."""
    trip = wait.trip
    if trip is None:
        return [("receive", end_ns - begin_ns)]
    if (said := trip.said_of_copy) is None:
        return _in_frames(begin_ns, end_ns, trip.urgent_ns, trip.queue_us, trip.send_us)
    if said.came_ns >= end_ns:
        # The page was here before the source could know that it was asked for.
        return [("receive", end_ns - begin_ns)]
    return _said(begin_ns, end_ns, said)


def _said(begin_ns: int, end_ns: int, said: Said) -> list[Part]:
    """Divide a stretch of time as the source says."""
    came_ns = said.came_ns
    queued_ns = came_ns + said.postponed_ns
    sending_ns = queued_ns + said.queued_ns
    marks_ns = (came_ns, queued_ns, sending_ns, sending_ns + said.sending_ns)
    edges_ns = [begin_ns, *(min(max(mark, begin_ns), end_ns) for mark in marks_ns), end_ns]
    lengths_ns = [end - begin for begin, end in pairwise(edges_ns)]
    return list(zip(_AT_SOURCE, lengths_ns, strict=True))


def _in_frames(
    begin_ns: int, end_ns: int, urgent_ns: int | None, queue_us: int, send_us: int
) -> list[Part]:
    """Divide it by what the heads of urgent frames say; without one nothing is known but the end.

    Of a source that tells nothing else, an older one or a QEMU, `request` lasts until the first
    urgent bytes are back.
    """
    if urgent_ns is None:
        return [("receive", end_ns - begin_ns)]
    urgent_ns = min(max(urgent_ns, begin_ns), end_ns)
    queue_ns = min(queue_us * 1000, urgent_ns - begin_ns)
    send_ns = min(send_us * 1000, end_ns - urgent_ns)
    return [
        ("request", urgent_ns - begin_ns - queue_ns),
        ("queue", queue_ns),
        ("send", send_ns),
        ("receive", end_ns - urgent_ns - send_ns),
    ]
