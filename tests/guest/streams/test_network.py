"""The machine's own network: doors, what comes through them, and what connecting finds."""

from __future__ import annotations

import errno
import socket
from typing import cast

import pytest
import trio

from guest.streams.exchange import receive_exactly, receive_into, send_all
from guest.streams.network import TCP, Door, Network, TcpNetwork
from guest.streams.stream import Stream
from guest.streams.tcp import TcpStream
from protocol.addresses import parse_host_port
from protocol.errors import MigrationError
from tests.bounds import bounded, nothing_left


async def open_door(network: Network = TCP) -> Door:
    """Listen on loopback."""
    doors = await network.listen("127.0.0.1", 0, print, loopback_only=True)
    assert doors is not None
    (door,) = doors
    return door


def option(stream: Stream, name: int) -> int:
    """Return an option of a stream's TCP socket."""
    return cast("TcpStream", stream)._sock.getsockopt(socket.IPPROTO_TCP, name)


async def test_what_one_end_says_the_other_hears() -> None:
    """A door's arrival is the other end of what connected, and says where it is from."""
    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded():
        door = await open_door(TcpNetwork(7.5, dscp=1))
        host, port = parse_host_port(door.address)
        near, reached = await TcpNetwork(2.5, dscp=2).connect(host, port)
        arrival = await door.accept(print)
        assert (reached, arrival.host) == ("127.0.0.1", "127.0.0.1")
        assert arrival.address.startswith("127.0.0.1:")
        await send_all(near, b"there")
        assert await receive_exactly(arrival.stream, 5) == b"there"
        # No small head waits, and what nobody acknowledges breaks the connection in time.
        for stream, milliseconds in ((near, 2500), (arrival.stream, 7500)):
            assert option(stream, socket.TCP_NODELAY)
            assert option(stream, socket.TCP_USER_TIMEOUT) == milliseconds
        # Packets are marked as each side was told to.
        assert (near.prioritize(), arrival.stream.prioritize()) == (
            "granted, DSCP 2", "granted, DSCP 1"
        )  # fmt: skip
        near.end_writing()
        assert await receive_into(arrival.stream, [memoryview(bytearray(1))]) == 0
        await send_all(arrival.stream, b"back")
        assert await receive_exactly(near, 4) == b"back"
        for each in (near, arrival.stream, door):
            each.close()
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            await TCP.connect(host, port)


async def test_a_connection_that_is_reset_at_once_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever answers may be gone before it can be asked who that was."""

    def forget(_: object) -> str:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded():
        door = await open_door()
        monkeypatch.setattr("guest.streams.network.host_text", forget)
        with pytest.raises(OSError, match="not connected"):
            await TCP.connect(*parse_host_port(door.address))
        door.close()


async def test_nobody_listens_where_others_could_connect() -> None:
    """Where only this machine may connect, an address of all its interfaces is none."""
    with nothing_left():
        assert await TCP.listen("0.0.0.0", 0, print, loopback_only=True) is None
        doors = await TCP.listen("0.0.0.0", 0, print, loopback_only=False)
        assert doors is not None
        for door in doors:
            door.close()


async def test_an_address_that_is_taken_is_refused() -> None:
    """The reason is one line for the user."""
    with nothing_left():
        door = await open_door()
        host, port = parse_host_port(door.address)
        with pytest.raises(MigrationError, match=f"cannot listen on {host}:{port}: "):
            await TCP.listen(host, port, print, loopback_only=True)
        door.close()
