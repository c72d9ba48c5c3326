"""Short messages over a stream, whole: what is said before frames are, with limits of time.

As with trio's own calls, others have their turn in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from guest.streams.stream import Stream
from protocol.errors import MidstreamError


async def send_all(stream: Stream, data: bytes | memoryview) -> None:
    """Send all of a short message.

    Raises:
        OSError: The connection broke.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    rest = memoryview(data)
    while rest:
        count = stream.try_write([rest])
        rest = rest[count:]
        if not count:
            await stream.wait_writable()
    await trio.lowlevel.cancel_shielded_checkpoint()


async def receive_into(stream: Stream, buffers: Sequence[memoryview]) -> int:
    """Fill the buffers with what is here, waiting for it; return how many bytes, 0 at the end.

    Raises:
        OSError: The connection broke.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    while (count := stream.try_read_into(buffers)) is None:
        await stream.wait_readable()
    await trio.lowlevel.cancel_shielded_checkpoint()
    return count


async def receive_exactly(stream: Stream, count: int) -> bytes:
    """Return so many bytes, and read not one more.

    Raises:
        EOFError: The stream ended before.
        OSError: The connection broke.
    """
    data = memoryview(bytearray(count))
    have = 0
    while have < count:
        more = await receive_into(stream, [data[have:]])
        if not more:
            raise EOFError
        have += more
    return bytes(data)


@contextmanager
def patience(seconds: float, complaint: str, error: type[MidstreamError]) -> Iterator[None]:
    """Give what is done inside so many seconds.

    Args:
        seconds: How long.
        complaint: What did not happen meanwhile.
        error: What that is.

    Raises:
        error: It took longer.
    """
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise error(f"{complaint} in {seconds:g} s") from None
