"""`--serve`: a page for browsers that shows a run while it goes on; it can only be looked at.

The page is for who may see this machine's loopback, unless another address was asked for.  No other
site can read it: a request whose Host is a name that somebody else could point here is refused (DNS
rebinding), and answers allow nobody else to embed or to fetch them.

Whoever stops reading holds up neither the server nor its end.  Hypercorn shields what it sends from
cancellation, without a bound: one browser that reads nothing would keep a command from ending for
ever.  So what it is given is a stream whose sends are bounded, and are cut short when the server
ends.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from protocol.addresses import host_port
from protocol.errors import MidstreamError, MigrationCancelled
from scripts.runtime.looping import run_until_signalled
from scripts.screen.output import tell
from scripts.views.broadcast import Broadcast, TooManyClients
from scripts.views.live import LiveState
from scripts.views.outputs import live_page, read_spool, whole_page
from scripts.views.spool import Spool

# A browser that has not taken a message for so long has stopped reading.
SEND_SECONDS_MAX = 10.0


async def serve_http(
    application: Callable[..., Any], config: Config, listener: socket.socket
) -> None:
    """Serve until cancelled.

    Args:
        application: What answers (ASGI); of the lifespan protocol it hears nothing.
        config: Hypercorn's.
        listener: Is left open.
    """
    app = wrap_app(application, config.wsgi_max_body_size, "asgi")
    context = WorkerContext(None)
    sends: set[trio.CancelScope] = set()

    async def handle(stream: trio.SocketStream) -> None:
        # Its type says that it encrypts; what it does with a plain one it finds out by itself.
        bounded: Any = BoundedStream(stream, sends)
        await TCPServer(app, config, context, ConnectionState({}), bounded)

    async def cut_short() -> None:
        try:
            await trio.sleep_forever()
        finally:
            for scope in sends:
                scope.cancel()

    sock = trio.socket.from_stdlib_socket(listener.dup())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut_short)
        await trio.serve_listeners(handle, [trio.SocketListener(sock)])


class BoundedStream:
    """A connection that breaks when its peer takes nothing; has what Hypercorn needs of one."""

    def __init__(self, stream: trio.SocketStream, sends: set[trio.CancelScope]) -> None:
        """Wrap a connection.

        Args:
            stream: The connection.
            sends: The scopes of all sends that are under way; one that is cancelled breaks.
        """
        self.socket = stream.socket
        self._stream = stream
        self._sends = sends

    async def send_all(self, data: bytes) -> None:
        """Send.

        Raises:
            trio.BrokenResourceError: The peer is gone, or does not read.
        """
        with trio.move_on_after(SEND_SECONDS_MAX) as scope:
            self._sends.add(scope)
            try:
                await self._stream.send_all(data)
            finally:
                self._sends.discard(scope)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the peer does not read")

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive, as trio's stream does."""
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """End this direction, as trio's stream does."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection, as trio's stream does."""
        await self._stream.aclose()


Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

# How long the last message may take to be heard; also of a run whose user has cancelled it.
FAREWELL_SECONDS_MAX = 0.5
_BACKLOG = 16

_TEXT = b"text/plain; charset=utf-8"
_HTML = b"text/html; charset=utf-8"


class Server:
    """Shows a run to browsers; a watcher of `watch.watching`."""

    def __init__(self, host: str, port: int, *, seconds_after: float = 0.0) -> None:
        """Listen.

        Args:
            host: Where.
            port: On which port; 0 picks one.
            seconds_after: How long the whole run is to be seen when it is over.

        Raises:
            MidstreamError: Nobody can listen there.
        """
        self._seconds_after = seconds_after
        # The page about the whole run, when that is over, and its content security policy.
        self._run_page: tuple[str, str] | None = None
        self._broadcast = Broadcast()
        self._host = host
        try:
            family, *_, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        except OSError as error:
            reason = error.strerror or error
            raise MidstreamError(f"cannot serve on {host_port(host, port)}: {reason}") from error
        name, number = self._socket.getsockname()[:2]
        self.address = host_port(name, number)
        self._is_open = not ipaddress.ip_address(name).is_loopback
        self._page, policy = live_page()
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cache-control", b"no-store"),
        ]

    def __enter__(self) -> Server:
        """Print where to look."""
        tell(f"watch at http://{self.address}/")
        if self._is_open:
            tell("whoever reaches that address can watch, not only this machine")
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no longer, unless the page is to stay: who comes meanwhile waits a moment."""
        if not self._seconds_after:
            self._socket.close()

    @property
    def dropped(self) -> int:
        """How many browsers did not keep up and were cut off."""
        return self._broadcast.dropped

    def show(self, state: LiveState, now_ns: int) -> None:
        """Send browsers what has changed."""
        self._broadcast.show(state, now_ns)

    async def run(self) -> None:
        """Serve until cancelled."""
        config = Config()
        config.errorlog = config.accesslog = None
        config.include_server_header = False
        config.h11_max_incomplete_size = 16 * 1024
        # Hypercorn's types tell every kind of message apart; those here are plain mappings.
        application: Any = self.application
        await serve_http(application, config, self._socket)

    async def farewell(self) -> None:
        """Send browsers the end of the run; bounded."""
        with trio.move_on_after(FAREWELL_SECONDS_MAX):
            await self._broadcast.farewell(stays=bool(self._seconds_after))

    def stay(self, spool: Spool) -> None:
        """Serve the page about the whole run for as long as is wanted, or until a signal comes."""
        if not self._seconds_after:
            return
        with self._socket, suppress(MigrationCancelled):
            history = read_spool(spool)
            self._run_page = whole_page(history)
            tell(
                f"the whole run is at http://{self.address}/ for {self._seconds_after:g} s; "
                "Ctrl-C ends it"
            )
            run_until_signalled(self._run_for_a_while)

    async def _run_for_a_while(self) -> None:
        with trio.move_on_after(self._seconds_after):
            await self.run()

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        if not self._may_ask(headers):
            await self._answer(send, 403, b"another site asks\n")
        elif scope["method"] not in {"GET", "HEAD"}:
            await self._answer(send, 405, b"there is nothing to be changed here\n")
        elif scope["path"] == "/" and self._run_page is not None:
            page, policy = self._run_page
            await self._answer(send, 200, page.encode(), _HTML, policy)
        elif scope["path"] == "/":
            await self._answer(send, 200, self._page.encode(), _HTML)
        elif scope["path"] == "/events":
            await self._stream(receive, send)
        else:
            await self._answer(send, 404, b"there is no such page\n")

    def _may_ask(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request comes from this very page or from its user."""
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        same = headers.get(b"sec-fetch-site", b"none") in {b"none", b"same-origin"}
        origin = headers.get(b"origin")
        return (
            same
            and (origin is None or origin == b"http://" + headers.get(b"host", b""))
            and (name in {"localhost", self._host} or _is_address(name.strip("[]")))
        )

    async def _answer(
        self, send: Send, status: int, body: bytes, kind: bytes = _TEXT, policy: str = ""
    ) -> None:
        headers = [*self._headers, (b"content-type", kind)]
        if policy:
            headers[0] = (headers[0][0], policy.encode())
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, receive: Receive, send: Send) -> None:
        with suppress(TooManyClients), self._broadcast.client() as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                with client.scope:
                    headers = [*self._headers, (b"content-type", b"text/event-stream")]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    async for message in client.messages:
                        part = {"type": "http.response.body", "body": message, "more_body": True}
                        await send(part)
                    await send({"type": "http.response.body", "body": b""})
                nursery.cancel_scope.cancel()
            return
        await self._answer(send, 503, b"too many watch already\n")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
