"""Connections of browsers: one that takes nothing breaks, soon or when the server ends."""

import socket

import pytest
import trio
from hypercorn.config import Config

from scripts.views import connections
from scripts.views.connections import BoundedStream, serve_http

# More than two sockets hold.
MUCH = bytes(64 << 20)


async def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return two ends of a connection."""
    near, far = trio.socket.socketpair()
    return trio.SocketStream(near), trio.SocketStream(far)


async def test_a_peer_that_reads_gets_all() -> None:
    """Both directions work as they do without, to the end."""
    near, far = await pair()
    stream = BoundedStream(near, set())
    await stream.send_all(b"there")
    await stream.send_eof()
    assert [await far.receive_some() for _ in range(2)] == [b"there", b""]
    await far.send_all(b"back")
    assert await stream.receive_some(10) == b"back"
    await stream.aclose()
    await far.aclose()


async def test_a_peer_that_takes_nothing_breaks(autojump_clock: trio.testing.MockClock) -> None:
    """A shield around it does not matter."""
    near, far = await pair()
    sends: set[trio.CancelScope] = set()
    with trio.CancelScope(shield=True), pytest.raises(trio.BrokenResourceError, match="not read"):
        await BoundedStream(near, sends).send_all(MUCH)
    assert not sends
    await near.aclose()
    await far.aclose()


async def test_a_server_ends_though_a_peer_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sends is cut short."""
    monkeypatch.setattr(connections, "SEND_SECONDS_MAX", 1e6)
    is_sending = trio.Event()

    async def application(scope: dict[str, object], receive: object, send: object) -> None:
        assert scope["type"] == "http"
        assert callable(send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        is_sending.set()
        await send({"type": "http.response.body", "body": MUCH})

    config = Config()
    config.errorlog = config.accesslog = None
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as browser:
        browser.connect(listener.getsockname())
        browser.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_http, application, config, listener)
                await is_sending.wait()
                await trio.testing.wait_all_tasks_blocked(0.05)
                nursery.cancel_scope.cancel()
        # It is still there.
        assert browser.recv(9) == b"HTTP/1.1 "
