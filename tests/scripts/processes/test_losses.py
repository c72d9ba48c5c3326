"""What a run's outputs lost: added up, told in the report, a failure if something is missing."""

from pathlib import Path

import pytest

from protocol import events
from protocol.errors import MidstreamError
from scripts.processes.losses import Losses, losses_here
from scripts.screen.recorder import Recorder


def test_several_processes_losses_are_one() -> None:
    """Numbers add up, also when they went from one process to another."""
    one, two = Losses(events=1, messages=2, missing="a"), Losses(events=3, viewers=4, missing="b")
    assert one + two == Losses(4, 2, 4, "a")
    assert Losses() + two == Losses(**two.to_plain())  # type: ignore[arg-type]


def test_a_report_says_what_was_dropped() -> None:
    """Of midstream's own always, of QEMU's only if there is something."""
    dropped = {"events": 1, "messages": 0, "viewers": 0}
    assert Losses(1).put_into({"midstream": {"a": 1}}) == {
        "midstream": {"a": 1, "dropped": dropped}
    }
    assert Losses(1).put_into({}) == {"midstream": {"dropped": dropped}}
    assert Losses().put_into({}) == {}


def test_what_is_missing_is_a_failure() -> None:
    """What a reader did not take is none."""
    Losses(1, 2, 3).check()
    with pytest.raises(MidstreamError, match="cannot write x"):
        Losses(missing="cannot write x").check()


def test_a_full_disk_is_a_loss_of_this_process() -> None:
    """Its lines are counted, and its failure is what is missing."""
    with Recorder("source", Path("/dev/full")) as recorder:
        recorder(events.State(state="setup"))
    found = losses_here([], recorder)
    assert (found.events, found.missing) == (1, "cannot write /dev/full: No space left on device")
    assert losses_here([]) == Losses()
