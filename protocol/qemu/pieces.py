"""Pieces into which a source's stream is cut by who follows it, and what they are said to be.

A piece is a stretch of the stream with what its bytes are, and the messages that its last byte
completes: those of a decoder, and those that are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from protocol.geometry import TARGET_PAGE_BYTES
from protocol.qemu.constants import RECORD_BYTES, RECORD_HEAD_BYTES, ZERO_RECORD_BYTES
from protocol.qemu.messages import QemuMessage


class Part(Enum):
    """The kind of a piece's bytes; the values are their names in a log."""

    HEAD = "head"
    PAGES = "pages"
    DEVICES = "devices"
    UNREAD = "unread"


class Piece(NamedTuple):
    """A stretch of a stream, whose bytes may be passed on.

    Attributes:
        start: The stream position of its first byte.
        stop: The position behind its last; `start` for what was recognised when it had passed.
        part: What it is.
        block: Of `Part.PAGES`: name of the RAMBlock; empty where nobody can tell.
        offset: Where in the block the memory begins, in bytes.
        length: How much memory has passed with the last byte of the piece.
        record_bytes: From one target page to the next in the stream; 0: one behind the other.
        encoded: It is one target page, and its bytes are what encodes it.
        origin: Where the first record or byte is; before `start` for what had passed.
        says: What its last byte completes, in order.
    """

    start: int
    stop: int
    part: Part
    block: str = ""
    offset: int = 0
    length: int = 0
    record_bytes: int = 0
    encoded: bool = False
    origin: int = 0
    says: tuple[QemuMessage, ...] = ()

    def position(self, end: int) -> int:
        """Return the stream position with which the memory up to a block offset has passed.

        Args:
            end: Over `offset`, up to `offset + length`.
        """
        passed = end - self.offset
        if self.encoded:
            # It comes as a whole, with the last byte of what encodes it.
            return self.stop
        position = self.origin + passed
        if self.record_bytes:
            number, rest = divmod(passed - 1, TARGET_PAGE_BYTES)
            is_zero = self.record_bytes == ZERO_RECORD_BYTES
            in_record = self.record_bytes if is_zero else RECORD_HEAD_BYTES + rest + 1
            position = self.origin + number * self.record_bytes + in_record
        return min(max(position, self.start), self.stop)

    @property
    def is_plain(self) -> bool:
        """Whether memory stands in the stream as it is."""
        return not self.encoded and self.record_bytes in {0, RECORD_BYTES}


@dataclass(frozen=True, kw_only=True)
class OtherCommand(QemuMessage):
    """A command that a destination of midstream's would refuse: its bytes are stepped over."""

    number: int
    length: int


@dataclass(frozen=True, kw_only=True)
class PackageEnd(QemuMessage):
    """The last byte of a package has passed: the destination has what it needs to run the guest.

    Attributes:
        package_bytes: How long it was.
        pings: The values of those in it, which are answered when the devices are loaded.
    """

    package_bytes: int
    pings: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceSection(QemuMessage):
    """The state of a device outside a package has ended: its footer was found.

    Attributes:
        name: The device's.
        body_bytes: How long its state was.
    """

    name: str
    body_bytes: int


@dataclass(frozen=True, kw_only=True)
class Description(QemuMessage):
    """The machine's description has passed, JSON behind the stream's end."""

    description_bytes: int


@dataclass(frozen=True, kw_only=True)
class Lost(QemuMessage):
    """From here on bytes cannot be read, for the reason given; a place to go on is searched for."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Found(QemuMessage):
    """From here on bytes can be read again.

    Attributes:
        by: What told the place: "footer", "named record" or "record grid".
        skipped_bytes: How many could not be read.
    """

    by: str
    skipped_bytes: int
