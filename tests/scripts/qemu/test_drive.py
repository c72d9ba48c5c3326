"""How QEMU is told to migrate, and what becomes of each end that it can come to."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing

from protocol.errors import ConnectionLost, MidstreamError, MigrationError
from scripts.qemu.drive import Orders, migrate
from scripts.qemu.qmp import Qmp
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
