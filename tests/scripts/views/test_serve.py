"""The page of a running migration over HTTP: who may see it, what it gets, and how it ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypercorn.config import Config

from protocol.errors import MidstreamError
from scripts.views import serve
from scripts.views.live import LiveState
from scripts.views.serve import BoundedStream, Server, serve_http
from tests.bounds import bounded, nothing_left
from tests.stories import ZERO_NS, half_sent

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
    monkeypatch.setattr(serve, "SEND_SECONDS_MAX", 1e6)
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


@asynccontextmanager
async def serving(host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """Run a server for the block that shows the story of the half-sent page."""
    with bounded(), Server(host, 0) as server:
        state = LiveState()
        for event in half_sent():
            state.take(event)
        server.show(state, ZERO_NS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            yield server
            nursery.cancel_scope.cancel()


def port_of(server: Server) -> int:
    """Return where it listens."""
    return int(server.address.rpartition(":")[2])


async def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[str, str]:
    """Return status line and all the rest of an answer that ends."""
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
    async with stream:
        named = {"Host": f"127.0.0.1:{port_of(server)}", "Connection": "close"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        await stream.send_all(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
        data = b"".join([part async for part in stream])
    status, _, rest = data.decode().partition("\r\n")
    return status, rest


async def open_events(server: Server) -> trio.SocketStream:
    """Ask for the events and read until the first of them has come."""
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
    await stream.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    data = b""
    while b"event: whole" not in data:
        data += await stream.receive_some()
    assert data.startswith(b"HTTP/1.1 200")
    assert b"text/event-stream" in data
    return stream


async def test_the_page_is_closed_to_others() -> None:
    """It may run its own script, ask its own server, and be embedded and kept by nobody."""
    async with serving() as server:
        status, rest = await ask(server, "/")
    assert "200" in status
    head = rest.partition("\r\n\r\n")[0].lower()
    for header in (
        "content-security-policy: default-src 'none'; script-src 'sha256-", "connect-src 'self'",
        "frame-ancestors 'none'", "x-frame-options: deny", "cache-control: no-store",
        "x-content-type-options: nosniff", "cross-origin-resource-policy: same-origin",
    ):  # fmt: skip
        assert header in head
    assert "access-control" not in head
    assert "midstream, live" in rest


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/", "GET", {"Host": "localhost:1"}, 200),
        ("/", "GET", {"Host": "[::1]:1"}, 200),
        ("/", "GET", {"Host": "evil.example"}, 403),
        ("/events", "GET", {"Host": "evil.example:80"}, 403),
        ("/events", "GET", {"Host": "127.0.0.1.evil.example"}, 403),
        ("/events", "GET", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/events", "GET", {"Origin": "http://evil.example"}, 403),
        ("/", "POST", {"Content_Length": "0"}, 405),
        ("/other", "GET", {}, 404),
        ("/../etc/passwd", "GET", {}, 404),
    ],
)
async def test_only_its_own_page_may_ask(
    path: str, method: str, headers: dict[str, str], status: int
) -> None:
    """Names that could point here from elsewhere, other sites and other methods are refused."""
    async with serving() as server:
        seen, _ = await ask(server, path, method, **headers)
    assert str(status) in seen


async def test_a_run_is_followed_to_its_end() -> None:
    """A client gets the present, the changes and the end, and the connection is closed."""
    async with serving() as server:
        stream = await open_events(server)
        server.show(LiveState(), ZERO_NS)
        await server.farewell()
        data = b""
        while b"event: end" not in data:
            data += await stream.receive_some()
        assert b"event: changes" in data
        await stream.aclose()


async def test_a_client_that_reads_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is shown, showing returns at once, and in the end the client is dropped."""
    async with serving() as server:
        slow = await open_events(server)
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        state = LiveState()
        # Frames that differ, each larger than a socket's buffer would like.
        for round_ in range(4000):
            state.policy = f"{round_} " * 2000
            server.show(state, ZERO_NS)
            await trio.lowlevel.checkpoint()
            if not server._broadcast._clients:
                break
        assert not server._broadcast._clients
        status, _ = await ask(server, "/")
        assert "200" in status
        await slow.aclose()


async def test_where_nobody_can_listen_is_said() -> None:
    """An address in use, and one that is not this machine's, are errors of one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MidstreamError, match=f"cannot serve on 127.0.0.1:{port}: "):
            Server("127.0.0.1", port)
    with pytest.raises(MidstreamError, match=r"cannot serve on 192\.0\.2\.1:1: "):
        Server("192.0.2.1", 1)


async def test_it_says_who_can_watch(capsys: pytest.CaptureFixture[str]) -> None:
    """The address is told; that it is open to others, too."""
    with nothing_left():
        with Server("localhost", 0) as server:
            assert capsys.readouterr().err == f"watch at http://{server.address}/\n"
        with Server("0.0.0.0", 0):
            assert "whoever reaches that address can watch" in capsys.readouterr().err
