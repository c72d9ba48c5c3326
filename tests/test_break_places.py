"""Every kind of break at every kind of place: all memory arrives, or both sides say why not."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest
import trio

from guest.programs import ProgramSpec
from protocol.channels import Channel
from protocol.geometry import Geometry, RamBlock
from protocol.messages import (
    Account,
    Bye,
    End,
    Finished,
    HeldPart,
    Hello,
    Message,
    MissingMap,
    PageData,
    PageRest,
    Resume,
    Running,
    Setup,
    Standing,
    Verdict,
    Welcome,
)
from protocol.policy import preset
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import Direction
from scripts.injection.tap import Part
from source.convergence import SwitchRule
from tests.bounds import bounded, nothing_left
from tests.breaking import Breaking, Breaks, Place, Run, judge
from tests.guests import HUGE, KIB, SEED

GEOMETRY = Geometry((RamBlock("ram", 3 * HUGE, HUGE), RamBlock("rom", 32 * 4 * KIB, 4 * KIB)))
# A page that the background comes to last, twice, and a small one.
TOUCH = (1030, 1040, 1540)
SPEC = ProgramSpec(seed=SEED, vcpu_count=len(TOUCH))

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD


@dataclass(frozen=True)
class Case:
    """Where something breaks.

    Attributes:
        places: One after the other.
        channel: What breaks, if not the channel of the place.
        passes: Precopy passes before the switch-over.
        again: The same is done at each place but the first; else all but the last are cut.
    """

    places: tuple[Place, ...]
    channel: Channel | None = None
    passes: int = 0
    again: bool = False


def at(
    name: Channel, way: Direction, kind: type[Message], nth: int = 1, behind: int = 0, *,
    urgent: bool | None = None, channel: Channel | None = None, passes: int = 0,
) -> Case:  # fmt: skip
    """Return the case of one place: so many bytes behind the head of the nth message of a kind."""
    return Case((Place(name, way, kind, nth, behind, urgent),), channel, passes)


FIRST_BREAK = Place(POST, FORWARD, PageData, 2, 1000, urgent=True)
CHUNK_BYTES = 64 * KIB

CASES = {
    "hello": at(PRE, FORWARD, Hello),
    "hello on the postcopy channel": at(POST, FORWARD, Hello),
    "welcome": at(PRE, BACKWARD, Welcome),
    "welcome on the postcopy channel": at(POST, BACKWARD, Welcome),
    "setup": at(PRE, FORWARD, Setup, behind=10),
    "page in precopy": at(PRE, FORWARD, PageData, 5, 1000, passes=1),
    "first byte of a head": at(PRE, FORWARD, PageData, 2, CHUNK_BYTES + 1, urgent=False),
    "last byte of a head": at(PRE, FORWARD, PageData, 2, urgent=False),
    "middle of a page": at(PRE, FORWARD, PageData, 3, 1000, urgent=False),
    "preempted page": at(POST, FORWARD, PageData, urgent=True, channel=PRE),
    "urgent page": at(POST, FORWARD, PageData, 2, 1000, urgent=True),
    "page request": at(PRE, BACKWARD, Running, behind=6),
    "last byte of the last page": at(PRE, FORWARD, End),
    "the other channel's last byte": at(POST, FORWARD, End),
    "finished": at(PRE, BACKWARD, Finished),
    "account": at(PRE, BACKWARD, Account, behind=20),
    "verdict": at(PRE, FORWARD, Verdict, behind=20),
    "bye": at(PRE, BACKWARD, Bye),
    "resume": Case((FIRST_BREAK, Place(PRE, FORWARD, Resume))),
    "received map": Case((FIRST_BREAK, Place(PRE, BACKWARD, MissingMap, behind=5))),
    "held part": Case((FIRST_BREAK, Place(PRE, BACKWARD, HeldPart))),
    "rest of a target page": Case((FIRST_BREAK, Place(PRE, FORWARD, PageRest, behind=500))),
    "standing": Case((FIRST_BREAK, Place(PRE, BACKWARD, Standing))),
    "after a recovery": Case(
        (FIRST_BREAK, Place(PRE, BACKWARD, Standing), Place(PRE, FORWARD, PageData, 50, 1000))
    ),
    "three times in the received map": Case(
        (FIRST_BREAK, *(Place(PRE, BACKWARD, MissingMap, nth, 5) for nth in (1, 2, 3))), again=True
    ),
}
CUT = NetworkAction("cut", ())
ACTIONS = {
    "cut": CUT,
    "half-close forward": NetworkAction("half-close", (), (FORWARD,)),
    "half-close backward": NetworkAction("half-close", (), (BACKWARD,)),
    "corrupt a page": NetworkAction("corrupt", (), (FORWARD,), bits=1, part=Part.PAGE),
    "corrupt a head": NetworkAction("corrupt", (), (FORWARD,), bits=1, part=Part.HEADER),
    "corrupt a head backward": NetworkAction("corrupt", (), (BACKWARD,), bits=1, part=Part.HEADER),
    # Each takes as long as a peer may be silent, and is for a patient person:
    # MIDSTREAM_ALL_BREAKS=1 pytest tests/test_break_places.py
    "stall forward": NetworkAction("stall", (), (FORWARD,), for_ms=2500),
    "stall backward": NetworkAction("stall", (), (BACKWARD,), for_ms=2500),
}
QUICK = [name for name in ACTIONS if not name.startswith("stall")]

ALL = [(case, action) for case in CASES for action in ACTIONS]
# Every place is cut; of the others every third has one, each kind in its turn.
SOME = [(case, "cut") for case in CASES] + [
    (case, QUICK[1 + number % (len(QUICK) - 1)]) for number, case in enumerate([*CASES][::3])
]


@pytest.mark.parametrize(
    ("case", "action"), ALL if os.environ.get("MIDSTREAM_ALL_BREAKS") else SOME
)
async def test_a_break_at_a_place(breaking: Breaking, case: str, action: str) -> None:
    """Whatever breaks where: completed and right, or failed with the reason and the status."""
    where, what = CASES[case], ACTIONS[action]
    breaks: Breaks = {
        place: replace(
            what if number == len(where.places) - 1 or (number and where.again) else CUT,
            channels=(where.channel or place.channel,),
        )
        for number, place in enumerate(where.places)
    }
    rule = SwitchRule(postcopy_after=where.passes, downtime_ms_max=0)
    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded(60):
        run = await breaking.run(
            GEOMETRY, breaks, touch=TOUCH, policy=preset("ordered"), rule=rule, spec=SPEC,
            postcopy_bandwidth=48 << 20, reconnect_seconds=4.0, silence_seconds_max=2.0,
            dest={"wait_seconds": 4.0, "silence_seconds_max": 2.0},
        )  # fmt: skip
    # What is not broken has no recovery that could be broken once more.
    assert not run.unreached or run.unreached[0].nth > 1, "the break never came"
    fault = judge(run)
    if what.do != "corrupt":
        assert fault == ""
    elif fault:
        # What cannot be read costs no memory; bytes of pages that changed are found in the end.
        assert what.part is not Part.HEADER or "postcopy-active" not in run.states("dest")
        assert {error.exit_status for error in run.errors.values()} <= {1, 3, 4}
        assert len(run.errors) == 2
    _tell(case, action, run)


def _tell(case: str, action: str, run: Run) -> None:
    """Print how it ended, for who wants to see it (pytest -s)."""
    ends = {side: f"failed ({error.exit_status}: {error})" for side, error in run.errors.items()}
    words = "; ".join(f"{side} {end}" for side, end in ends.items()) or "completed"
    paused = run.states("source").count("postcopy-paused")
    print(f"{case} | {action} | {words} | {paused} pauses")  # noqa: T201
