"""Coming back to a destination: how often, for how long, where to, and what it says."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from protocol.channels import Channel
from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError
from protocol.limits import RECOVER_SECONDS_MAX, RECOVERY_COUNT_MAX, REFUSAL_COUNT_MAX
from protocol.messages import PROTOCOL_VERSION, Abort, Ready, Resume, Standing, Welcome
from protocol.missing import held_parts, missing_maps
from protocol.pageset import PageSet
from source.channel import OutChannel
from source.connect import Connection
from source.reconnect import Reconnector, hear_standing
from source.returns import ReturnPath
from tests.helpers import (
    BOUND_SECONDS,
    Peer,
    bounded,
    small_geometry,
    source_config,
    tcp_pair,
    unused_port,
)

LOSS = ConnectionLost("the cable is out", "precopy")


async def test_time_is_up(autojump_clock: MockClock) -> None:
    """Where nobody listens attempts are made until the time is over, and not much longer."""
    config = source_config(small_geometry(), unused_port(), reconnect_seconds=7.0)
    reconnector = Reconnector(config)
    with bounded(100):
        reconnector.broke()
        began = trio.current_time()
        async with AsyncExitStack() as stack:
            with pytest.raises(ConnectionLost) as caught:
                await reconnector.reconnect(LOSS, stack)
        assert 7 <= trio.current_time() - began < 8
    assert str(caught.value).startswith("the cable is out; it could not be resumed: cannot connect")
    assert caught.value.channel == "precopy"


async def test_a_session_does_not_break_for_ever() -> None:
    """There is a break after which no other is repaired."""
    reconnector = Reconnector(source_config(small_geometry(), 1))
    for _ in range(RECOVERY_COUNT_MAX):
        reconnector.broke()
    with pytest.raises(ConnectionLost, match=f"more than {RECOVERY_COUNT_MAX} times"):
        reconnector.broke()


async def test_another_address() -> None:
    """A source that is told of another address tries it at once, with its session and its count."""
    heard: list[Resume] = []
    config = source_config(small_geometry(), unused_port(), reconnect_seconds=BOUND_SECONDS)
    reconnector = Reconnector(config)

    async def answer(stream: trio.SocketStream) -> None:
        peer = Peer(stream.socket)
        heard.append(await peer.expect(Resume))
        await peer.send(Welcome(version=PROTOCOL_VERSION, capabilities=("recover",)))
        await peer.wait_closed()

    with bounded():
        reconnector.broke()
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)

            async def tell() -> None:
                # The first attempts have come to nothing by then.
                await trio.sleep(0.2)
                reconnector.redirect("127.0.0.1", listener.socket.getsockname()[1])

            nursery.start_soon(tell)
            connections = await reconnector.reconnect(LOSS, stack)
            assert list(connections) == list(Channel)
            nursery.cancel_scope.cancel()
    assert [resume.role for resume in heard] == ["precopy", "postcopy"]
    assert {resume.session for resume in heard} == {reconnector.session}
    (attempt,) = {resume.attempt for resume in heard}
    assert attempt > 1


@pytest.mark.parametrize("refusal_count", [REFUSAL_COUNT_MAX - 1, REFUSAL_COUNT_MAX])
async def test_a_refusal_may_be_a_changed_bit(
    refusal_count: int, autojump_clock: MockClock
) -> None:
    """Who is turned away tries again at once, and believes it when it is told so often."""
    autojump_clock.autojump_threshold = 0.1
    count = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal count
        peer = Peer(stream.socket)
        await peer.expect(Resume)
        count += 1
        if count <= refusal_count:
            await peer.send(Abort(reason="the first message is no hello"))
            stream.socket.shutdown(socket.SHUT_WR)
        else:
            await peer.send(Welcome(version=PROTOCOL_VERSION, capabilities=("recover",)))
        await peer.wait_closed()

    with bounded():
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            port = listener.socket.getsockname()[1]
            config = source_config(small_geometry(), port, reconnect_seconds=BOUND_SECONDS)
            reconnector = Reconnector(config)
            reconnector.broke()
            if refusal_count < REFUSAL_COUNT_MAX:
                assert len(await reconnector.reconnect(LOSS, stack)) == 2
            else:
                with pytest.raises(PeerAborted, match="no hello"):
                    await reconnector.reconnect(LOSS, stack)
            nursery.cancel_scope.cancel()


async def test_what_the_destination_says() -> None:
    """The maps, the parts and the Standing become what it lacks and a word."""
    geometry = small_geometry()
    missing = PageSet(geometry)
    missing.add(geometry.span_of(0, range(1, 3)))
    missing.add(geometry.span_of(1, range(5, 6)))
    with tcp_pair() as (near, far):
        peer = Peer(far)
        for message, payload in missing_maps(missing):
            await peer.send(message, payload)
        held = {(0, 600): 7, (1, 5): 4095}
        for part in held_parts(held):
            await peer.send(part)
        standing = Standing(running=True, target_pages=len(missing), dropped_bytes=3)
        await peer.send(standing)
        heard, found = await hear_standing(connections_of(near), geometry)
    assert heard == standing
    assert len(found.missing) == len(missing)
    assert not found.missing.count_beyond(missing)
    assert found.held == held


async def test_something_else_is_refused() -> None:
    """Nothing but maps may come before the Standing."""
    with tcp_pair() as (near, far):
        await Peer(far).send(Ready())
        with pytest.raises(RemoteProtocolError, match="Ready came where Standing was due"):
            await hear_standing(connections_of(near), small_geometry())


async def test_a_destination_that_says_nothing(autojump_clock: MockClock) -> None:
    """Who connects and says nothing is given up after a while."""
    with tcp_pair(seconds=100) as (near, _):
        began = trio.current_time()
        with pytest.raises(ConnectionLost, match="did not say in 30 s what it has"):
            await hear_standing(connections_of(near), small_geometry())
        assert trio.current_time() - began == pytest.approx(RECOVER_SECONDS_MAX)


def connections_of(sock: trio.socket.SocketType) -> dict[Channel, Connection]:
    """Return a connection as a source has it."""
    name = Channel.PRECOPY
    return {name: Connection(OutChannel(name, sock), ReturnPath(name, sock))}
