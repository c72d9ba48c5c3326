"""Digests of frames, by which a receiver tells that bytes were changed on their way.

They are for networks and memories that fail, not for enemies: who can change a frame can change its
digest, too.  The header's and the payload's are apart, so that a payload that was changed can be
asked for again: its header says what it was to be.
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from protocol.fields import Digest
from protocol.messages import Checksum, Message
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
