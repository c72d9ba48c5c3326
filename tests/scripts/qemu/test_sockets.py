"""What a process's sockets may hold can be set from outside, whatever it was going to do."""

from __future__ import annotations

import os
import socket
from contextlib import closing

import pytest

from protocol import events
from scripts.qemu import sockets
from scripts.qemu.sockets import Shortened, shorten
from tests.bounds import nothing_left
from tests.stories import Recorder

PROGRESS = events.Progress(remaining_bytes=3, precopy_bytes=2, postcopy_bytes=1)


def unread_bytes(sock: socket.socket) -> int:
    """Return how much a socket takes while nobody reads at the far end."""
    sock.setblocking(False)
    count = 0
    try:
        while count < 64 << 20:
            count += sock.send(bytes(4096))
    except BlockingIOError:
        pass
    return count


def test_connections_to_a_port_are_shortened_and_no_others() -> None:
    """Of two connections of a process the one that is meant takes less; neither is closed."""
    with nothing_left(), socket.create_server(("127.0.0.1", 0)) as listener:
        # The window at the far end counts, too, and is inherited.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        with (
            closing(socket.create_connection(listener.getsockname())) as near,
            closing(listener.accept()[0]) as far,
            closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
            closing(socket.socket()),
        ):
            before = far.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            assert shorten(os.getpid(), listener.getsockname()[1], 64 << 10) == 1
            assert far.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before
            assert near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 64 << 10
            assert unread_bytes(near) < 256 << 10


def test_states_are_when_connections_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event is passed on; with states, and a window, sockets are shortened."""
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(sockets, "shorten", lambda *given: calls.append(given))
    told = Recorder()
    for window_bytes in (0, 7):
        shortened = Shortened(told, 1, 2, window_bytes)
        shortened(PROGRESS)
        shortened(events.State(state="active"))
    assert calls == [(1, 2, 7)]
    assert told.events == [PROGRESS, events.State(state="active")] * 2


def test_what_cannot_be_had_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the kernel lets nobody reach into a process, QEMU's sockets stay, and that is said."""

    def refuse(_pidfd: int, _fd: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("guest.libc.pidfd_getfd", refuse)
    with socket.socket():
        shortened = Shortened(Recorder(), os.getpid(), 5, 64 << 10)
        shortened(events.State(state="active"))
        shortened(events.State(state="postcopy-active"))
    assert capsys.readouterr().err == "QEMU's sockets keep their size: Operation not permitted\n"
