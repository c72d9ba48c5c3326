"""What must be answered at the turns of a migration: in time, and with the same counts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.limits import CLOSING_SECONDS_MAX, SETUP_SECONDS_MAX
from protocol.messages import End, Finished, Message, PassEnd, Setup, SwitchOver, SwitchOverAhead
from protocol.policy import preset
from source.convergence import SwitchRule
from tests.source.playbook import AFTER_ONE_PASS, Play

AWAITED: list[tuple[type[Message], str, float]] = [
    (Setup, "Ready", SETUP_SECONDS_MAX),
    (PassEnd, "PassAck", CLOSING_SECONDS_MAX),
    (SwitchOverAhead, "SwitchOverAck", CLOSING_SECONDS_MAX),
    (SwitchOver, "Running", CLOSING_SECONDS_MAX),
    (End, "Finished", CLOSING_SECONDS_MAX),
]


@pytest.mark.parametrize(("at", "due", "seconds"), AWAITED)
def test_a_destination_that_does_not_answer_is_given_up(
    at: type[Message], due: str, seconds: float
) -> None:
    """An answer may take its time, but not for ever."""
    play = Play(rule=AFTER_ONE_PASS)
    play.dest.instead[at] = lambda _: []
    began_ns = play.now_ns
    with pytest.raises(ConnectionLost, match=f"sent no {due} for {seconds:g} s"):
        play.transfer()
    assert (play.now_ns - began_ns) / 1e9 == seconds
    assert play.story[-1] == "hear, late"


@pytest.mark.parametrize("field", ["pages", "target_pages", "data_bytes"])
def test_a_destination_that_counts_otherwise_is_refused(field: str) -> None:
    """The migration is complete only when both sides counted the same."""
    play = Play(policy=preset("vanilla"), rule=SwitchRule(0, 300))

    def miscount(_: Message) -> list[Message]:
        finished: Finished = play.dest.finished()
        wrong: dict[str, Any] = {field: getattr(finished, field) - 1}
        return [msgspec.structs.replace(finished, **wrong)]

    play.dest.instead[End] = miscount
    with pytest.raises(RemoteProtocolError, match="the destination counted"):
        play.transfer()
    assert play.events.states[-1] == "postcopy-active"
