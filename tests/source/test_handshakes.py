"""What must be answered at the turns of a migration: in time, and with the same counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from guest.memory import GuestMemory
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.limits import SETUP_SECONDS_MAX
from protocol.messages import End, Message, Setup
from protocol.policy import preset
from tests.guests import FakeGuest
from tests.source.test_migration import make_rig


async def test_a_destination_that_is_never_ready_is_given_up(
    memory: GuestMemory, guest: FakeGuest, autojump_clock: MockClock
) -> None:
    """Preparing takes time, but not for ever."""
    autojump_clock.autojump_threshold = 0.1

    async def say_nothing(_: Message) -> None:
        await trio.sleep_forever()

    async with make_rig(memory, seconds=2 * SETUP_SECONDS_MAX) as rig:
        rig.dest.instead[Setup] = say_nothing
        error = await rig.fail(guest)
        assert isinstance(error, ConnectionLost)
        assert "sent no Ready" in str(error)
        assert trio.current_time() == SETUP_SECONDS_MAX


@pytest.mark.parametrize("field", ["pages", "target_pages", "data_bytes"])
async def test_a_destination_that_counts_otherwise_is_refused(
    memory: GuestMemory, guest: FakeGuest, field: str
) -> None:
    """The migration is complete only when both sides counted the same."""
    async with make_rig(memory, policy=preset("vanilla")) as rig:

        async def miscount(_: Message) -> None:
            finished = rig.dest.finished()
            wrong: dict[str, Any] = {field: getattr(finished, field) - 1}
            await rig.dest.main.send(replace(finished, **wrong))

        rig.dest.instead[End] = miscount
        error = await rig.fail(guest)
        assert isinstance(error, RemoteProtocolError)
        assert "the destination counted" in str(error)
        assert rig.events.states[-1] == "postcopy-active"
