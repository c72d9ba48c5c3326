"""A QEMU is had to migrate, and its sockets to hold little; tests/scripts/qemu has real ones."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from typing import Any, cast

import pytest
import trio
import trio.testing

from protocol import events
from protocol.errors import ConnectionLost, MidstreamError, MigrationError
from scripts.qemu import drive as module
from scripts.qemu.drive import Orders, Shortened, migrate, shorten
from scripts.qemu.qmp import Qmp
from tests.bounds import nothing_left
from tests.stories import Recorder


class FakeQmp:
    """A monitor that answers everything and has its events from the start."""

    def __init__(self, *events: tuple[str, dict[str, Any]], info: dict[str, Any]) -> None:
        """Prepare."""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._events = [{"event": name, "data": data} for name, data in events]
        self._info = info

    async def call(self, command: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        """Note a command."""
        await trio.lowlevel.checkpoint()
        self.calls.append((command, arguments))
        return self._info if command == "query-migrate" else {}

    async def next_event(self) -> dict[str, Any]:
        """Return the next event; there must be one."""
        await trio.lowlevel.checkpoint()
        return self._events.pop(0)

    @property
    def commands(self) -> list[str]:
        """The names of what was called."""
        return [command for command, _ in self.calls]


def entered(*states: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of these states."""
    return [("MIGRATION", {"status": state}) for state in states]


DONE = {"status": "completed", "total-time": 9}


def orders(**given: Any) -> Orders:  # noqa: ANN401
    """Return orders, as given or plain."""
    plain: dict[str, Any] = {
        "preempt": True, "postcopy_after": 0, "bandwidth": 0, "postcopy_bandwidth": 7,
    }  # fmt: skip
    return Orders(**(plain | given))


async def drive(qmp: FakeQmp, given: Orders, emit: Recorder | None = None) -> dict[str, Any]:
    """Migrate."""
    return await migrate(cast("Qmp", qmp), "::1", 5, given, emit or Recorder())


async def test_postcopy_at_once() -> None:
    """Capabilities and limits come first, then the migration and the order to switch over."""
    qmp = FakeQmp(*entered("setup", "postcopy-active", "completed"), info=DONE)
    emit = Recorder()
    assert await drive(qmp, orders(), emit) == DONE
    assert qmp.commands == [
        "migrate-set-capabilities", "migrate-set-parameters", "migrate", "migrate-start-postcopy",
        "query-migrate",
    ]  # fmt: skip
    given = {each["capability"]: each["state"] for each in qmp.calls[0][1]["capabilities"]}
    assert given == {"events": True, "postcopy-ram": True, "postcopy-preempt": True}
    assert qmp.calls[1][1]["max-postcopy-bandwidth"] == 7
    # However late the order comes, no page was sent before, and precopy is not over.  QEMU reckons
    # by tenths of a second, and none is no limit.
    assert 1 <= qmp.calls[1][1]["max-bandwidth"] // 10 < 9
    assert qmp.calls[2][1] == {"uri": "tcp:[::1]:5"}
    assert emit.states == ["setup", "postcopy-active", "completed"]


async def test_postcopy_when_so_much_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    """QEMU is asked until it has sent so much; one that has ended is not waited for."""
    qmp = FakeQmp(*entered("completed"), info={"ram": {"transferred": 400}} | DONE)
    await drive(qmp, orders(precopy_bytes=400, bandwidth=70))
    assert qmp.calls[1][1]["max-bandwidth"] == 70
    assert qmp.commands[2:] == [
        "migrate", "query-migrate", "migrate-start-postcopy", "query-migrate"
    ]  # fmt: skip
    ended = FakeQmp(*entered("completed"), info={"ram": {"transferred": 0}} | DONE)
    await drive(ended, orders(precopy_bytes=400, bandwidth=70))
    slow = FakeQmp(info={"status": "active", "ram": {"transferred": 399}})
    with trio.move_on_after(60):
        await drive(slow, orders(precopy_bytes=400, bandwidth=70))
    assert "migrate-start-postcopy" not in slow.commands


async def test_postcopy_after_a_pass() -> None:
    """The order to switch over comes when as many passes have been made as were asked for."""
    passes: list[tuple[str, dict[str, Any]]] = [
        ("MIGRATION_PASS", {"pass": 1}), ("MIGRATION_PASS", {"pass": 2}),
    ]  # fmt: skip
    qmp = FakeQmp(*passes, *entered("completed"), info=DONE)
    await drive(qmp, orders(postcopy_after=1, bandwidth=1 << 20))
    assert qmp.commands[-2:] == ["migrate-start-postcopy", "query-migrate"]
    assert qmp.calls[1][1]["max-bandwidth"] == 1 << 20
    early = FakeQmp(passes[0], *entered("completed"), info=DONE)
    await drive(early, orders(postcopy_after=1))
    assert "migrate-start-postcopy" not in early.commands


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ("failed", MigrationError, "has failed: out of luck"),
        ("cancelled", MigrationError, "has cancelled: out of luck"),
        ("postcopy-paused", ConnectionLost, "gone in postcopy"),
    ],
)
async def test_what_is_no_good_end(state: str, error: type[MidstreamError], words: str) -> None:
    """QEMU's own reason is told where it has one."""
    qmp = FakeQmp(*entered(state), info={"error-desc": "out of luck"})
    with pytest.raises(error, match=words):
        await drive(qmp, orders())


async def test_a_paused_migration_is_resumed(autojump_clock: trio.testing.MockClock) -> None:
    """For as long as it may, QEMU is had to connect again after each break, a moment later."""
    states = (
        "postcopy-active",
        "postcopy-paused",
        "postcopy-recover",
        "postcopy-paused",
        "completed",
    )
    qmp = FakeQmp(*entered(*states), info=DONE)
    emit = Recorder()
    assert await drive(qmp, orders(reconnect_seconds=9.0), emit) == DONE
    again = [arguments for name, arguments in qmp.calls if name == "migrate"][1:]
    assert again == [{"uri": "tcp:[::1]:5", "resume": True}] * 2
    assert tuple(emit.states) == states


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
    monkeypatch.setattr(module, "shorten", lambda *given: calls.append(given))
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
