"""The scheduler's invariants, whatever prefetchers and orders say that somebody wrote.

What is sent next is theirs to say, and no model foretells it.  A ledger of target pages holds what
none of them may break: nothing is lost, nothing goes twice, a frame that was begun ends on its
channel before anything else goes there, and a huge page stays on one channel where it must.
"""

from itertools import product
from random import Random
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from protocol.channels import Channel
from protocol.geometry import Geometry, PageId, Span
from protocol.pageset import PageSet
from protocol.policy import HalfSent, preset
from protocol.runs import Stretch
from source.jobs import Answer, Chunk, Lane, unit_of
from source.prefetched import CAUSE_COUNT_MAX
from source.scheduler import Scheduler
from source.scheme import Order, Prefetcher, Scheme
from tests.scheduled import BASE, HUGE, guest
from tests.schemes import (
    HERE,
    RAISING,
    WRONG,
    Backwards,
    HalfSentFirst,
    Jumper,
    NewestFirst,
    ReadAhead,
    answering,
    fickle,
    ordering,
)

GEOMETRIES = (
    guest((4, HUGE)),
    guest((150, BASE)),
    guest((40, BASE), (2, HUGE), (70, BASE)),
)
CHUNK = 64 * BASE

SANE: tuple[type[Prefetcher], ...] = (ReadAhead, Backwards, Jumper)
HOSTILE = (
    *(fickle(seed) for seed in range(4)),
    *(answering(answer) for answer, _ in WRONG[::5]),
    *(prefetcher for prefetcher, _ in RAISING),
)
ORDERS: tuple[type[Order] | None, ...] = (None, NewestFirst, HalfSentFirst, ordering(len))
BASES = ("ordered", "vanilla", "drop", "parallel", "resend", "split", "critical-first")


def scheme(base: str, prefetcher: type[Prefetcher] | None, order: type[Order] | None) -> Scheme:
    """Return the switches of a preset with what somebody wrote."""
    policy = preset(base)
    return Scheme(
        f"my-{base}", policy.own_channel, policy.preempts, policy.half_sent, False,
        policy.concurrent, policy.critical, priority=policy.priority,
        prefetcher=prefetcher, order=order,
    )  # fmt: skip


class SchemeMachine(RuleBasedStateMachine):
    """Does to a scheduler what a sender and a destination can do, and keeps the ledger."""

    base: ClassVar[str]
    schemes: ClassVar[tuple[tuple[type[Prefetcher] | None, type[Order] | None], ...]]

    def __init__(self) -> None:
        """Prepare; the first rule makes the guest."""
        super().__init__()
        self.now_ns = 0
        self.out: dict[Lane, Chunk] = {}

    @initialize(geometry=st.sampled_from(GEOMETRIES), data=st.data())
    def start(self, geometry: Geometry, data: st.DataObject) -> None:
        """Make a guest, all of it to be sent in postcopy, with one of the schemes."""
        prefetcher, order = data.draw(st.sampled_from(self.schemes))
        self.begin(geometry, scheme(self.base, prefetcher, order))

    def begin(self, geometry: Geometry, policy: Scheme) -> None:
        """Make a guest with a scheme."""
        self.geometry, self.policy = geometry, policy
        self.scheduler = Scheduler(geometry, policy, CHUNK)
        self.add_all()

    def add_all(self) -> None:
        """Have all of the guest to send."""
        pages = PageSet(self.geometry)
        pages.fill()
        self.scheduler.add(pages, postcopy=True)
        self.forget(pages)

    def forget(self, due: PageSet) -> None:
        """Begin the ledger: this is due, and nothing lies anywhere."""
        self.due, self.gone = due.copy(), PageSet(self.geometry)
        self.asked: set[Span] = set()
        self.open_frames: dict[Channel, Stretch] = {}
        self.channels: dict[PageId, set[Channel]] = {}
        self.twice_bytes = 0
        self.resent_before = self.scheduler.counts.resent_bytes
        self.out.clear()

    @rule(number=st.integers(0, 1 << 20), inside=st.integers(0, 511))
    def request(self, number: int, inside: int) -> None:
        """Request any page."""
        blocks = self.geometry.blocks
        block = number % len(blocks)
        page = PageId(block, number // 7 % blocks[block].page_count)
        self.now_ns += 1
        target_page = inside % blocks[block].target_pages_per_page
        answer = self.scheduler.request(page, target_page, self.now_ns)
        if answer in {Answer.QUEUED, Answer.URGENT_IN_PLACE, Answer.DUPLICATE}:
            self.asked.add(unit_of(self.geometry, page, target_page, self.policy.critical))

    @rule(number=st.integers(0, 1))
    def take_or_send(self, number: int) -> None:
        """Take a lane's next chunk, or have the one that is out go whole."""
        lane = self.scheduler.lanes[number % len(self.scheduler.lanes)]
        chunk = self.out.pop(lane, None)
        if chunk is not None:
            self.goes(chunk)
            self.scheduler.chunk_sent(lane)
        elif (chunk := self.scheduler.next_chunk(lane)) is not None:
            self.out[lane] = chunk
            self.enter(chunk)

    @precondition(lambda self: self.out and self.scheduler.wants_preemption)
    @rule(begun=st.booleans())
    def interrupt(self, *, begun: bool) -> None:
        """Break the chunk off, as the scheduler wants it."""
        chunk = self.out.pop(Lane.ALL)
        assert not chunk.urgent
        begun = begun or self.resumed
        if begun:
            self.open_frames[chunk.channel] = chunk.span
            self.goes(chunk)
        else:
            self.due.add(chunk.span)
        self.scheduler.chunk_interrupted(begun=begun)

    @rule(seed=st.integers(0, 1 << 32))
    def break_and_resume(self, seed: int) -> None:
        """Have a break lose some of what went; that, and what was due, goes from then on."""
        chance, missing = Random(seed), self.scheduler.remaining.copy()
        for number, block in enumerate(self.geometry.blocks):
            for _ in range(3):
                first = chance.randrange(block.target_page_count)
                missing.add(Span(number, first * BASE, BASE))
        self.scheduler.begin_again(missing)
        self.forget(missing)

    @rule(seed=st.integers(0, 1 << 32), count=st.integers(20, 120))
    def storm(self, seed: int, count: int) -> None:
        """Send under many requests."""
        chance = Random(seed)
        for _ in range(count):
            if chance.random() < 0.3:
                self.request(chance.randrange(1 << 20), chance.randrange(512))
            elif self.out and self.scheduler.wants_preemption and chance.random() < 0.7:
                self.interrupt(begun=chance.random() < 0.7)
            else:
                self.take_or_send(chance.randrange(2))
            self.books_are_kept()

    def enter(self, chunk: Chunk) -> None:
        """Enter a chunk: a frame half on the wire goes on, or its bytes are due."""
        open_frame = self.open_frames.pop(chunk.channel, None)
        self.resumed = open_frame is not None
        if open_frame is not None:
            assert chunk.span == open_frame, "something goes into the middle of a frame"
            return
        puts_off = self.policy.half_sent is HalfSent.POSTPONE
        if self.policy.preempts and not (chunk.urgent or puts_off):
            assert not any(map(self.due.holds_any, self.asked)), "the background goes first"
        again = chunk.span.length - self.due.count_in(chunk.span) * BASE
        assert not again or self.policy.half_sent is HalfSent.RESEND, "given out twice"
        self.due.remove(chunk.span)
        self.twice_bytes += again

    def goes(self, chunk: Chunk) -> None:
        """Enter what is on the wire."""
        self.gone.add(chunk.span)
        if not self.geometry.has_base_pages[chunk.page.block]:
            channels = self.channels.setdefault(chunk.page, set())
            channels.add(chunk.channel)
            may_mix = self.policy.mixes_channels or self.policy.half_sent is HalfSent.RESEND
            assert may_mix or len(channels) == 1, "a huge page is on both channels"

    @invariant()
    def books_are_kept(self) -> None:
        """What is due is what the scheduler has; failures are told, and causes are few."""
        if not hasattr(self, "scheduler"):
            return
        if self.policy.half_sent is not HalfSent.RESEND:
            assert self.due.count_beyond(self.scheduler.remaining) == 0, "something is lost"
            assert self.scheduler.remaining.count_beyond(self.due) == 0, "something goes twice"
        failure = self.scheduler.policy_failure
        assert not failure or failure.startswith(f"policy {self.policy.name}: {HERE}:")
        prefetched = self.scheduler.prefetched
        assert (prefetched is None) == (self.policy.prefetcher is None)
        if prefetched is not None:
            assert len(prefetched.causes) <= CAUSE_COUNT_MAX + 1
            assert prefetched.late.count_beyond(prefetched.pages) == 0

    def teardown(self) -> None:
        """Send all that is left, in no more chunks than there are target pages: nothing stays."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(4 * self.geometry.target_page_count + 8):
            if not (self.scheduler.unsent_bytes or self.out):
                break
            for number in range(len(self.scheduler.lanes)):
                self.take_or_send(number)
        self.books_are_kept()
        assert not self.scheduler.unsent_bytes
        assert not self.due.length_bytes
        assert not self.open_frames
        resent = self.scheduler.counts.resent_bytes - self.resent_before
        assert self.twice_bytes == resent


def machine_of(
    named: str, pairs: tuple[tuple[type[Prefetcher] | None, type[Order] | None], ...]
) -> type[SchemeMachine]:
    """Return the machine of a base and the schemes to try on it."""

    class Machine(SchemeMachine):
        base = named
        schemes = pairs

    return Machine


@pytest.mark.parametrize("base", BASES)
def test_no_scheme_breaks_a_rule(base: str) -> None:
    """Whatever prefetchers and orders say, what must hold of pages, frames and channels does."""
    pairs = (*product(SANE, ORDERS), *product((*HOSTILE, None), (None, NewestFirst)))
    run_state_machine_as_test(
        machine_of(base, pairs), settings=settings(max_examples=12, stateful_step_count=12)
    )


@pytest.mark.parametrize("base", BASES)
def test_no_scheme_breaks_a_rule_through_long_storms(base: str) -> None:
    """Each sane scheme picks, each order is asked, and each fiend is found out in the end."""
    failed = picked = 0
    for number, (prefetcher, geometry) in enumerate(product((*SANE, *HOSTILE), GEOMETRIES)):
        machine = machine_of(base, ())()
        machine.begin(geometry, scheme(base, prefetcher, ORDERS[number % 3]))
        machine.storm(number, 150)
        machine.teardown()
        prefetched = machine.scheduler.prefetched
        assert prefetched is not None
        picked += prefetched.pages.length_bytes > 0
        is_sane = prefetcher in SANE
        failed += bool(machine.scheduler.policy_failure)
        assert not (is_sane and machine.scheduler.policy_failure)
    assert picked > len(SANE) * len(GEOMETRIES)
    assert failed >= (len(HOSTILE) - 4) * len(GEOMETRIES)
