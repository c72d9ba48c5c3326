"""What resumes a migration that broke: what is there, and the rest of what is there in part."""

from __future__ import annotations

from typing import ClassVar

from protocol.fields import Message, message
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import (
    MISSING_MAP_BYTES_MAX,
)


@message
class MissingMap(Message):
    """Target pages that the destination has not received; the payload is a deflated bitmap.

    As in Discard, bit i stands for target page `first + i`.  All that no map names has been
    received.

    Attributes:
        block: Block index.
        first: Target page index in the block of the first bit; a multiple of 8.
        count: How many target pages the bitmap covers.
    """

    kind: ClassVar[int] = 24
    payload_bytes_max: ClassVar[int] = MISSING_MAP_BYTES_MAX
    block: int
    first: int
    count: int


@message
class HeldPart(Message):
    """Of a missing target page that a break left half-received, what is here.

    Attributes:
        block: Block index.
        target_page: Which, counted from the block's start.
        held_bytes: How many bytes from its start are here; neither none nor all.
    """

    kind: ClassVar[int] = 28
    block: int
    target_page: int
    held_bytes: int


@message
class Standing(Message):
    """Where the destination stands after a break; the maps of what is missing are before it.

    Attributes:
        running: It has the whole SwitchOver and runs the guest; if not, nothing before counts.
        target_pages: How many target pages all maps name together.
        dropped_bytes: Bytes that came, since the session began, and that a break made worthless;
            they come again.
        run_ns: Since when the guest runs there, as in Running; 0 if it does not.
    """

    kind: ClassVar[int] = 25
    running: bool
    target_pages: int
    dropped_bytes: int
    run_ns: int = 0


@message
class PageRest(Message):
    """The bytes of a target page of which the destination holds the others, as the payload.

    Attributes:
        block: Block index.
        offset: Where the bytes belong, in bytes from the block's start.
    """

    kind: ClassVar[int] = 29
    payload_bytes_max: ClassVar[int] = TARGET_PAGE_BYTES - 1
    block: int
    offset: int
