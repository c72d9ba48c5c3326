"""What a session's user can tell it, and what he reads of its pauses: the words of both."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol import events
from protocol.errors import ConnectionLost, MigrationError
from protocol.states import Event, Lifecycle, State
from source.control_client import tell_source
from source.endings import Break, Endings, PausedByHand
from source.monitor import Monitor
from source.phases import Phases
from source.reconnect import Reconnector
from source.steering import Steering
from source.verification import Verification
from tests.bounds import bounded
from tests.guests import small_geometry
from tests.sides import source_config
from tests.stories import Recorder

TO_POSTCOPY = (Event.CONNECTED, Event.PREPARED, Event.GUEST_STOPPED, Event.POSTCOPY_STARTED)


class Rig:
    """A monitor, and what it speaks for, of a session without a guest."""

    def __init__(self) -> None:
        """Begin before there is a connection."""
        config = source_config(small_geometry(), 7)
        self.events = Recorder()
        self.lines: list[str] = []
        self.more_lines: list[str] = []
        self.lifecycle = Lifecycle(self.events)
        self.reconnector = Reconnector(config, self.events)
        verification = Verification(self.lifecycle, self.events)
        endings = Endings(config, verification, self.lifecycle, self.events)
        # Of a migration that could be resumed.
        endings.phases = cast("Phases", SimpleNamespace(recoverable=True))
        self.monitor = Monitor(
            self.lifecycle, self.reconnector, endings,
            Steering(config, self.lifecycle, self.events), self.events, self.lines.append,
            self.more_lines.append,
        )  # fmt: skip
        self.session = self.monitor.session
        self.resume_line = f"midstream source --resume {self.session} --connect HOST:PORT"

    async def tell(self, command: str, argument: str = "") -> str:
        """Tell the session something, as another process does."""
        return await tell_source(self.session, command, argument)

    async def pause_once(self) -> None:
        """Pause, as an epoch does, when that is ordered."""
        with pytest.raises(PausedByHand) as caught:
            await self.monitor.heed_pause()
        self.lifecycle.interrupt()
        self.reconnector.broke(Break(caught.value, by_hand=True))
        self.monitor.epoch_over()


async def test_where_it_listens_is_told_first(control_folder: Path) -> None:
    """The session's name and its socket are an event and a line, before any command."""
    rig = Rig()
    path = control_folder / f"{rig.session}.sock"
    with bounded():
        async with rig.monitor.listen():
            assert rig.events.of(events.Session) == [{"session": rig.session, "control": str(path)}]
            assert rig.more_lines == [f"session {rig.session}, control socket {path}"]
            told = await rig.tell("status")
            assert told == f"none, to 127.0.0.1:7, process {os.getpid()}"
        assert not path.exists()


async def test_without_a_socket_it_goes_on(control_folder: Path, fallback: Path) -> None:
    """Where none can be had that is told, and again when it would be needed."""
    for folder in (control_folder, fallback):
        folder.write_text("")
    rig = Rig()
    with bounded():
        async with rig.monitor.listen():
            rig.monitor.paused(ConnectionLost("cut"))
            await trio.lowlevel.checkpoint()
    assert rig.events.of(events.Session) == [{"session": rig.session, "control": ""}]
    (introduced,), (paused,) = rig.more_lines, rig.lines
    assert introduced.startswith(f"session {rig.session}, no control socket (")
    assert paused.startswith("paused: cut; trying to resume; by hand: not at all, ")
    assert paused.count("not this user's alone") == 2


async def test_a_pause_and_its_end_are_told() -> None:
    """A break is told with the command that resumes it, and then where it went on."""
    rig = Rig()
    with bounded():
        async with rig.monitor.listen():
            rig.monitor.paused(ConnectionLost("cut"))
            rig.monitor.resumed()
            await trio.lowlevel.checkpoint()
    assert rig.lines == [
        f"paused: cut; trying to resume; by hand: {rig.resume_line}", "resumed at 127.0.0.1:7",
    ]  # fmt: skip


async def test_a_pause_by_hand_says_how_it_ends() -> None:
    """Who orders a pause reads how to end it and what happens else; so does the session's user."""
    rig = Rig()
    for event in TO_POSTCOPY:
        rig.lifecycle.fire(event)
    with bounded():
        async with rig.monitor.listen(), trio.open_nursery() as nursery:
            nursery.start_soon(rig.pause_once)
            answer = await rig.tell("pause")
        rig.monitor.paused(PausedByHand("its user has paused it"))
    by_hand = rf"by hand: {rig.resume_line}, in \d+ s; then 127\.0\.0\.1:7 is tried once more"
    assert re.fullmatch(f"paused; {by_hand}", answer)
    (line,) = rig.lines
    assert re.fullmatch(f"paused: its user has paused it; {by_hand}", line)
    assert rig.lifecycle.state is State.POSTCOPY_PAUSED


async def test_all_who_order_a_pause_hear_of_it() -> None:
    """They do when the state says so, whatever it is then; the next epoch knows nothing of it."""
    for interrupts, answer in ((True, "paused; by hand"), (False, "it came too late")):
        rig = Rig()
        for event in TO_POSTCOPY:
            rig.lifecycle.fire(event)
        heard: list[str] = []

        async def order(rig: Rig = rig, heard: list[str] = heard) -> None:
            try:
                heard.append(await rig.monitor._pause_by_hand(""))
            except MigrationError as error:
                heard.append(str(error))

        with bounded():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(order)
                nursery.start_soon(order)
                await wait_all_tasks_blocked()
                if interrupts:
                    await rig.pause_once()
                else:
                    rig.lifecycle.fire(Event.ALL_PLACED)
                    nursery.start_soon(rig.monitor.heed_pause)
                    await wait_all_tasks_blocked()
                    assert heard == []
                    rig.monitor.epoch_over()
                    await wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
            if interrupts:
                for event in (Event.RECONNECTED, Event.RECOVERED):
                    rig.lifecycle.fire(event)
            assert len(heard) == 2
            assert all(each.startswith(answer) for each in heard)
            with trio.move_on_after(0.01) as patience:
                await rig.monitor.heed_pause()
            assert patience.cancelled_caught


@pytest.mark.parametrize(
    ("command", "argument", "reason"),
    [
        ("resume", "127.0.0.1:8", "it is not paused, its state is none"),
        ("resume", "somewhere", "that is no HOST:PORT"),
        ("pause", "", "only a migration that is postcopy-active can be paused"),
        ("set", "", "give NAME=VALUE"),
        ("switch-over", "now", "switch-over takes no argument"),
        ("stop", "", "there are: pause, resume, set, status, switch-over"),
    ],
)
async def test_what_cannot_be_done_is_refused(command: str, argument: str, reason: str) -> None:
    """Each command reaches who knows of it, and his refusal is the answer."""
    rig = Rig()
    with bounded():
        async with rig.monitor.listen():
            with pytest.raises(MigrationError, match=re.escape(reason)):
                await rig.tell(command, argument)
    assert rig.reconnector.attempts.address == ("127.0.0.1", 7)


def test_precopy_that_does_not_converge_can_be_ended() -> None:
    """The warning says with which commands, and for which session."""
    rig = Rig()
    rig.monitor.warn("pass 3 has not shrunk")
    (line,) = rig.lines
    assert line == (
        f"pass 3 has not shrunk; to end it: midstream switch-over --session {rig.session}, or "
        "Ctrl-C; the next time --postcopy-after-time or --give-up-after"
    )
