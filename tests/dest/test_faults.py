"""Who waits for which page, what is asked for, and who is woken in which order."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dest.faults import FaultTable, Outcome
from dest.trips import Round, Said, Trip, Urgent, Wait
from protocol.geometry import PageId

REQUEST, WAIT, PLACED = Outcome.REQUEST, Outcome.WAIT, Outcome.PLACED


def page(index: int, block: int = 0) -> PageId:
    """Return a page, of the first block unless told otherwise."""
    return PageId(block, index)


def fault(table: FaultTable, vcpu: int, wanted: PageId, now_ns: int = 100) -> Outcome:
    """Have a vCPU touch a missing page, ten nanoseconds before the engine knows."""
    return table.fault(vcpu, wanted, fault_ns=now_ns - 10, now_ns=now_ns, placed=False)


def place(table: FaultTable, pages: range, *, block: int = 0, now_ns: int = 200) -> list[int]:
    """Have pages placed, five nanoseconds after their last byte came."""
    return table.placed(block, pages, last_byte_ns=now_ns - 5, now_ns=now_ns)


# What is asked for.


def test_the_first_fault_asks_for_the_page_and_others_wait() -> None:
    """However many vCPUs touch a page, it is requested once."""
    table = FaultTable()
    assert [fault(table, vcpu, page(7)) for vcpu in range(4)] == [REQUEST, WAIT, WAIT, WAIT]
    assert table.requested_pages == (page(7),)


def test_a_page_is_its_block_and_its_index() -> None:
    """The same index in another block is requested, placed and waited for on its own."""
    table = FaultTable()
    assert fault(table, 0, page(7)) is REQUEST
    assert fault(table, 1, page(7, block=1)) is REQUEST
    assert place(table, range(8), block=1) == [1]
    assert table.requested_pages == (page(7),)


def test_requested_pages_stand_in_the_order_of_their_first_faults() -> None:
    """A page keeps its place however often it is touched again."""
    table = FaultTable()
    for vcpu, index in enumerate((5, 2, 9, 2, 5)):
        fault(table, vcpu, page(index))
    assert list(table.requested_pages) == [page(5), page(2), page(9)]
    place(table, range(2, 3))
    assert list(table.requested_pages) == [page(5), page(9)]


def test_a_page_that_comes_unasked_changes_nothing() -> None:
    """Placing what nobody waits for wakes nobody."""
    table = FaultTable()
    fault(table, 0, page(7))
    assert place(table, range(7)) == []
    assert place(table, range(8, 500)) == []
    assert list(table.waiting_vcpus) == [0]


def test_a_page_that_came_is_asked_for_anew_when_it_is_missing_again() -> None:
    """What is placed is forgotten: a later fault for a missing page is a first one."""
    table = FaultTable()
    fault(table, 0, page(7))
    place(table, range(7, 8))
    assert fault(table, 1, page(7)) is REQUEST


# Who is woken.


def test_the_vcpus_of_a_page_wake_in_the_order_in_which_they_came() -> None:
    """All who wait for a placed page are woken, first come, first woken, and no others."""
    table = FaultTable()
    for vcpu, index in ((3, 7), (0, 4), (2, 7), (1, 7)):
        fault(table, vcpu, page(index))
    assert place(table, range(7, 8)) == [3, 2, 1]
    assert list(table.waiting_vcpus) == [0]
    assert place(table, range(7, 8)) == []


def test_a_run_of_base_pages_wakes_all_who_wait_for_any_of_it() -> None:
    """A run wakes those who wait for its pages in the order in which they came, page aside."""
    table = FaultTable()
    for vcpu, index in enumerate((12, 10, 99, 12, 19, 20, 9)):
        assert fault(table, vcpu, page(index)) is (WAIT if vcpu == 3 else REQUEST)
    assert place(table, range(10, 20)) == [0, 1, 3, 4]
    assert table.requested_pages == (page(99), page(20), page(9))
    assert list(table.waiting_vcpus) == [2, 5, 6]


@pytest.mark.parametrize("asked_for", [range(40), range(10, 12), range(3)])
@pytest.mark.parametrize("placed", [range(11, 12), range(9, 14), range(100)])
def test_who_is_woken_does_not_depend_on_how_many_wait(asked_for: range, placed: range) -> None:
    """Whether more pages are placed than are asked for, or fewer: those that are both are done."""
    table = FaultTable()
    for vcpu, index in enumerate(reversed(asked_for)):
        fault(table, vcpu, page(index))
        fault(table, 100 + vcpu, page(index, block=1))
    here = [index for index in reversed(asked_for) if index in placed]
    assert place(table, placed) == [asked_for.stop - 1 - index for index in here]
    assert [each.index for each in table.requested_pages if not each.block] == [
        index for index in reversed(asked_for) if index not in placed
    ]
    assert sum(each.block for each in table.requested_pages) == len(asked_for)


def test_a_vcpu_whose_page_is_here_already_is_woken_at_once() -> None:
    """A fault that arrives after its page asks for nothing, and its wait is complete."""
    table = FaultTable()
    outcome = table.fault(1, page(7), fault_ns=90, now_ns=100, placed=True)
    assert outcome is PLACED
    assert table.requested_pages == ()
    assert table.waiting_vcpus == {}
    wait = table.woke(1, 120)
    assert wait == Wait(1, page(7), 90, 100, last_byte_ns=100, placed_ns=100, wake_ns=120)


def test_a_vcpu_that_wakes_without_a_fault_had_no_wait() -> None:
    """A wake-up is a wait's end only once, after a fault and after the page was placed."""
    table = FaultTable()
    assert table.woke(0, 50) is None
    fault(table, 0, page(7))
    assert table.woke(0, 150) is None
    assert list(table.waiting_vcpus) == [0]
    place(table, range(7, 8))
    assert table.woke(1, 210) is None
    assert table.woke(0, 220) is not None
    assert table.woke(0, 230) is None


def test_a_vcpu_waits_for_one_page_at_a_time() -> None:
    """A vCPU that faults again, as after a pause, waits anew; what it asked for stays asked for."""
    table = FaultTable()
    fault(table, 0, page(7), now_ns=100)
    fault(table, 1, page(7), now_ns=110)
    assert fault(table, 0, page(7), now_ns=120) is WAIT
    assert {vcpu: wait.detect_ns for vcpu, wait in table.waiting_vcpus.items()} == {0: 120, 1: 110}
    assert fault(table, 0, page(8), now_ns=130) is REQUEST
    assert table.requested_pages == (page(7), page(8))
    assert place(table, range(7, 8)) == [1]
    assert place(table, range(8, 9)) == [0]


def test_a_wake_up_belongs_to_the_last_fault() -> None:
    """When a vCPU faults before it woke from the fault before, only the last wait ends."""
    table = FaultTable()
    fault(table, 0, page(7), now_ns=100)
    place(table, range(7, 8), now_ns=200)
    fault(table, 0, page(8), now_ns=300)
    assert table.woke(0, 310) is None
    place(table, range(8, 9), now_ns=400)
    wait = table.woke(0, 410)
    assert wait is not None
    assert (wait.page, wait.latency_ns) == (page(8), 410 - 290)


def test_a_fault_may_be_heard_of_before_the_wake_up_before_it() -> None:
    """Where the kernel tells of faults, each word of a vCPU ends the wait that fits its time."""
    table = FaultTable(overtaking=True)
    for number in (7, 8):
        now_ns = number * 100
        table.fault(0, page(number), fault_ns=now_ns, now_ns=now_ns, placed=False)
        place(table, range(number, number + 1), now_ns=now_ns + 50)
    first = table.woke(0, 755, 699)
    second = table.woke(0, 855, 799)
    assert first is not None
    assert second is not None
    assert (first.page, first.latency_ns) == (page(7), 755 - 699)
    assert (second.page, second.latency_ns) == (page(8), 855 - 799)


def test_a_wait_that_was_over_before_it_was_told_of_is_none() -> None:
    """A vCPU that says it touched a page after its fault was known speaks of another one."""
    table = FaultTable(overtaking=True)
    for now_ns in (100, 300):
        table.fault(0, page(7), fault_ns=now_ns, now_ns=now_ns, placed=True)
    assert table.woke(0, 400, 350) is None
    for now_ns in (500, 700):
        table.fault(0, page(7), fault_ns=now_ns, now_ns=now_ns, placed=True)
    wait = table.woke(0, 800, 650)
    assert wait is not None
    assert (wait.detect_ns, wait.fault_ns) == (700, 650)
    assert table.woke(0, 900, 450) is None


@pytest.mark.parametrize("overtaking", [False, True])
def test_who_should_run_since_long_is_overdue(overtaking: bool) -> None:
    """A vCPU that has not said that it runs, long after its page was placed, is found."""
    table = FaultTable(overtaking=overtaking)
    for vcpu in (0, 1, 2):
        table.fault(vcpu, page(vcpu), fault_ns=90, now_ns=100, placed=False)
    place(table, range(2), now_ns=200)
    assert table.overdue(200) == []
    assert [wait.vcpu for wait in table.overdue(201)] == [0, 1]
    table.woke(0, 210, 90)
    # It faults again, so it did run.
    table.fault(1, page(3), fault_ns=220, now_ns=230, placed=False)
    assert table.overdue(10**6) == []


# How long it took.


def test_a_wait_has_the_times_of_its_page() -> None:
    """A complete wait knows each moment, and its latency is from the touch to the wake-up."""
    table = FaultTable()
    fault(table, 2, page(7), now_ns=1000)
    assert table.waiting_vcpus[2].latency_ns == 0
    place(table, range(7, 8), now_ns=2000)
    assert table.woke(2, 2100) == Wait(
        2, page(7), 990, 1000, last_byte_ns=1995, placed_ns=2000, wake_ns=2100
    )


def test_each_vcpu_has_a_latency_of_its_own() -> None:
    """Who came later to the same page waited for less."""
    table = FaultTable()
    fault(table, 0, page(7), now_ns=1000)
    fault(table, 1, page(7), now_ns=1600)
    place(table, range(7, 8), now_ns=2000)
    waits = [table.woke(vcpu, 2000 + vcpu) for vcpu in (0, 1)]
    assert [wait.latency_ns for wait in waits if wait] == [1010, 411]


@pytest.mark.parametrize("first_ns", [0, 1500])
def test_the_first_urgent_frame_has_the_moment_and_the_last_one_the_word(first_ns: int) -> None:
    """The urgent moment is the first frame's, the source's own times are the last frame's."""
    table = FaultTable()
    fault(table, 0, page(7), now_ns=0)
    table.told(page(7), Urgent(queue_us=3, send_us=0), now_ns=first_ns)
    table.told(page(7), Urgent(queue_us=4, send_us=9), now_ns=1800)
    place(table, range(7, 8), now_ns=2000)
    wait = table.woke(0, 2100)
    assert wait is not None
    assert wait.trip == Trip(urgent_ns=first_ns, queue_us=4, send_us=9)


def test_word_of_a_page_that_nobody_waits_for_is_dropped() -> None:
    """An urgent frame for a page without a request leaves no trace, now or later."""
    table = FaultTable()
    table.told(page(7), Urgent(queue_us=3, send_us=9), now_ns=50)
    fault(table, 0, page(7))
    place(table, range(7, 8))
    wait = table.woke(0, 300)
    assert wait is not None
    assert wait.trip == Trip()


def test_pages_of_one_run_have_their_own_words() -> None:
    """What the source says of one page is not said of its neighbours."""
    table = FaultTable()
    fault(table, 0, page(7))
    fault(table, 1, page(8))
    table.told(page(8), Urgent(queue_us=6, send_us=2), now_ns=150)
    place(table, range(7, 9))
    waits = [table.woke(vcpu, 300) for vcpu in (0, 1)]
    trips = [wait.trip for wait in waits if wait]
    assert trips == [Trip(), Trip(urgent_ns=150, queue_us=6, send_us=2)]


# What the source says of a request.


def told_table() -> FaultTable:
    """Return a table whose source says how it answers."""
    table = FaultTable()
    table.is_told = True
    return table


def say(
    table: FaultTable, wanted: PageId, came_ns: int, *, interrupted: bool = False
) -> list[Wait]:
    """Have the source say when a request came."""
    return table.said(wanted, Said("queued", came_ns), interrupted=interrupted)


def trip_of(wait: Wait | None) -> Trip:
    """Return what is known of a wait's request."""
    assert wait is not None
    assert wait.trip is not None
    return wait.trip


def test_a_wait_is_known_when_the_source_has_told_of_its_request() -> None:
    """It is given out with its wake-up, or with the source's word if that is later."""
    table = told_table()
    for vcpu, index in enumerate((7, 8)):
        fault(table, vcpu, page(index))
        table.asked(page(index), 120)
    assert say(table, page(7), 130) == []
    place(table, range(7, 9))
    assert trip_of(table.woke(0, 300)).said == Said("queued", 130)
    assert table.woke(1, 310) is None
    (late,) = say(table, page(8), 140)
    assert (late.vcpu, late.wake_ns) == (1, 310)
    assert trip_of(late).said == Said("queued", 140)
    assert table.take_untold() == []


def test_who_joins_a_wait_is_told_of_with_it() -> None:
    """One word is for all vCPUs that wait for the page."""
    table = told_table()
    for vcpu in range(3):
        fault(table, vcpu, page(7))
    table.asked(page(7), 120)
    place(table, range(7, 8))
    assert [table.woke(vcpu, 300) for vcpu in (2, 0)] == [None, None]
    assert [wait.vcpu for wait in say(table, page(7), 130)] == [2, 0]
    assert trip_of(table.woke(1, 310)).said == Said("queued", 130)


def test_a_page_that_was_not_asked_for_yet_is_told_of_by_nobody() -> None:
    """Where it came before its request went, or the source tells nothing, nothing is waited for."""
    table = told_table()
    fault(table, 0, page(7))
    place(table, range(7, 8))
    assert table.woke(0, 300) is not None
    untold = FaultTable()
    fault(untold, 0, page(7))
    untold.asked(page(7), 120)
    place(untold, range(7, 8))
    assert untold.woke(0, 300) is not None


def test_what_the_source_does_not_tell_is_not_waited_for_for_ever() -> None:
    """In the end the waits are given out as they are."""
    table = told_table()
    fault(table, 0, page(7))
    table.asked(page(7), 120)
    place(table, range(7, 8))
    assert table.woke(0, 300) is None
    (wait,) = table.take_untold()
    assert trip_of(wait).said is None
    assert say(table, page(7), 130) == []


def test_no_more_is_waited_for_than_the_table_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that agreed to tell and does not costs no more memory than that."""
    monkeypatch.setattr("dest.faults.UNTOLD_COUNT_MAX", 2)
    table = told_table()
    for index in range(3):
        fault(table, 0, page(index))
        table.asked(page(index), 120)
        place(table, range(index, index + 1))
        assert (table.woke(0, 300) is None) is (index < 2)


def test_a_break_ends_a_round_of_every_request() -> None:
    """What was said before it, and what is said of it later, is kept with the round."""
    table = told_table()
    for vcpu, index in enumerate((7, 8, 9)):
        fault(table, vcpu, page(index))
        table.asked(page(index), 120)
    say(table, page(7), 130)
    table.broke(200)
    fault(table, 3, page(10), now_ns=250)
    # Nobody can be asked.
    table.asked(page(10), 260)
    table.resumed()
    say(table, page(8), 135, interrupted=True)
    say(table, page(7), 999, interrupted=True)
    for index in range(7, 11):
        table.asked(page(index), 300 + index)
    place(table, range(7, 11), now_ns=400)
    for index in range(7, 11):
        say(table, page(index), 350)
    assert [trip_of(table.woke(vcpu, 500)).rounds for vcpu in range(4)] == [
        [Round(200, 307, Said("queued", 130))],
        [Round(200, 308, Said("queued", 135))],
        [Round(200, 309)],
        [Round(250, 310)],
    ]


def test_what_came_changed_is_another_round() -> None:
    """It is asked for again at once, and the source tells of both requests."""
    table = told_table()
    fault(table, 0, page(7))
    table.asked(page(7), 120)
    say(table, page(7), 130)
    table.changed([page(7)], 200)
    assert table.asked_ns(page(7)) is None
    table.asked(page(7), 201)
    assert table.asked_ns(page(7)) == 201
    place(table, range(7, 8), now_ns=300)
    assert table.woke(0, 310) is None
    (wait,) = say(table, page(7), 220)
    assert trip_of(wait).rounds == [Round(200, 201, Said("queued", 130))]


def test_a_second_break_before_a_page_is_asked_for_is_the_same_break() -> None:
    """Until the page is asked for again, it is one stretch of time without a connection."""
    table = told_table()
    fault(table, 0, page(7))
    table.asked(page(7), 120)
    for begin_ns in (200, 220):
        table.broke(begin_ns)
        table.resumed()
    table.asked(page(7), 300)
    place(table, range(7, 8), now_ns=400)
    assert table.woke(0, 410) is None
    (wait,) = table.take_untold()
    assert trip_of(wait).rounds == [Round(200, 300)]


# All of it together.


@dataclass
class Model:
    """One list of who waits, one of what is asked for, searched from the front."""

    waits: list[tuple[int, PageId, int]] = field(default_factory=list)
    asked: list[PageId] = field(default_factory=list)
    waking: dict[int, tuple[PageId, int]] = field(default_factory=dict)

    def forget(self, vcpu: int) -> None:
        """Drop the wait that a vCPU had."""
        self.waits = [wait for wait in self.waits if wait[0] != vcpu]
        self.waking.pop(vcpu, None)


VCPUS = st.integers(0, 5)
PAGES = st.builds(PageId, st.integers(0, 1), st.integers(0, 7))


class FaultMachine(RuleBasedStateMachine):
    """Does to the table and to the model what vCPUs and a source can do."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        super().__init__()
        self.table = FaultTable()
        self.model = Model()
        self.now_ns = 0

    @rule(vcpu=VCPUS, wanted=PAGES)
    def fault(self, vcpu: int, wanted: PageId) -> None:
        """Have a vCPU touch a missing page, whether it waits already or not."""
        self.now_ns += 10
        known = wanted in self.model.asked
        self.model.forget(vcpu)
        self.model.waits.append((vcpu, wanted, self.now_ns))
        if not known:
            self.model.asked.append(wanted)
        outcome = self.table.fault(
            vcpu, wanted, fault_ns=self.now_ns, now_ns=self.now_ns + 1, placed=False
        )
        assert outcome is (WAIT if known else REQUEST)

    @rule(vcpu=VCPUS, wanted=PAGES)
    def fault_late(self, vcpu: int, wanted: PageId) -> None:
        """Have a vCPU touch a page that is there when the engine hears of it."""
        if wanted in self.model.asked:
            return
        self.now_ns += 10
        self.model.forget(vcpu)
        self.model.waking[vcpu] = (wanted, self.now_ns)
        outcome = self.table.fault(
            vcpu, wanted, fault_ns=self.now_ns, now_ns=self.now_ns + 1, placed=True
        )
        assert outcome is PLACED

    @rule(block=st.integers(0, 1), first=st.integers(0, 7), count=st.integers(1, 8))
    def placed(self, block: int, first: int, count: int) -> None:
        """Have a run of pages placed."""
        self.now_ns += 10
        run = [PageId(block, first + offset) for offset in range(count)]
        woken = [wait for wait in self.model.waits if wait[1] in run]
        self.model.waits = [wait for wait in self.model.waits if wait[1] not in run]
        self.model.asked = [asked for asked in self.model.asked if asked not in run]
        self.model.waking |= {vcpu: (wanted, fault_ns) for vcpu, wanted, fault_ns in woken}
        order = place(self.table, range(first, first + count), block=block, now_ns=self.now_ns)
        assert order == [vcpu for vcpu, _, _ in woken]

    @rule(vcpu=VCPUS)
    def woke(self, vcpu: int) -> None:
        """Have a vCPU run again, with or without reason."""
        self.now_ns += 10
        expected = self.model.waking.pop(vcpu, None)
        wait = self.table.woke(vcpu, self.now_ns)
        assert (wait and (wait.page, wait.fault_ns)) == expected
        if wait is not None:
            assert wait.vcpu == vcpu
            assert wait.latency_ns == self.now_ns - wait.fault_ns

    @invariant()
    def agrees_with_the_model(self) -> None:
        """Who waits for what, and what is asked for, is the same in both, in the same order."""
        waits = [(w.vcpu, w.page, w.fault_ns) for w in self.table.waiting_vcpus.values()]
        assert waits == self.model.waits
        assert list(self.table.requested_pages) == self.model.asked


def test_the_table_keeps_who_waits_for_what() -> None:
    """Whatever vCPUs touch and the source sends, nobody is forgotten, nothing asked for twice."""
    run_state_machine_as_test(
        FaultMachine, settings=settings(max_examples=60, stateful_step_count=40)
    )


def test_the_waits_of_a_vcpu_are_given_out_in_their_order() -> None:
    """Where the source tells of a later one first, that waits for the one before."""
    table = told_table()
    for index in (7, 8):
        fault(table, 0, page(index))
        table.asked(page(index), 120)
        place(table, range(index, index + 1))
        assert table.woke(0, 300 + index) is None
    assert say(table, page(8), 140) == []
    assert [wait.page for wait in say(table, page(7), 130)] == [page(7), page(8)]
    fault(table, 0, page(9))
    place(table, range(9, 10))
    assert table.woke(0, 400) is not None


def test_a_new_round_has_its_own_urgent_frames() -> None:
    """What the heads of frames said before a break is not said of what comes behind it."""
    table = FaultTable()
    fault(table, 0, page(7))
    table.asked(page(7), 120)
    table.told(page(7), Urgent(queue_us=1, send_us=2), now_ns=150)
    table.broke(200)
    table.resumed()
    table.asked(page(7), 300)
    place(table, range(7, 8), now_ns=400)
    assert trip_of(table.woke(0, 410)) == Trip(asked_ns=300, rounds=[Round(200, 300)])
