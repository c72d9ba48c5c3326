"""Sends every client the present whole, and then what changes; who is too slow is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import trio

from scripts.views.frames import Frame, FrameMaker, changes, whole
from scripts.views.live import LiveState

# A client that has not taken so many messages, some seconds' worth, does not keep up.
QUEUE_MAX = 16
# More people hardly watch one run.
CLIENTS_MAX = 16


class TooManyClients(Exception):
    """As many clients as there may be are here already."""


class Client:
    """One who watches.

    Attributes:
        messages: What it is sent, to its end; each a whole server-sent event.
        scope: Is cancelled when it does not keep up.
    """

    def __init__(self) -> None:
        """Start with an empty queue."""
        self.scope = trio.CancelScope()
        self._send, self.messages = trio.open_memory_channel[bytes](QUEUE_MAX)

    def put(self, message: bytes) -> bool:
        """Queue a message; return whether there was room."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            return False
        return True

    def end(self) -> None:
        """Let it have what is queued, and then no more."""
        self._send.close()


class Broadcast:
    """The present of one run, for any number of clients up to CLIENTS_MAX.

    Attributes:
        dropped: How many clients did not keep up and were cut off.
    """

    def __init__(self) -> None:
        """Start before anything is known."""
        self._maker = FrameMaker()
        self._frame: Frame | None = None
        self._clients: set[Client] = set()
        self._gone = trio.Event()
        self._over = False
        self.dropped = 0

    def show(self, state: LiveState, now_ns: int) -> None:
        """Send what has changed; nothing after the farewell."""
        if self._over:
            return
        before, self._frame = self._frame, self._maker.frame(state, now_ns)
        if before is None:
            self._send("whole", whole(self._frame))
        elif self._clients:
            self._send("changes", changes(before, self._frame))

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Add a client for the block; the first message is the present.

        Raises:
            TooManyClients: There are as many as may be.
        """
        if len(self._clients) >= CLIENTS_MAX or self._over:
            raise TooManyClients
        client = Client()
        if self._frame is not None:
            client.put(_message("whole", whole(self._frame)))
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._gone.set()

    async def farewell(self) -> None:
        """Tell all clients that the run is over, and wait until they have heard it.

        Cancelled, it counts those who have not as dropped.
        """
        self._over = True
        self._send("end", {})
        if not self._clients:
            return
        self._gone = trio.Event()
        for client in self._clients:
            client.end()
        try:
            await self._gone.wait()
        finally:
            self.dropped += len(self._clients)

    def _send(self, event: str, data: Frame) -> None:
        message = _message(event, data)
        for client in tuple(self._clients):
            if not client.put(message):
                # A client that does not read must not hold on to anything here.
                client.scope.cancel()
                self._clients.discard(client)
                self.dropped += 1


def _message(event: str, data: Frame) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(data))
