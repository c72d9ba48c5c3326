"""The scheduler against a naive model of its rules, whatever comes in which order.

The model keeps target pages by their flat numbers in plain sets and lists, and looks everything up
the slow way.  Beside it a ledger of what was given out checks what no rule may break.
"""

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, field, replace
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
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.pageset import PageSet
from protocol.policy import PRESETS, HalfSent, Policy, preset
from source.scheduler import Answer, Chunk, Scheduler, SchedulerCounts

BASE, HUGE = TARGET_PAGE_BYTES, 2 << 20

GEOMETRIES = tuple(
    Geometry(tuple(RamBlock(name, count * page_bytes, page_bytes) for name, count, page_bytes in g))
    for g in (
        (("huge", 4, HUGE),),
        (("base", 150, BASE),),
        (("base", 100, BASE), ("huge", 3, HUGE)),
        (("one", 2, HUGE), ("two", 2, HUGE), ("base", 70, BASE)),
        (("one", 40, BASE), ("huge", 1, HUGE), ("two", 40, BASE)),
    )
)
# The first is smaller than most runs of base pages in these guests, the last is half a huge page.
CHUNKS = (16 * BASE, 64 * BASE, 128 * BASE, 256 * BASE)

# The presets, and one that does not follow the requests with its scan.
POLICIES = (*PRESETS.values(), replace(preset("ordered"), name="no-locality", locality=False))


@dataclass
class Stream:
    """Pages of the model that travel together: a huge page, a base page, or a run of them."""

    flats: list[int]
    page: PageId
    channel: Channel
    requested_ns: int | None = None
    boosted: bool = False
    begun: bool = False
    put_off: bool = False
    # Given out and not yet whole on the wire.
    out: list[int] = field(default_factory=list)


class Model:
    """The rules, as one would follow them with paper and pencil."""

    def __init__(self, geometry: Geometry, policy: Policy, chunk_bytes: int) -> None:
        """Start with nothing to send."""
        self.geometry = geometry
        self.policy = policy
        self.chunk_pages = chunk_bytes // TARGET_PAGE_BYTES
        # Where each page's target pages are, and which page and block each belongs to.
        self.flats_of: dict[PageId, list[int]] = {}
        self.page_at: list[PageId] = []
        for number, block in enumerate(geometry.blocks):
            for index in range(block.page_count):
                page, first = PageId(number, index), len(self.page_at)
                self.page_at += [page] * (block.page_bytes // TARGET_PAGE_BYTES)
                self.flats_of[page] = list(range(first, len(self.page_at)))
        self.owed: set[int] = set()
        self.queue: list[tuple[PageId, int]] = []
        self.stream: Stream | None = None
        self.half_sent: Stream | None = None
        self.cursor = 0
        self.counts = SchedulerCounts()

    @property
    def wants_preemption(self) -> bool:
        """Rule 3."""
        stream = self.stream
        return bool(self.policy.preempts and self.queue and stream and stream.requested_ns is None)

    def add(self, flats: Iterable[int]) -> None:
        """Owe target pages, and look for them from the start."""
        self.owed.update(flats)
        self.cursor = 0

    def request(self, page: PageId, now_ns: int) -> Answer:
        """Rules 5, 6 and 7."""
        self.counts.received += 1
        if self.travels(page, self.stream):
            assert self.stream is not None
            if self.stream.requested_ns is not None:
                self.counts.duplicate += 1
                return Answer.DUPLICATE
            if self.policy.half_sent is HalfSent.POSTPONE:
                self.stream.put_off = True
                self.counts.postponed += 1
                return Answer.POSTPONED
            self.hurry(self.stream, now_ns)
            return Answer.URGENT_IN_PLACE
        if page in [queued for queued, _ in self.queue]:
            self.counts.duplicate += 1
            return Answer.DUPLICATE
        if self.travels(page, self.half_sent) or self.owed.intersection(self.flats_of[page]):
            self.queue.append((page, now_ns))
            return Answer.QUEUED
        self.counts.already_sent += 1
        return Answer.ALREADY_SENT

    def next(self) -> Stream | None:
        """Return what travels next, its `out` filled: rules 1 and 2."""
        if self.wants_preemption:
            self.break_off()
        if self.stream is None:
            self.stream = self.requested() or self.half_sent or self.scanned()
            if self.stream is self.half_sent:
                self.half_sent = None
        stream = self.stream
        if stream is not None and not stream.out:
            left = [flat for flat in stream.flats if flat in self.owed]
            stream.out = consecutive(left)[: self.chunk_pages]
            self.owed.difference_update(stream.out)
        return stream

    def sent(self) -> bool:
        """Take what is out for sent; tell whether the stream is at its end."""
        assert self.stream is not None
        self.stream.out = []
        self.stream.begun = True
        if self.owed.intersection(self.stream.flats):
            return False
        self.stream = None
        return True

    def interrupted(self, *, begun: bool) -> None:
        """Break off what is out."""
        assert self.stream is not None
        if begun:
            self.stream.begun = True
        else:
            self.owed.update(self.stream.out)
            self.stream.out = []
        self.break_off()

    def break_off(self) -> None:
        """Lay the stream aside, or forget that it was chosen."""
        stream, self.stream = self.stream, None
        assert stream is not None
        assert self.half_sent is None, "two pages are preempted"
        if stream.begun or stream.put_off:
            self.half_sent = stream
            self.counts.preemptions += 1
        else:
            self.cursor = stream.flats[0]

    def requested(self) -> Stream | None:
        """Return what the queue calls for, skipping what has no right to be served now."""
        while self.queue:
            page, requested_ns = self.queue.pop(0)
            if self.travels(page, self.half_sent):
                if self.policy.half_sent is HalfSent.POSTPONE:
                    self.counts.postponed += 1
                    continue
                stream, self.half_sent = self.half_sent, None
                assert stream is not None
                stream.boosted = True
                self.counts.boosted += 1
            elif self.owed.intersection(self.flats_of[page]):
                channel = Channel.POSTCOPY if self.policy.own_channel else Channel.PRECOPY
                stream = Stream(self.flats_of[page], page, channel)
            else:
                self.counts.already_sent += 1
                continue
            self.hurry(stream, requested_ns)
            return stream
        return None

    def scanned(self) -> Stream | None:
        """Return the next of the background, from the cursor to the end and round."""
        ahead = [flat for flat in self.owed if flat >= self.cursor]
        if not self.owed:
            return None
        first = min(ahead or self.owed)
        page = self.page_at[first]
        flats = self.flats_of[page]
        if len(flats) == 1:
            in_block = (f for f in self.owed if f >= first and self.page_at[f].block == page.block)
            flats = consecutive(sorted(in_block))[: self.chunk_pages]
        self.cursor = flats[-1] + 1
        return Stream(flats, page, Channel.PRECOPY)

    def hurry(self, stream: Stream, requested_ns: int) -> None:
        """Make a stream urgent: rule 9 goes with it."""
        stream.requested_ns = requested_ns
        if stream.channel is Channel.PRECOPY:
            self.counts.on_precopy_channel += 1
        else:
            self.counts.on_postcopy_channel += 1
        if self.policy.locality:
            self.cursor = stream.flats[-1] + 1

    def travels(self, page: PageId, stream: Stream | None) -> bool:
        """Tell whether a page is one of a stream's."""
        return stream is not None and self.flats_of[page][0] in stream.flats


def consecutive(flats: list[int]) -> list[int]:
    """Return the numbers up to the first gap."""
    return [flat for place, flat in enumerate(flats) if flat == flats[0] + place]


class SchedulerMachine(RuleBasedStateMachine):
    """Does to the scheduler and to the model what a sender and a destination can do."""

    policy: ClassVar[Policy]

    def __init__(self) -> None:
        """Prepare; the first rule makes the guest."""
        super().__init__()
        self.now_ns = 0
        self.out: Chunk | None = None
        # The ledger: what was added and not given out since; what is half on the wire.
        self.due: set[int] = set()
        self.open_frames: dict[Channel, Span] = {}

    @initialize(geometry=st.sampled_from(GEOMETRIES), chunk_bytes=st.sampled_from(CHUNKS))
    def start(self, geometry: Geometry, chunk_bytes: int) -> None:
        """Make a guest, all of it dirty."""
        self.geometry = geometry
        self.scheduler = Scheduler(geometry, self.policy, chunk_bytes)
        self.model = Model(geometry, self.policy, chunk_bytes)
        self.add([Span(n, 0, block.length_bytes) for n, block in enumerate(geometry.blocks)])

    @rule(seed=st.integers(0, 1 << 32))
    def add_some(self, seed: int) -> None:
        """Add a few stretches of the guest, down to single target pages."""
        self.add(self.some_spans(Random(seed)))

    def some_spans(self, chance: Random) -> list[Span]:
        """Return stretches of the guest that may overlap."""
        spans = []
        for _ in range(chance.randint(1, 4)):
            block = chance.randrange(len(self.geometry.blocks))
            room = self.geometry.blocks[block].target_page_count
            first = chance.randrange(room)
            count = min(chance.choice([1, 5, 100, 700]), room - first)
            spans.append(Span(block, first * TARGET_PAGE_BYTES, count * TARGET_PAGE_BYTES))
        return spans

    def add(self, spans: list[Span]) -> None:
        """Add spans to both, unless a page is on its way."""
        pages, flats = PageSet(self.geometry), set[int]()
        for span in spans:
            pages.add(span)
            flats.update(self.flats_of(span))
        if self.model.stream or self.model.half_sent:
            with pytest.raises(LocalProtocolError):
                self.scheduler.add(pages)
            return
        self.scheduler.add(pages)
        self.model.add(flats)
        self.due |= flats

    @rule(data=st.data())
    def request(self, data: st.DataObject) -> None:
        """Request a page: any, or one that takes part in what goes on."""
        self.ask(data.draw(st.one_of([st.sampled_from(pages) for pages in self.choices()])))

    def choices(self) -> list[list[PageId]]:
        """Return the pages that a request may be for, by the part that they play, none empty."""
        model = self.model
        streams = [stream for stream in (model.stream, model.half_sent) if stream]
        streamed = {flat for stream in streams for flat in stream.flats}
        kinds = [
            [page for page, _ in model.queue],
            *([model.page_at[flat] for flat in stream.flats] for stream in streams),
            [model.page_at[flat] for flat in model.owed],
            [model.page_at[flat] for flat in model.owed if flat not in streamed],
            list(model.flats_of),
        ]
        return [pages for pages in kinds if pages]

    def ask(self, page: PageId) -> None:
        """Request a page of both."""
        self.now_ns += 1
        assert self.scheduler.request(page, self.now_ns) is self.model.request(page, self.now_ns)

    @rule(seed=st.integers(0, 1 << 32), count=st.integers(50, 150))
    def storm(self, seed: int, count: int) -> None:
        """Send under many requests: takes the machine where its single steps seldom come."""
        chance = Random(seed)
        asking = chance.choice([0.1, 0.3])
        for _ in range(count):
            if not (self.model.owed or self.model.stream or self.model.half_sent):
                self.add(self.some_spans(chance))
            background = self.out is not None and not self.scheduler.urgent
            if chance.random() < (0.6 if background else asking):
                self.ask(chance.choice(chance.choice(self.choices())))
            elif self.out is None:
                self.take()
            elif self.scheduler.wants_preemption and chance.random() < 0.8:
                self.interrupt(begun=chance.random() < 0.7)
            else:
                self.send()
            self.agrees_with_the_model()
            self.keeps_its_books()

    @rule(block=st.integers(-1, 3), index=st.sampled_from([-1, 4, 150, 1 << 40]))
    def request_outside(self, block: int, index: int) -> None:
        """Request what no guest of ours has."""
        page = PageId(block, index)
        if page in self.model.flats_of:
            return
        with pytest.raises(RemoteProtocolError):
            self.scheduler.request(page, self.now_ns)

    @precondition(lambda self: self.out is None)
    @rule()
    def take(self) -> None:
        """Take a chunk, and compare it with what the rules say."""
        chunk = self.scheduler.next_chunk()
        stream = self.model.next()
        assert (chunk is None) == (stream is None)
        if chunk is None or stream is None:
            return
        assert chunk == Chunk(
            self.span_of(stream.out), stream.page, stream.channel,
            stream.requested_ns is not None, stream.boosted, stream.requested_ns,
        )  # fmt: skip
        self.out = chunk
        self.enter(chunk)

    def enter(self, chunk: Chunk) -> None:
        """Enter a chunk in the ledger: a frame half on the wire goes on, or its bytes are due."""
        if (open_frame := self.open_frames.pop(chunk.channel, None)) is not None:
            assert chunk.span == open_frame
            return
        flats = set(self.flats_of(chunk.span))
        assert flats <= self.due, "target pages are given out twice"
        self.due -= flats

    @precondition(lambda self: self.out is not None)
    @rule()
    def send(self) -> None:
        """Have the chunk go whole."""
        self.out = None
        assert self.scheduler.chunk_sent() == self.model.sent()

    @precondition(lambda self: self.out is None)
    @rule(count=st.integers(1, 5))
    def send_several(self, count: int) -> None:
        """Have some chunks go whole, one after the other."""
        for _ in range(count):
            self.take()
            if self.out is None:
                return
            self.send()

    @precondition(lambda self: self.out is not None and self.scheduler.wants_preemption)
    @rule(begun=st.booleans())
    def interrupt(self, *, begun: bool) -> None:
        """Break the chunk off, as the scheduler wants it."""
        assert self.out is not None
        assert self.model.stream is not None
        assert self.model.stream.requested_ns is None, "an urgent page is broken off"
        if begun:
            self.open_frames[self.out.channel] = self.out.span
        else:
            self.due |= set(self.flats_of(self.out.span))
        self.out = None
        self.scheduler.chunk_interrupted(begun=begun)
        self.model.interrupted(begun=begun)

    @precondition(lambda self: self.out is None)
    @rule(begun=st.booleans())
    def speak_of_no_chunk(self, *, begun: bool) -> None:
        """Say that a chunk was sent, or broken off, while none is out."""
        with pytest.raises(LocalProtocolError):
            self.scheduler.chunk_sent()
        with pytest.raises(LocalProtocolError):
            self.scheduler.chunk_interrupted(begun=begun)

    @precondition(lambda self: self.out is not None)
    @rule(begun=st.booleans())
    def misuse_a_chunk(self, *, begun: bool) -> None:
        """Take a second chunk, or break off the one that nothing wants broken off."""
        with pytest.raises(LocalProtocolError):
            self.scheduler.next_chunk()
        if not self.scheduler.wants_preemption:
            with pytest.raises(LocalProtocolError):
                self.scheduler.chunk_interrupted(begun=begun)

    @invariant()
    def agrees_with_the_model(self) -> None:
        """What the scheduler shows is what the model has."""
        if not hasattr(self, "model"):
            return
        scheduler, model = self.scheduler, self.model
        assert scheduler.wants_preemption == model.wants_preemption
        assert scheduler.urgent == bool(model.stream and model.stream.requested_ns is not None)
        assert scheduler.preempted_page == (model.half_sent.page if model.half_sent else None)
        assert scheduler.queued_requests == len(model.queue)
        assert scheduler.remaining_bytes == len(self.due) * TARGET_PAGE_BYTES
        assert astuple(scheduler.counts) == astuple(model.counts)

    @invariant()
    def keeps_its_books(self) -> None:
        """Queue entries differ, urgent pages run to their end, and every request is accounted."""
        if not hasattr(self, "model"):
            return
        queued = [page for page, _ in self.scheduler._queue]
        assert len(set(queued)) == len(queued)
        assert not (self.scheduler.urgent and self.scheduler.wants_preemption)
        assert len(self.open_frames) <= 1
        counts = self.scheduler.counts
        assert counts.received == (
            counts.duplicate + counts.already_sent + counts.postponed
            + counts.on_precopy_channel + counts.on_postcopy_channel + len(queued)
        )  # fmt: skip

    def teardown(self) -> None:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Send all that is left: nothing stays behind."""
        if not hasattr(self, "model"):
            return
        if self.out is not None:
            self.send()
        self.take()
        while self.out is not None:
            self.send()
            self.take()
        self.agrees_with_the_model()
        self.keeps_its_books()
        assert not self.due
        assert not self.open_frames
        assert self.scheduler.queued_requests == 0
        assert self.scheduler.preempted_page is None
        assert self.scheduler.remaining_bytes == 0

    def span_of(self, flats: list[int]) -> Span:
        """Return the span of consecutive flat numbers."""
        block, first = self.geometry.locate(flats[0])
        return Span(block, first * TARGET_PAGE_BYTES, len(flats) * TARGET_PAGE_BYTES)

    def flats_of(self, span: Span) -> range:
        """Return the flat numbers of a span."""
        first = self.geometry.flat_target_page(span.block, span.target_pages.start)
        return range(first, first + span.length // TARGET_PAGE_BYTES)


def machine_of(chosen: Policy) -> type[SchedulerMachine]:
    """Return the machine of a policy."""

    class Machine(SchedulerMachine):
        policy = chosen

    return Machine


BY_POLICY = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)


@BY_POLICY
def test_the_scheduler_follows_the_rules(policy: Policy) -> None:
    """Whatever is added, requested, sent and broken off, the scheduler does what the model does."""
    run_state_machine_as_test(
        machine_of(policy), settings=settings(max_examples=30, stateful_step_count=15)
    )


@BY_POLICY
def test_the_scheduler_follows_the_rules_through_long_storms(policy: Policy) -> None:
    """Through hundreds of requests, and pages broken off again and again, the two still agree."""
    seen = SchedulerCounts()
    for seed, (geometry, chunk_bytes) in enumerate(product(GEOMETRIES, CHUNKS)):
        machine = machine_of(policy)()
        machine.start(geometry, chunk_bytes)
        machine.storm(seed, 400)
        machine.teardown()
        for name, value in asdict(machine.scheduler.counts).items():
            setattr(seen, name, getattr(seen, name) + value)
    finishes = policy.half_sent is HalfSent.FINISH
    assert (seen.preemptions > 30) == policy.preempts
    assert (seen.boosted > 10) == (policy.preempts and finishes)
    assert (seen.postponed > 100) == (not finishes)
    assert (seen.on_postcopy_channel > 100) == policy.own_channel
    assert (seen.on_precopy_channel > 100) == finishes
