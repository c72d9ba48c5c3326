"""The destination's engine by playbooks: what happens, and what is to be done, in virtual time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from dest.engine import WAKE_NS_MAX, Engine
from dest.steps import Place, Release
from dest.trips import Urgent
from dest.words import Word
from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.messages import PageRequest, Resend
from protocol.policy import preset
from protocol.runs import Runs, unpack_runs
from tests.guests import HUGE, small_geometry
from tests.stories import Deaf, Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
GEOMETRY = small_geometry()
PER_PAGE = HUGE // TARGET_PAGE_BYTES
US = 1000


class Play:
    """One engine, and its clock; what it wants done stands in `done` once it is."""

    def __init__(
        self, policy: str = "ordered", *, checked: bool = False, emit: Emit | None = None
    ) -> None:
        """Switch over with nothing here."""
        self.now_ns = 0
        self.events = Recorder()
        self.done: list[str] = []
        self.engine = Engine(
            GEOMETRY, preset(policy), emit or self.events, vcpu_count=4, checked=checked
        )
        for block, shape in enumerate(GEOMETRY.blocks):
            bits = b"\xff" * (shape.target_page_count // 8)
            self.engine.assembly.discard(block, 0, shape.target_page_count, bits)
        assert sum(span.length for span in self.engine.start_postcopy()) == GEOMETRY.length_bytes

    def pass_us(self, count: int) -> None:
        """Let time go by."""
        self.now_ns += count * US

    def fault(self, vcpu: int, flat: int) -> Place | Release | None:
        """Have a vCPU fault now; return what is to be done for it."""
        return self.engine.fault(vcpu, flat, fault_ns=self.now_ns, now_ns=self.now_ns)

    def words(self) -> list[Word]:
        """Return all that is to be said now; it goes."""
        words = []
        while (word := self.engine.words.next(self.now_ns)) is not None:
            self.engine.said(word)
            words.append(word)
        return words

    def carry_out(self, places: Iterable[Place], last_byte_ns: int, place_us: int = 0) -> None:
        """Do what is to be placed."""
        for place in places:
            self.pass_us(place_us)
            self.done.append(f"place {place.span.block}:{place.span.offset // TARGET_PAGE_BYTES}")
            woken = self.engine.placed(place, last_byte_ns=last_byte_ns, now_ns=self.now_ns)
            self.done += [f"wake {vcpu}" for vcpu in woken]
            whole = self.engine.completed(place)
            if whole is not None:
                self.done.append(f"whole {whole.block}:{whole.offset // TARGET_PAGE_BYTES}")

    def bring(self, channel: Channel, span: Span, urgent: Urgent | None = None) -> None:
        """Have a frame come all at once."""
        self.engine.begin(channel, span, self.now_ns, urgent)
        self.engine.progress(channel, span.length)
        self.carry_out(self.engine.end(channel), self.now_ns)


def pages(first: int, count: int = 1, block: int = 0) -> Span:
    """Return target pages."""
    return Span(block, first * TARGET_PAGE_BYTES, count * TARGET_PAGE_BYTES)


def request(page: int, target_page: int = 0, block: int = 0) -> PageRequest:
    """Return a page request."""
    return PageRequest(block=block, page=page, target_page=target_page)


def test_a_wait_from_the_touch_to_the_wake() -> None:
    """Each stage of a wait is as long as the clock says, to the microsecond."""
    play = Play()
    play.engine.fault(2, PER_PAGE + 3, fault_ns=0, now_ns=7 * US)
    play.now_ns = 10 * US
    assert play.words() == [request(1, 3)]
    play.pass_us(90)
    play.engine.begin(POST, pages(PER_PAGE, PER_PAGE), play.now_ns, Urgent(30, 20))
    play.pass_us(40)
    assert not play.engine.progress(POST, HUGE)
    last_byte_ns = play.now_ns
    play.carry_out(play.engine.end(POST), last_byte_ns, place_us=5)
    assert play.done == [f"place 0:{PER_PAGE}", "wake 2", f"whole 0:{PER_PAGE}"]
    play.engine.woke(2, play.now_ns + 3 * US)
    (wake,) = play.events.of(events.VcpuWake)
    stages = {name.removesuffix("_us"): value for name, value in wake.items() if "_us" in name}
    assert stages == {
        "latency": 148, "detect": 7, "request": 63, "postponed": 0, "queue": 30, "send": 20,
        "receive": 20, "place": 5, "wake": 3, "broken": 0,
    }  # fmt: skip
    assert [type(event) for event in play.events.events] == [
        events.VcpuWait, events.PageRequest, events.PagePlaced, events.VcpuWake,
    ]  # fmt: skip


@pytest.mark.parametrize("policy", ["ordered", "critical-first"])
def test_without_a_listener_the_same_is_done_and_counted(policy: str) -> None:
    """On a fault's way no event is made that nobody hears; all else is as it would be."""
    heard, unheard = Play(policy), Play(policy, emit=Deaf())
    for play in (heard, unheard):
        play.fault(0, PER_PAGE)
        play.fault(1, PER_PAGE)
        assert len(play.words()) == 1
        play.pass_us(70)
        play.bring(POST, pages(PER_PAGE, PER_PAGE))
        play.engine.woke(0, play.now_ns + 3 * US)
        play.engine.woke(1, play.now_ns + 4 * US)
    assert heard.events.events
    assert heard.done == unheard.done
    latencies, others = heard.engine.waits.latencies, unheard.engine.waits.latencies
    assert latencies.faults.count == 2
    assert (latencies.faults, latencies.stages) == (others.faults, others.stages)


def test_what_came_since_is_not_asked_for() -> None:
    """A request that waited to go, and whose page came meanwhile, does not go."""
    play = Play()
    for vcpu in range(3):
        assert play.fault(vcpu, vcpu * PER_PAGE) is None
    play.bring(PRE, pages(PER_PAGE, PER_PAGE))
    assert play.words() == [request(0), request(2)]
    assert [each["page"] for each in play.events.of(events.PageRequest)] == [0, 2]


def test_what_could_not_go_is_next_again_and_told_once() -> None:
    """A connection without room changes neither the order nor the story."""
    play = Play()
    play.fault(0, 0)
    play.fault(1, PER_PAGE)
    play.fault(2, 2 * PER_PAGE)
    words = play.engine.words.take(2, play.now_ns)
    assert words == [request(0), request(1)]
    play.engine.words.put_back(words)
    assert play.engine.words
    assert play.words() == [request(0), request(1), request(2)]
    assert len(play.events.of(events.PageRequest)) == 3


def test_after_a_break_all_that_is_waited_for_is_asked_for() -> None:
    """Nothing is said while nobody hears; then all of it in the order of the faults."""
    play = Play()
    play.fault(0, 0)
    assert play.words() == [request(0)]
    play.fault(1, PER_PAGE)
    assert play.engine.interrupt() == []
    play.engine.broke(play.now_ns)
    play.pass_us(50)
    play.fault(2, 2 * PER_PAGE)
    assert play.words() == []
    play.pass_us(50)
    play.engine.resumed()
    assert play.words() == [request(0), request(1), request(2)]
    assert [each["page"] for each in play.events.of(events.PageRequest)] == [0, 1, 2]
    play.fault(3, 3 * PER_PAGE)
    assert play.words() == [request(3)]
    play.bring(POST, pages(0, PER_PAGE))
    play.engine.woke(0, play.now_ns)
    (wake,) = play.events.of(events.VcpuWake)
    assert wake["broken_us"] == 100


def test_a_break_leaves_what_it_brought_of_whole_units() -> None:
    """Target pages that are units of their own are placed, though their frame never ends."""
    play = Play("critical-first")
    play.fault(0, 4)
    play.engine.begin(PRE, pages(2, 8), play.now_ns)
    assert not play.engine.progress(PRE, 2 * TARGET_PAGE_BYTES)
    places = play.engine.interrupt()
    assert places == [Place(pages(2, 2), None)]
    play.carry_out(places, play.now_ns)
    play.engine.broke(play.now_ns)
    assert play.done == ["place 0:2"]
    play.engine.resumed()
    assert play.words() == [request(0, 4)]


def test_what_came_changed_is_asked_for_before_all_else() -> None:
    """The source hears what is to come again, then for whom; what waited to be said is behind."""
    play = Play("critical-first", checked=True)
    for vcpu, flat in enumerate((3, PER_PAGE, 5)):
        play.fault(vcpu, flat)
    play.engine.begin(PRE, pages(0, 4), play.now_ns)
    # It may yet turn out to have changed, so nobody may touch it.
    assert not play.engine.progress(PRE, 4 * TARGET_PAGE_BYTES)
    assert play.engine.refuse(PRE, play.now_ns) == []
    resend, *others = play.words()
    assert isinstance(resend, Resend)
    assert unpack_runs(resend.block, resend.offset, resend.runs)[0] == Runs.of_span(pages(0, 4))
    assert others == [request(0, 3), request(1, 0), request(0, 5)]
    assert play.events.of(events.FrameChanged) == [
        {"block": 0, "offset": 0, "bytes": 4 * TARGET_PAGE_BYTES, "channel": "precopy"}
    ]


def test_who_waits_is_placed_before_the_end_of_a_frame() -> None:
    """What a vCPU waits for is placed when it is here, the rest of its frame with the end."""
    play = Play("critical-first")
    play.fault(0, 3)
    play.engine.begin(PRE, pages(0, 8), play.now_ns)
    assert not play.engine.progress(PRE, 3 * TARGET_PAGE_BYTES)
    assert play.engine.progress(PRE, TARGET_PAGE_BYTES)
    play.carry_out(play.engine.take_early(PRE), play.now_ns)
    assert play.engine.take_early(PRE) == []
    # What is here already waits for nothing.
    place = play.fault(1, 1)
    assert place == Place(pages(1), PRE)
    play.carry_out([place], play.now_ns)
    assert play.fault(2, 3) == Release(2, pages(3))
    assert play.fault(3, 6) is None
    assert not play.engine.progress(PRE, 2 * TARGET_PAGE_BYTES)
    assert play.engine.progress(PRE, 2 * TARGET_PAGE_BYTES) is False
    play.carry_out(play.engine.end(PRE), play.now_ns)
    assert play.done == [
        "place 0:3", "wake 0", "place 0:1", "wake 1",
        "place 0:0", "place 0:2", "place 0:4", "wake 3",
    ]  # fmt: skip


def test_who_touches_what_is_here_is_released_from_there_on() -> None:
    """The kernel may have mapped a part of a page: what is behind the touch is looked at."""
    play = Play()
    play.bring(PRE, pages(0, PER_PAGE))
    assert play.fault(1, 30) == Release(1, pages(30, PER_PAGE - 30))
    assert play.words() == []


def test_who_should_run_since_long_is_woken_once_more() -> None:
    """A wake-up that was lost costs a moment and no more; who has said that he runs has none."""
    play = Play()
    for vcpu in range(2):
        play.fault(vcpu, 9)
    play.bring(PRE, pages(0, PER_PAGE))
    play.engine.woke(1, play.now_ns)
    play.now_ns += WAKE_NS_MAX
    assert play.engine.overdue(play.now_ns) == []
    play.now_ns += 1
    assert play.engine.overdue(play.now_ns) == [Release(0, pages(0, PER_PAGE))]


def test_a_page_that_one_frame_completes_in_pieces_is_told_once() -> None:
    """Of scattered target pages of one huge page, the last one placed makes the page whole."""
    play = Play("critical-first")
    even, odd = (Runs.of_target_pages(0, np.arange(first, PER_PAGE, 2)) for first in (0, 1))
    for runs in (even, odd):
        no_zeros = np.zeros(len(runs), dtype=np.bool_)
        assert not len(play.engine.begin(PRE, runs, play.now_ns, is_zero=no_zeros))
        play.engine.progress(PRE, runs.length)
        assert not [each for each in play.done if each.startswith("whole")]
        play.carry_out(play.engine.end(PRE), play.now_ns)
    assert play.done[-2:] == [f"place 0:{PER_PAGE - 1}", "whole 0:0"]
    assert play.events.of(events.PagePlaced) == [
        {"block": 0, "page": 0, "pages": 1, "channel": "precopy"}
    ]


def test_only_what_may_hold_something_is_zeroed() -> None:
    """Zeros are written over bytes that came, and nowhere else."""
    engine = Engine(GEOMETRY, preset("ordered"), Recorder(), vcpu_count=1)
    engine.begin(PRE, pages(4, 2), 0)
    engine.progress(PRE, 2 * TARGET_PAGE_BYTES)
    engine.end(PRE)
    assert engine.begin(PRE, pages(0, 8), 0, is_zero=True).tolist() == [4, 5]
    engine.end(PRE)
    assert engine.begin(PRE, pages(0, 8), 0, is_zero=True).tolist() == []
    engine.end(PRE)
    runs = Runs.of_parts(0, np.array([1, 5]), np.array([2, 1]))
    assert engine.begin(PRE, runs, 0, is_zero=np.array([False, True])).tolist() == []
    engine.progress(PRE, 2 * TARGET_PAGE_BYTES)
    engine.end(PRE)
    assert engine.begin(PRE, runs, 0, is_zero=np.array([True, True])).tolist() == [1, 2]


def test_zeros_that_come_too_late_are_not_written() -> None:
    """Of a page that came again, and that a vCPU may have written to, nothing is zeroed."""
    play = Play("resend")
    play.engine.begin(PRE, pages(0, 8), play.now_ns)
    play.engine.progress(PRE, 8 * TARGET_PAGE_BYTES)
    assert play.engine.end(PRE) == []
    play.bring(POST, pages(0, PER_PAGE))
    assert play.engine.begin(PRE, pages(8, 8), play.now_ns, is_zero=True).tolist() == []
    assert play.engine.end(PRE) == []


@pytest.mark.parametrize("policy", ["ordered", "critical-first"])
def test_a_step_is_told_page_by_page(policy: str) -> None:
    """Who watches hears of a page's bytes, then that it was asked for, then that it is placed."""
    play = Play(policy)
    heard: list[tuple[str, PageId]] = []
    play.engine.watch(lambda what, page: heard.append((what, page)))
    play.fault(0, PER_PAGE)
    play.words()
    play.bring(PRE, pages(PER_PAGE, PER_PAGE // 2))
    play.bring(PRE, pages(PER_PAGE + PER_PAGE // 2, PER_PAGE // 2))
    page = PageId(0, 1)
    assert heard == [
        ("requested", page), ("received", page), ("received", page), ("placed", page)
    ]  # fmt: skip
