"""Streams in memory promise what streams over sockets do."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guest.streams.exchange import receive_exactly, send_all
from guest.streams.memory import memory_pair
from guest.streams.stream import Delivery, Stream
from tests.bounds import bounded
from tests.guests import KIB


async def test_bytes_cross_in_whatever_pieces() -> None:
    """A stream that holds little carries a lot, both ways at once."""
    data = bytes(range(256)) * KIB
    near, far = memory_pair(1000)
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, near, data)
            nursery.start_soon(send_all, far, data[::-1])
            assert await receive_exactly(far, len(data)) == data
            assert await receive_exactly(near, len(data)) == data[::-1]


async def test_a_full_stream_takes_nothing() -> None:
    """It takes as much as it has room for, in the buffers' order, and says how much."""
    near, far = memory_pair(10)
    assert near.try_write([memoryview(b"0123456"), memoryview(b"789ab")]) == 10
    assert near.delivery() == Delivery(10)
    assert not near.is_writable_soon()
    assert near.try_write([memoryview(b"ab")]) == 0
    assert far.unread_bytes() == 10
    first, second = bytearray(4), bytearray(4)
    assert far.try_read_into([memoryview(first), memoryview(second)]) == 8
    assert bytes(first + second) == b"01234567"
    assert near.is_writable_soon()
    near.bound_unsent(3, 1)
    assert near.try_write([memoryview(b"abc")]) == 1


async def test_who_waits_is_woken() -> None:
    """A reader by bytes, or by the end; a writer by room, or by the other end's going."""
    near, far = memory_pair(4)
    place = memoryview(bytearray(4))
    assert far.try_read_into([place]) is None
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.wait_readable)
            await wait_all_tasks_blocked()
            near.try_write([memoryview(b"four")])
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.wait_writable)
            await wait_all_tasks_blocked()
            assert far.try_read_into([place]) == 4
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.wait_readable)
            await wait_all_tasks_blocked()
            near.close()
    assert far.try_read_into([place]) == 0
    near, far = memory_pair(4)
    near.try_write([memoryview(b"four")])
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.wait_writable)
            await wait_all_tasks_blocked()
            far.close()
    with pytest.raises(BrokenPipeError):
        near.try_write([memoryview(b"more")])


async def test_fewer_bytes_than_were_asked_for_wake_nobody() -> None:
    """A reader that gathers sleeps until so much is here, but no longer than until it is full."""
    near, far = memory_pair(10)
    far.wake_at(8)
    near.try_write([memoryview(b"0123")])
    assert not far.is_readable_soon()
    near.try_write([memoryview(b"4567")])
    assert far.is_readable_soon()
    far.wake_at(100)
    assert not far.is_readable_soon()
    near.try_write([memoryview(b"89")])
    assert far.is_readable_soon()


async def test_what_was_written_can_be_read_after_the_end() -> None:
    """An orderly end loses nothing; what goes to who has closed is an error."""
    near, far = memory_pair(10)
    near.try_write([memoryview(b"last")])
    near.close()
    near.close()
    assert await receive_exactly(far, 4) == b"last"
    with pytest.raises(EOFError):
        await receive_exactly(far, 1)
    with pytest.raises(OSError, match="closed here"):
        near.try_write([memoryview(b"x")])


async def test_one_direction_ends_before_the_other() -> None:
    """Whoever has said all hears on."""
    near, far = memory_pair(10)
    near.try_write([memoryview(b"last")])
    near.end_writing()
    assert await receive_exactly(far, 4) == b"last"
    assert far.try_read_into([memoryview(bytearray(1))]) == 0
    await send_all(far, b"heard")
    assert await receive_exactly(near, 5) == b"heard"


async def test_a_waiting_task_hears_that_the_stream_was_closed_here() -> None:
    """As with a socket, that is an error of who waits."""
    near, _ = memory_pair(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect_closed, near)
        await wait_all_tasks_blocked()
        near.close()


async def _expect_closed(stream: Stream) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await stream.wait_readable()
