"""Serves an ASGI application over HTTP; whoever stops reading holds up neither it nor its end.

Hypercorn shields what it sends from cancellation, without a bound: one browser that reads nothing
would keep a command from ending for ever.  So what it is given is a stream whose sends are bounded,
and are cut short when the server ends.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

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
        """Take a connection.

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
