"""What hands the guest over, and what both sides say in the end."""

from __future__ import annotations

from typing import ClassVar

from protocol.fields import Message, message
from protocol.limits import (
    CLOSING_BYTES_MAX,
    DEVICE_STATE_BYTES_MAX,
    REPORT_BYTES_MAX,
)


@message
class SwitchOverAhead(Message):
    """The switch-over comes next: from here on the destination may not forget the session."""

    kind: ClassVar[int] = 21


@message
class SwitchOverAck(Message):
    """The destination keeps what it has through a break, and waits for the source to come back.

    Attributes:
        clock_ns: What the destination's monotonic clock shows; 0 if it does not say.
    """

    kind: ClassVar[int] = 22
    clock_ns: int = 0


@message
class SwitchOver(Message):
    """The guest stands still; the payload is its device state; now it is the destination's.

    Attributes:
        postcopy: Discarded pages follow while the guest runs; otherwise there are none.
    """

    kind: ClassVar[int] = 11
    payload_bytes_max: ClassVar[int] = DEVICE_STATE_BYTES_MAX
    postcopy: bool


@message
class Running(Message):
    """The guest runs on the destination: the downtime is over.

    Attributes:
        run_ns: Since when, by the destination's monotonic clock; 0 if it does not say.
    """

    kind: ClassVar[int] = 12
    run_ns: int = 0


@message
class End(Message):
    """The last frame with pages on a channel, with what went over it since it was opened.

    Attributes:
        target_pages: Target pages sent, each time one was sent.
        data_bytes: Page bytes sent; zero stretches count nothing.
    """

    kind: ClassVar[int] = 14
    target_pages: int
    data_bytes: int


@message
class Finished(Message):
    """Every page is placed; the counts are the destination's own.

    Attributes:
        pages: Pages of all blocks, all of them placed.
        target_pages: Target pages received over all open channels, each time one came.
        data_bytes: Page bytes received over all open channels.
    """

    kind: ClassVar[int] = 15
    pages: int
    target_pages: int
    data_bytes: int


@message
class Account(Message):
    """The destination's closing account as payload: final states, digests, statistics."""

    kind: ClassVar[int] = 16
    payload_bytes_max: ClassVar[int] = CLOSING_BYTES_MAX


@message
class Verdict(Message):
    """The source's comparison of the account with what must be there, its report as payload.

    Attributes:
        equal: Every digest is what the guest's program makes it.
        detail: Where the memory differs, for a person; empty when equal.
    """

    kind: ClassVar[int] = 17
    payload_bytes_max: ClassVar[int] = REPORT_BYTES_MAX
    equal: bool
    detail: str = ""


@message
class Bye(Message):
    """The destination has the verdict: the session is complete, both sides may close."""

    kind: ClassVar[int] = 18
