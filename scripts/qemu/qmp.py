"""QEMU's monitor: commands and their answers, and the events between them, a JSON object a line.

`docs/interop/qmp-spec.rst` of QEMU describes it.
"""

from __future__ import annotations

import json
from typing import Any

import trio

from protocol.errors import MigrationError

# The longest answer that is asked for here is query-migrate's; QEMU's own limit on input is 64 MiB.
_LINE_BYTES_MAX = 1 << 20
_READ_BYTES = 64 * 1024
# QEMU answers at once unless its main loop is stuck, as it is while it connects.
_ANSWER_SECONDS_MAX = 30.0

# How long no event may come before QEMU is asked whether it is there.
_QUIET_SECONDS = 5.0

Event = dict[str, Any]


class Qmp:
    """A monitor; `greet` first, then `call`, and `next_event` by one task."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        """Use a connected socket; its owner closes it."""
        self._sock = sock
        self._rest = b""
        self._call_lock = trio.Lock()
        self._send_answer, self._answers = trio.open_memory_channel[dict[str, Any]](1)
        self._send_event, self._events = trio.open_memory_channel[Event](float("inf"))

    async def greet(self) -> None:
        """Hear the greeting, and agree to plain commands; `run` must be under way.

        Raises:
            MigrationError: This is no monitor, or QEMU is gone.
        """
        with trio.move_on_after(_ANSWER_SECONDS_MAX):
            await self._answers.receive()
            await self.call("qmp_capabilities")
            return
        raise MigrationError(f"QEMU did not begin to talk in {_ANSWER_SECONDS_MAX:g} s")

    async def call(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - what JSON holds
        """Execute a command; return its answer.

        Raises:
            MigrationError: QEMU refused, is gone, or says nothing.
        """
        order = {"execute": command, "arguments": arguments}
        async with self._call_lock:
            with trio.move_on_after(_ANSWER_SECONDS_MAX):
                await self._write(json.dumps(order).encode() + b"\n")
                answer = await self._answers.receive()
                if "error" in answer:
                    reason = answer["error"].get("desc", "for no reason that it told")
                    raise MigrationError(f"QEMU refused {command}: {reason}")
                return answer["return"]
        raise MigrationError(f"QEMU did not answer {command} in {_ANSWER_SECONDS_MAX:g} s")

    async def next_event(self) -> Event:
        """Return the next event, in the order in which they came.

        While none comes, QEMU is asked now and then whether it is there: one that was stopped says
        nothing, and closes nothing.

        Raises:
            MigrationError: It does not answer.
        """
        while True:
            with trio.move_on_after(_QUIET_SECONDS):
                return await self._events.receive()
            await self.call("query-status")

    async def run(self) -> None:
        """Read until cancelled, or until QEMU is gone.

        Raises:
            MigrationError: QEMU is gone, or what it says is no JSON.
        """
        while True:
            said = await self._read_line()
            if "event" in said:
                self._send_event.send_nowait(said)
            elif said.keys() & {"return", "error", "QMP"}:
                await self._send_answer.send(said)
            else:
                raise MigrationError("QEMU's monitor says what is neither an answer nor an event")

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                count = await self._sock.send(view)
            except OSError as error:
                raise MigrationError(f"QEMU's monitor is gone: {error.strerror}") from error
            view = view[count:]

    async def _read_line(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            try:
                data = await self._sock.recv(_READ_BYTES)
            except OSError:
                data = b""
            if not data:
                raise MigrationError("QEMU's monitor is gone")
            self._rest += data
            if len(self._rest) > _LINE_BYTES_MAX:
                raise MigrationError(f"QEMU's monitor wrote a line of over {_LINE_BYTES_MAX} bytes")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            said = json.loads(line)
        except ValueError as error:
            raise MigrationError("QEMU's monitor does not speak JSON") from error
        if not isinstance(said, dict):
            raise MigrationError("QEMU's monitor says what is no object")
        return said
