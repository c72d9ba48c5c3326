"""The return path, from destination to source: migration/migration.c, migrate_send_rp_*.

Each message is its kind and its length, 16 bits each, and its data.
"""

from __future__ import annotations

import struct

from protocol.errors import LocalProtocolError
from protocol.qemu.constants import RECV_BITMAP_END, RESUME_ACK_VALUE, RP_HEAD, RP_STRETCH, Rp

_VALUE = struct.Struct(">I")
_WORD = struct.Struct(">Q")

_BITMAP_ALIGN_BYTES = 8

# A request's length has 32 bits; a 1 GiB page is the largest there is.
_REQUEST_BYTES_MAX = (1 << 32) - 1
_NAME_BYTES_MAX = 255


def encode_shut(*, failed: bool) -> bytes:
    """Return the last message: this side is done, or has given up."""
    return _message(Rp.SHUT, _VALUE.pack(int(failed)))


def encode_pong(value: int) -> bytes:
    """Return the answer to a ping."""
    return _message(Rp.PONG, _VALUE.pack(value))


def encode_resume_ack() -> bytes:
    """Return the word that this side is ready to go on."""
    return _message(Rp.RESUME_ACK, _VALUE.pack(RESUME_ACK_VALUE))


def encode_received(block: str, bits: bytes) -> bytes:
    """Return which target pages of a block have been received; the source sends all others.

    The bitmap follows the message and is no part of it: migration/ram.c,
    ramblock_recv_bitmap_send.

    Args:
        block: The RAMBlock's name.
        bits: A bit for each target page, the lowest first, 1 for one that is here.

    Raises:
        LocalProtocolError: The name is none.
    """
    name = block.encode()
    if not 0 < len(name) <= _NAME_BYTES_MAX:
        raise LocalProtocolError(f"{block[:20]!r} is no RAMBlock's name")
    padded = bits + bytes(-len(bits) % _BITMAP_ALIGN_BYTES)
    return (
        _message(Rp.RECV_BITMAP, bytes([len(name)]) + name)
        + _WORD.pack(len(padded))
        + padded
        + _WORD.pack(RECV_BITMAP_END)
    )


class PageRequests:
    """Makes page requests; QEMU remembers the last block that one of them named."""

    def __init__(self) -> None:
        """Start with no block named."""
        self._block = ""

    def encode(self, block: str, offset: int, length: int) -> bytes:
        """Return the request for a page.

        Args:
            block: Name of its RAMBlock.
            offset: Where in the block it begins, in bytes.
            length: Its size in bytes.

        Raises:
            LocalProtocolError: No page is like that.
        """
        name = block.encode()
        if not (0 < length <= _REQUEST_BYTES_MAX and 0 < len(name) <= _NAME_BYTES_MAX):
            raise LocalProtocolError(f"{length} bytes of {block[:20]!r} cannot be asked for")
        stretch = RP_STRETCH.pack(offset, length)
        if block == self._block:
            return _message(Rp.REQ_PAGES, stretch)
        self._block = block
        return _message(Rp.REQ_PAGES_ID, stretch + bytes([len(name)]) + name)


def _message(kind: Rp, data: bytes) -> bytes:
    return RP_HEAD.pack(kind, len(data)) + data
