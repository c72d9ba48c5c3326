"""Checksums of frames: a sender announces each by one, a receiver holds what comes against it.

They are for networks and memories that fail, not for enemies: who can change a frame can change its
digest, too.  The header's and the payload's are apart, so that a payload that was changed can be
asked for again: its header says what it was to be.
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from protocol.channels import Channel
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.fields import Digest
from protocol.messages import Checksum, Message, PageData, RunData, ZeroData
from protocol.wire import encode


def checksum_of(message: Message, payload: Iterable[memoryview | bytes]) -> Checksum:
    """Return what announces a frame, of its message and the pieces of its payload."""
    return Checksum(head=head_digest(message), body=body_digest(payload))


def head_digest(message: Message) -> Digest:
    """Return the digest of a frame's head: of the only bytes that mean this message."""
    return Digest(xxhash.xxh3_64_digest(encode(message)))


def body_digest(payload: Iterable[memoryview | bytes]) -> Digest:
    """Return the digest of a payload, however it lies in pieces."""
    digest = xxhash.xxh3_64()
    for piece in payload:
        digest.update(piece)
    return Digest(digest.digest())


_ANNOUNCED = (PageData, ZeroData, RunData)


class FrameCheck:
    """The checksums of one channel: `announce`, `begin` with the next message, then `is_right`."""

    def __init__(self, channel: Channel, *, agreed: bool) -> None:
        """Begin a connection.

        Args:
            channel: Which.
            agreed: Both sides want checksums.
        """
        self._channel = channel
        self._agreed = agreed
        self._next: Checksum | None = None

    def announce(self, checksum: Checksum) -> None:
        """Note what the next frame must be.

        Raises:
            RemoteProtocolError: It was not agreed on, or the last one announced nothing.
        """
        if not self._agreed:
            raise RemoteProtocolError("a Checksum came though none was agreed on")
        if self._next is not None:
            raise RemoteProtocolError("a Checksum came where the frame was due that it announces")
        self._next = checksum

    def begin(self, message: Message) -> None:
        """Check the head of a frame; nothing of it has been done yet.

        Raises:
            RemoteProtocolError: It carries pages and was not announced, or the other way round.
            ConnectionLost: It came changed, and what it was to be nobody can tell.
        """
        announced = self._next is not None
        if announced != (self._agreed and isinstance(message, _ANNOUNCED)):
            due = "without its Checksum" if not announced else "where a page frame was due"
            raise RemoteProtocolError(f"{type(message).__name__} came {due}")
        if self._next is not None and self._next.head != head_digest(message):
            name = self._channel.value
            raise ConnectionLost(f"the {name} connection changed the head of a frame", name)

    def is_right(self, payload: Iterable[memoryview | bytes] = ()) -> bool:
        """Return whether the payload of a frame that has begun came as it was sent."""
        checksum, self._next = self._next, None
        return checksum is None or checksum.body == body_digest(payload)
