"""The return path as who stands between the two reads it.

The source's side of it is source_return_path_thread in migration/migration.c.

Each message is its kind and its length, 16 bits each, and its data, so that one of an unknown kind
can be stepped over.  Behind the received bitmap's message come the bits themselves, which are
counted and not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from protocol.errors import RemoteProtocolError
from protocol.qemu.constants import RECV_BITMAP_END, RP_HEAD, RP_STRETCH, Rp
from protocol.qemu.cursor import text

_WORD_BYTES = 8

# 16 TiB of guest in target pages; what announces more is no bitmap.
_BITMAP_BYTES_MAX = 1 << 29


@dataclass(frozen=True)
class Returned:
    """Base of all that a destination says."""


@dataclass(frozen=True)
class PageAsked(Returned):
    """The destination asks for a page: REQ_PAGES or, where it names the block, REQ_PAGES_ID.

    Attributes:
        block: Name of the RAMBlock; empty where none was ever named.
        offset: In bytes, in the block.
        length: In bytes.
    """

    block: str
    offset: int
    length: int


@dataclass(frozen=True)
class Pong(Returned):
    """The answer to the ping of that value."""

    value: int


@dataclass(frozen=True)
class ReceivedBitmap(Returned):
    """Which target pages of a block the destination has; told behind the last of its bits.

    Attributes:
        block: Name of the RAMBlock.
        bitmap_bytes: How long it is.
        set_count: How many of its bits are set.
    """

    block: str
    bitmap_bytes: int
    set_count: int


@dataclass(frozen=True)
class ResumeAck(Returned):
    """The destination is ready to go on after a break."""

    value: int


@dataclass(frozen=True)
class SwitchoverAck(Returned):
    """The destination agrees to the switchover (capability switchover-ack, since 8.1)."""


@dataclass(frozen=True)
class Shut(Returned):
    """The last message: the destination is done, or has given up."""

    failed: bool


@dataclass(frozen=True)
class Unnamed(Returned):
    """A message of a kind that is not known here; its length is, so the next one can be read."""

    kind: int
    length: int


# Those that say a number, or nothing.
_VALUED: dict[int, Callable[[int], Returned]] = {
    Rp.PONG: Pong,
    Rp.SHUT: lambda value: Shut(failed=value != 0),
    Rp.RESUME_ACK: ResumeAck,
    Rp.SWITCHOVER_ACK: lambda _: SwitchoverAck(),
}


class ReturnDecoder:
    """Follows the return path of one connection; `feed` it everything, in order.

    Attributes:
        lost: Why no more is read, None while all is.  From then on `feed` yields nothing: the path
            has nothing to find its place again by.
    """

    def __init__(self) -> None:
        """Start at the beginning of a connection, where no block has been named."""
        self.lost: str | None = None
        self._held = bytearray()
        self._block = ""
        # Of a bitmap: its block, its length, what of it is still to come, and the bits set so far.
        self._bitmap: tuple[str, int] | None = None
        self._bits_left = self._set_count = 0

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[int, Returned]]:
        """Yield each message, with the index in `data` behind its last byte.

        The next one is read when it is asked for.
        """
        at = 0
        while self.lost is None:
            if self._bits_left:
                piece = bytes(data[at : at + self._bits_left])
                self._set_count += int.from_bytes(piece, "big").bit_count()
                self._bits_left -= len(piece)
                at += len(piece)
                if self._bits_left:
                    return
            wanted = self._wanted()
            piece = bytes(data[at : at + wanted - len(self._held)])
            self._held += piece
            at += len(piece)
            if len(self._held) < wanted:
                return
            # What was read may be but the head of what is read next.
            if wanted == self._wanted():
                held, self._held = bytes(self._held), bytearray()
                try:
                    message = self._message(held)
                except RemoteProtocolError as error:
                    self.lost = str(error)
                    return
                if message is not None:
                    yield at, message

    def _wanted(self) -> int:
        """Return how many bytes make the next field, as far as those that are here tell."""
        if self._bitmap is not None:
            return _WORD_BYTES
        if len(self._held) < RP_HEAD.size:
            return RP_HEAD.size
        return RP_HEAD.size + int(RP_HEAD.unpack_from(self._held)[1])

    def _message(self, held: bytes) -> Returned | None:
        if self._bitmap is not None:
            return self._bitmap_word(int.from_bytes(held, "big"), *self._bitmap)
        kind, length = RP_HEAD.unpack_from(held)
        data = held[RP_HEAD.size :]
        if kind in {Rp.REQ_PAGES, Rp.REQ_PAGES_ID} and length >= RP_STRETCH.size:
            offset, count = RP_STRETCH.unpack_from(data)
            if kind == Rp.REQ_PAGES_ID:
                self._block = _name(data[RP_STRETCH.size :])
            return PageAsked(self._block, offset, count)
        if kind == Rp.RECV_BITMAP:
            self._bitmap = (_name(data), -1)
            return None
        if kind in _VALUED:
            return _VALUED[kind](int.from_bytes(data, "big"))
        return Unnamed(kind, length)

    def _bitmap_word(self, word: int, block: str, length: int) -> Returned | None:
        """Read the word before the bits, their length, or the one behind them."""
        if length < 0:
            if word > _BITMAP_BYTES_MAX:
                raise RemoteProtocolError(f"a received bitmap of {word} bytes is over the limit")
            self._bitmap, self._bits_left, self._set_count = (block, word), word, 0
            return None
        if word != RECV_BITMAP_END:
            raise RemoteProtocolError(f"the received bitmap of {block!r} has no end mark")
        self._bitmap = None
        return ReceivedBitmap(block, length, self._set_count)


def _name(data: bytes) -> str:
    """Return the name that data begins with: a byte for its length, then so many characters.

    Raises:
        RemoteProtocolError: It is cut short, or none.
    """
    if not data or len(data) <= data[0]:
        raise RemoteProtocolError("a RAMBlock's name on the return path is cut short")
    return text(data[1 : 1 + data[0]], "a RAMBlock")
