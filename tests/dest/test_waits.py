"""What the source says of requests, and what is told of the waits for their pages."""

from typing import Any

import pytest

from dest.faults import FaultTable
from dest.waits import Waits
from protocol import events
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId
from protocol.messages import RequestAnswer, SourceTime
from protocol.page_messages import ANSWERS
from protocol.report import STAGES
from source.jobs import Answer
from tests.guests import HUGE, small_geometry
from tests.stories import Recorder

# How far the source's clock is ahead.
AHEAD_NS = 10**15


class Rig:
    """A fault table, and who is told by the source; times are nanoseconds of this side's clock."""

    def __init__(
        self, *, critical: bool = False, is_told: bool = True, ahead_ns: int = AHEAD_NS
    ) -> None:
        """Start with nobody waiting."""
        self.geometry = small_geometry()
        self.units: Geometry = self.geometry.in_target_pages() if critical else self.geometry
        self.events = Recorder()
        self.faults = FaultTable()
        self.faults.is_told = is_told
        self.ahead_ns = ahead_ns
        self.waits = Waits(self.geometry, self.units, self.faults, self.events, 2)
        # As it is before any request: both ways take 100 us.
        if is_told:
            self.waits.take_word(SourceTime(now_ns=ahead_ns + 900_000), 1_000_000)

    def fault(self, unit: PageId, vcpu: int = 0, now_ns: int = 2_000_000) -> None:
        """Have a vCPU touch a unit 10 us before the engine knows, and ask for it 5 us later."""
        self.faults.fault(vcpu, unit, fault_ns=now_ns - 10_000, now_ns=now_ns, placed=False)
        self.faults.asked(unit, now_ns + 5_000)

    def answer(self, now_ns: int = 3_000_000, **fields: Any) -> None:  # noqa: ANN401 - as it has
        """Have the source tell of a request that it read 100 us after it was sent."""
        said: dict[str, Any] = {
            "block": 0, "page": 1, "target_page": 0, "answer": "queued",
            "came_ns": self.ahead_ns + 2_105_000, "queued_ns": 200_000, "postponed_ns": 0,
            "sending_ns": 300_000, "told_ns": self.ahead_ns + now_ns - 100_000,
        }  # fmt: skip
        self.waits.take_word(RequestAnswer(**(said | fields)), now_ns)

    def end(
        self,
        unit: PageId,
        vcpu: int = 0,
        now_ns: int = 2_900_000,
        channel: Channel = Channel.POSTCOPY,
    ) -> None:
        """Have a unit here, placed 20 us and its vCPU running 50 us later."""
        index = range(unit.index, unit.index + 1)
        self.faults.placed(
            unit.block, index, last_byte_ns=now_ns, now_ns=now_ns + 20_000, channel=channel
        )
        wait = self.faults.woke(vcpu, now_ns + 50_000)
        if wait is not None:
            self.waits.tell(wait)

    def told(self) -> list[dict[str, Any]]:
        """Return the waits that were told of."""
        return self.events.of(events.VcpuWake)


PAGE = PageId(0, 1)


def stages(event: dict[str, Any]) -> dict[str, float]:
    """Return the stages of a wait's event, which add up to it."""
    lengths = {stage: event[f"{stage}_us"] for stage in STAGES}
    assert sum(lengths.values()) == pytest.approx(event["latency_us"])
    return {stage: round(length, 3) for stage, length in lengths.items() if length}


@pytest.mark.parametrize("ahead_ns", [0, AHEAD_NS])
def test_a_wait_has_the_stages_that_the_source_says(ahead_ns: int) -> None:
    """Whether both have one clock or not, where both ways take the same time."""
    rig = Rig(ahead_ns=ahead_ns)
    rig.fault(PAGE)
    rig.end(PAGE)
    assert rig.told() == []
    rig.answer(answer="boosted", behind=((1, 7), (0, 3)), behind_count=11)
    (event,) = rig.told()
    expected = {
        "detect": 10, "request": 105, "queue": 200, "send": 300, "receive": 295, "place": 20,
        "wake": 30,
    }  # fmt: skip
    # The bounds are a drift apart that they may have had meanwhile.
    assert stages(event) == pytest.approx(expected, abs=2)
    assert (event["answer"], event["behind"], event["behind_count"]) == ("boosted", "1:7 0:3", 11)
    assert (event["block"], event["page"], event["vcpu"]) == (0, 1, 0)
    assert "parts_us" not in event
    assert rig.waits.latencies.faults.count == 1


def test_a_wait_is_told_as_of_the_copy_that_ended_it() -> None:
    """Where the first copy is sooner here, nothing went before it, and it waited for nothing."""
    rig = Rig()
    word: dict[str, Any] = {"answer": "sent-again", "behind": ((1, 7),), "behind_count": 1}
    rig.fault(PAGE)
    rig.end(PAGE, channel=Channel.PRECOPY)
    rig.answer(**word)
    rig.fault(PAGE, now_ns=4_000_000)
    rig.end(PAGE, now_ns=4_900_000)
    rig.answer(now_ns=5_000_000, came_ns=AHEAD_NS + 4_105_000, **word)
    first, second = rig.told()
    plain = {"detect": 10, "request": 105, "place": 20, "wake": 30}
    assert stages(first) == pytest.approx(plain | {"receive": 795}, abs=2)
    assert (first["answer"], "behind" in first) == ("sent-again", False)
    sent = {"queue": 200, "send": 300, "receive": 295}
    assert stages(second) == pytest.approx(plain | sent, abs=2)
    assert (second["answer"], second["behind"]) == ("sent-again", "1:7")


def test_how_many_went_before_is_told_where_nobody_knows_which() -> None:
    """A source that has forgotten them all names none, and none is told of by an empty name."""
    rig = Rig()
    rig.fault(PAGE)
    rig.end(PAGE)
    rig.answer(answer="postponed", behind=(), behind_count=11)
    (event,) = rig.told()
    assert event["behind_count"] == 11
    assert "behind" not in event


def test_the_word_may_come_first() -> None:
    """Then the wait is told of when it ends."""
    rig = Rig()
    rig.fault(PAGE)
    rig.answer(now_ns=2_800_000)
    assert rig.told() == []
    rig.end(PAGE)
    assert [event["answer"] for event in rig.told()] == ["queued"]


def test_a_word_is_for_the_target_page_that_was_touched() -> None:
    """Where target pages are asked for one by one, each has an answer of its own."""
    rig = Rig(critical=True)
    per_page = HUGE // TARGET_PAGE_BYTES
    units = [PageId(0, per_page + 3), PageId(0, per_page + 4)]
    for vcpu, unit in enumerate(units):
        rig.fault(unit, vcpu)
        rig.end(unit, vcpu)
    rig.answer(target_page=4, answer="already-sent")
    assert [(event["vcpu"], event["page"]) for event in rig.told()] == [(1, 1)]


def test_what_the_source_leaves_untold_is_told_in_the_end() -> None:
    """Such a wait has no answer."""
    rig = Rig()
    rig.fault(PAGE)
    rig.end(PAGE)
    rig.waits.tell_rest()
    (event,) = rig.told()
    assert "answer" not in event
    assert stages(event) == {"detect": 10, "receive": 900, "place": 20, "wake": 30}
    rig.waits.tell_rest()
    assert len(rig.told()) == 1


def test_a_wait_through_a_break_tells_its_stages_in_their_order() -> None:
    """What it went through twice is told twice, and added up."""
    rig = Rig()
    # By which the clocks are known.
    rig.fault(PageId(0, 2))
    rig.answer(page=2)
    rig.fault(PAGE)
    rig.faults.broke(2_400_000)
    rig.faults.resumed()
    rig.faults.asked(PAGE, 2_600_000)
    rig.answer(now_ns=2_700_000, interrupted=True, queued_ns=10**9, sending_ns=0)
    rig.answer(now_ns=2_800_000, came_ns=AHEAD_NS + 2_700_000, queued_ns=0, sending_ns=100_000)
    rig.end(PAGE)
    (event,) = rig.told()
    names = [part.split()[0] for part in event["parts_us"].split(", ")]
    assert names == [
        *("detect", "request", "queue", "broken"), "request", "send", "receive", "place", "wake",
    ]  # fmt: skip
    assert stages(event)["broken"] == 200
    assert stages(event)["queue"] == pytest.approx(295, abs=2)


def test_every_answer_of_the_source_is_known() -> None:
    """What the scheduler may answer is one of the words that are told."""
    assert {answer.value for answer in Answer} | {"boosted"} == set(ANSWERS)


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": "perhaps"},
        {"block": 2},
        {"page": 4},
        {"target_page": HUGE // TARGET_PAGE_BYTES},
        {"block": 1, "target_page": 1},
        {"behind": ((0, 1), (0, 4))},
        {"behind": ((2, 0),)},
    ],
)
def test_a_word_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    """An answer, a page or a target page that there is not ends the session."""
    rig = Rig()
    rig.fault(PAGE)
    with pytest.raises(RemoteProtocolError, match="RequestAnswer"):
        rig.answer(**fields)


def test_a_word_that_nobody_agreed_to_is_refused() -> None:
    """Without the capability there is none, of the time neither."""
    rig = Rig(is_told=False)
    with pytest.raises(RemoteProtocolError, match="RequestAnswer came though"):
        rig.answer()
    with pytest.raises(RemoteProtocolError, match="SourceTime came though"):
        rig.waits.take_word(SourceTime(now_ns=1), 1)


def test_a_word_of_what_nobody_waits_for_is_dropped() -> None:
    """After a break the source tells of more than is asked for."""
    rig = Rig()
    rig.answer()
    rig.answer(interrupted=True)
    rig.waits.tell_rest()
    assert rig.told() == []
