"""A door that leads to a destination, or where strangers answer, on one and the same address.

It breaks a migration at a byte, lets a stranger answer the attempts to resume it, and leads to the
right destination again: all by the test's word, none by the time that anything takes.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from protocol.errors import RemoteProtocolError
from protocol.messages import (
    PROTOCOL_VERSION,
    Abort,
    Message,
    MissingMap,
    PageRequest,
    Resume,
    Running,
    Standing,
    Welcome,
)
from protocol.wire import Decoder, encode

# What a connection may take to be looked at by its thread.
_SECONDS_MAX = 30.0
_BYTES = 64 * 1024
NEVER = 1 << 60

# Answers one connection, until the other side has enough, or this one.
Stranger = Callable[[socket.socket], None]


def listen(sock: socket.socket) -> None:
    """Hear whatever is said until the other side closes."""
    with suppress(OSError):
        while sock.recv(_BYTES):
            pass


def saying(data: bytes) -> Stranger:
    """Return who says some bytes at once, and listens."""

    def answer(sock: socket.socket) -> None:
        with suppress(OSError):
            sock.sendall(data)
        listen(sock)

    return answer


def closing(sock: socket.socket) -> None:
    """Close at once."""
    sock.close()


def resetting(sock: socket.socket) -> None:
    """Reset at once, as a load balancer does that has nobody behind it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def over_tls(options: list[str], stranger: Stranger) -> Stranger:
    """Return who speaks TLS first, with a certificate of his own, and is a stranger then."""
    cert, key, _ = (option.partition("=")[2] for option in options)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def answer(sock: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(sock, server_side=True) as tls:
            stranger(tls)

    return answer


def welcoming(*messages: Message, version: int = PROTOCOL_VERSION) -> Stranger:
    """Return who welcomes whoever resumes, and says some messages then."""

    def answer(sock: socket.socket) -> None:
        decoder = Decoder()
        with suppress(OSError, RemoteProtocolError):
            while (hello := decoder.next_message()) is None:
                data = sock.recv(_BYTES)
                if not data:
                    return
                decoder.receive_data(data)
            assert isinstance(hello, Resume)
            sock.sendall(encode(Welcome(version=version, capabilities=("recover",))))
            if hello.role == "precopy":
                sock.sendall(b"".join(map(encode, messages)))
        listen(sock)

    return answer


SSH = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2\r\n"
HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"400 Bad Request"
)
TLS_ALERT = bytes.fromhex("15030300020246")
GARBAGE = os.urandom(4096)

STRANGERS: dict[str, Stranger] = {
    "silence": listen,
    "closes": closing,
    "resets": resetting,
    "SSH": saying(SSH),
    "HTTP": saying(HTTP),
    "a TLS alert": saying(TLS_ALERT),
    "garbage": saying(GARBAGE),
    "zeros": saying(bytes(4096)),
    "a later version": welcoming(version=PROTOCOL_VERSION + 1),
    "an older version": saying(encode(Abort(reason="protocol version 9 is not version 1"))),
    "refuses": saying(encode(Abort(reason="no migration is under way here"))),
    "welcomes, and says nothing": welcoming(),
    "welcomes, and ends it": welcoming(Abort(reason="enough", cancelled=True)),
    "welcomes, and asks": welcoming(PageRequest(block=0, page=0, target_page=0)),
    "welcomes, and runs": welcoming(Running()),
    "welcomes, and has everything": welcoming(
        Standing(running=True, target_pages=0, dropped_bytes=0)
    ),
    "welcomes, and has no guest": welcoming(
        Standing(running=False, target_pages=0, dropped_bytes=0)
    ),
    "welcomes, and has another guest": welcoming(
        MissingMap(payload_bytes=0, block=99, first=0, count=1)
    ),
}


class Door:
    """A listening address; connections lead to a destination, or a stranger answers them.

    Attributes:
        met: How many connections strangers have answered since the last change.
        held: A connection has carried as much as it was to, and carries no more forward.
    """

    def __init__(self, target: str, hold_at_bytes: int) -> None:
        """Lead to a destination.

        Args:
            target: HOST:PORT.
            hold_at_bytes: How many bytes a connection carries forward until the first change.
        """
        self.held = threading.Event()
        self._changed = threading.Event()
        self.met = 0
        self._target = target
        self._hold_at_bytes = hold_at_bytes
        self._stranger: Stranger | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        # What waits here does not grow with the machine.
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BYTES)
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._serve)]

    def let_go(self) -> None:
        """Carry on what is held, and hold nothing more."""
        self._changed.set()

    def answer(self, stranger: Stranger) -> None:
        """Have a stranger answer from now on; what is connected ends."""
        self._change(stranger, self._target)

    def lead_to(self, target: str) -> None:
        """Lead to a destination from now on; what is connected ends."""
        self._change(None, target)

    def _change(self, stranger: Stranger | None, target: str) -> None:
        with self._lock:
            self._stranger, self._target, self.met = stranger, target, 0
            self._changed.set()
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            with self._lock:
                stranger = self._stranger
                self.met += stranger is not None
                self._open.add(sock)
            if stranger is None:
                self._start(self._lead, sock, self._target)
            else:
                self._start(self._answer, sock, stranger)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        self._threads.append(thread)

    def _answer(self, sock: socket.socket, stranger: Stranger) -> None:
        try:
            stranger(sock)
        finally:
            self._close(sock)

    def _lead(self, near: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        try:
            far = socket.create_connection((host, int(port)))
        except OSError:
            self._close(near)
            return
        with self._lock:
            self._open.add(far)
        self._start(self._pump, far, near, NEVER)
        self._pump(near, far, self._hold_at_bytes)
        self._close(near, far)

    def _pump(self, origin: socket.socket, to: socket.socket, hold_at_bytes: int) -> None:
        passed = 0
        with suppress(OSError):
            while data := origin.recv(_BYTES):
                to.sendall(data)
                passed += len(data)
                if passed >= hold_at_bytes and not self._changed.is_set():
                    self.held.set()
                    self._changed.wait()
        for sock in (origin, to):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _close(self, *socks: socket.socket) -> None:
        with self._lock:
            for sock in socks:
                self._open.discard(sock)
                sock.close()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.answer(closing)
        for thread in self._threads:
            thread.join(_SECONDS_MAX)
            assert not thread.is_alive()
