"""Short messages of fixed length, sent and received whole."""

import pytest
import trio
from trio.testing import MockClock

from guest.streams.exchange import patience, receive_exactly, send_all
from guest.streams.tcp import TcpStream
from protocol.errors import ConnectionLost
from tests.guests import KIB
from tests.sockets import tcp_streams, unix_pair


async def test_a_message_crosses_in_whatever_pieces() -> None:
    """A socket that takes and gives little at a time carries all of it."""
    data = bytes(range(256)) * KIB
    with unix_pair(4 * KIB) as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, TcpStream(near), data)
            assert await receive_exactly(TcpStream(far), len(data)) == data


async def test_not_a_byte_more_is_read() -> None:
    """What follows a message stays in the socket for who comes next."""
    with tcp_streams() as (near, far):
        await send_all(near, b"0123456789")
        assert await receive_exactly(far, 4) == b"0123"
        assert await receive_exactly(far, 6) == b"456789"


async def test_an_end_inside_a_message_is_told() -> None:
    """A connection that ends too early is an error, not a short message."""
    with tcp_streams() as (near, far):
        await send_all(near, b"012")
        near.close()
        with pytest.raises(EOFError):
            await receive_exactly(far, 4)


async def test_what_takes_too_long_is_named_with_its_time(autojump_clock: MockClock) -> None:
    """After the last second there is no more waiting, and the error says how long there was."""
    began = trio.current_time()
    with (
        pytest.raises(ConnectionLost, match=r"^no answer in 2\.5 s$"),
        patience(2.5, "no answer", ConnectionLost),
    ):
        await trio.sleep(60)
    assert trio.current_time() - began == 2.5


async def test_what_is_done_in_time_goes_on(autojump_clock: MockClock) -> None:
    """Nothing is raised for what takes less."""
    with patience(2.5, "no answer", ConnectionLost):
        await trio.sleep(2)
