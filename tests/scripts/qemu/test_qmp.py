"""The monitor's client against a monitor that is played by hand."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from protocol.errors import MigrationError
from scripts.qemu.qmp import Qmp
from tests.bounds import bounded


class Monitor:
    """The other side: says lines, hears commands."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        """Take a connected socket."""
        self._sock = sock

    async def say(self, *said: dict[str, Any]) -> None:
        """Say objects, a line each."""
        await self.say_bytes(b"".join(json.dumps(each).encode() + b"\r\n" for each in said))

    async def say_bytes(self, data: bytes) -> None:
        """Say what may be no object."""
        await self._sock.send(data)

    async def hear(self) -> dict[str, Any]:
        """Return the next command."""
        command: dict[str, Any] = json.loads(await self._sock.recv(65536))
        return command

    def close(self) -> None:
        """Be gone."""
        self._sock.close()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Qmp, Monitor]]:
    """Connect a client, whose reader runs, and a monitor."""
    near, far = socket.socketpair()
    with near, far, bounded():
        qmp = Qmp(trio.socket.from_stdlib_socket(near))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(qmp.run)
            yield qmp, Monitor(trio.socket.from_stdlib_socket(far))
            nursery.cancel_scope.cancel()


async def test_a_command_has_its_answer() -> None:
    """After the greeting commands are answered one by one, with events between them kept apart."""
    async with connected() as (qmp, monitor), trio.open_nursery() as nursery:
        nursery.start_soon(qmp.greet)
        await monitor.say({"QMP": {"version": {}}})
        assert (await monitor.hear())["execute"] == "qmp_capabilities"
        await monitor.say({"event": "STOP"}, {"return": {}})
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await qmp.call("migrate", uri="tcp:1.2.3.4:5"))

        nursery.start_soon(ask)
        assert await monitor.hear() == {"execute": "migrate", "arguments": {"uri": "tcp:1.2.3.4:5"}}
        await monitor.say({"event": "MIGRATION"}, {"return": {"status": "good"}})
        assert await qmp.next_event() == {"event": "STOP"}
        assert await qmp.next_event() == {"event": "MIGRATION"}
    assert answers == [{"status": "good"}]


async def test_a_refusal_is_told_in_its_words() -> None:
    """QEMU's description of an error is the reason."""
    async with connected() as (qmp, monitor):
        await monitor.say({"error": {"class": "GenericError", "desc": "no such thing"}})
        with pytest.raises(MigrationError, match="QEMU refused migrate: no such thing"):
            await qmp.call("migrate")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is gone"),
        (b"hello\n", "does not speak JSON"),
        (b"[1]\n", "no object"),
        (b'{"other": 1}\n', "neither an answer nor an event"),
        (b" " * ((1 << 20) + 1), "a line of over"),
    ],
)
async def test_what_is_no_monitor_is_refused(data: bytes, reason: str) -> None:
    """A monitor that is gone, or says something else, ends the reader with a reason."""
    near, far = socket.socketpair()
    with near, bounded():
        qmp = Qmp(trio.socket.from_stdlib_socket(near))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_close, far, data)
            with pytest.raises(MigrationError, match=reason):
                await qmp.run()


async def send_and_close(sock: socket.socket, data: bytes) -> None:
    """Send all and close."""
    with trio.socket.from_stdlib_socket(sock) as far:
        while data:
            data = data[await far.send(data) :]
