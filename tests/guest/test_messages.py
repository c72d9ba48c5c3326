"""Packets carry messages and events whole."""

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from guest.launch import GuestProcess
from guest.messages import (
    MESSAGE_BYTES_MAX,
    Faulted,
    GuestEvent,
    Mismatch,
    Touched,
    Woke,
    decode_event,
    encode_event,
    pack,
    socket_pair,
    unpack,
)
from guest.process import _assemble
from protocol.errors import GuestFailed
from tests.bounds import bounded, open_files

LARGE = 2**64 - 1


@pytest.mark.parametrize(
    "event",
    [
        Faulted(1, 2, 3),
        Woke(1, 2, 3, 4),
        Mismatch(63, LARGE, LARGE, LARGE, LARGE),
        Touched(0, 0),
    ],
)
def test_events_cross(event: GuestEvent) -> None:
    """An event comes out as the same kind with the same values, in a small packet."""
    packet = encode_event(event)
    assert decode_event(packet) == event
    assert len(packet) < MESSAGE_BYTES_MAX


def test_control_messages_cross() -> None:
    """A name and its values come out as they went in."""
    assert unpack(pack("touch", 3, LARGE)) == ["touch", 3, LARGE]
    assert unpack(pack("ready")) == ["ready"]


def test_the_sockets_keep_packets_apart() -> None:
    """Two messages sent in one go are received one by one, and then the end."""
    one, other = socket_pair()
    one.send(pack("ready"))
    one.send(pack("parked", 0, 2))
    one.close()
    received = [other.recv(MESSAGE_BYTES_MAX) for _ in range(3)]
    assert received == [pack("ready"), pack("parked", 0, 2), b""]
    other.close()


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let this process open so many descriptors more."""
    numbers = [os.dup(0) for _ in range(count + 1)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (numbers[-1], hard))
    for number in numbers:
        os.close(number)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1])
async def test_an_engine_without_room_for_descriptors_says_so(room: int) -> None:
    """What a guest process passes and cannot be opened is a limit to raise; none stays open."""
    process = GuestProcess()
    ours, theirs = socket_pair()
    process._control.close()
    process._control = trio.socket.from_stdlib_socket(ours)
    try:
        before = open_files()
        answer = pack("ready", "dirty-log", "", [0], [1])
        with theirs, bounded():
            socket.send_fds(theirs, [answer], [theirs.fileno()] * 2)
            with (
                room_for(room),
                pytest.raises(GuestFailed, match=r"too many open files.*ulimit -n"),
            ):
                await process._hear_ready()
            assert open_files() == before
    finally:
        await process.end()


@pytest.mark.parametrize("room", [0, 4])
def test_a_guest_without_room_for_descriptors_says_so(room: int) -> None:
    """As its engine does, which tells its user in these words."""
    before = open_files()
    ours, theirs = socket_pair()
    with ours, theirs:
        start = pack("start", 1, ["base"], 1, "none")
        empty = os.memfd_create("empty")
        socket.send_fds(theirs, [start], [empty] * 5)
        os.close(empty)
        with room_for(room), pytest.raises(GuestFailed, match=r"too many open files.*ulimit -n"):
            _assemble(ours)
    assert open_files() == before
