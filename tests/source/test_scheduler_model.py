"""The scheduler against a naive model of its rules, whatever comes in which order.

The model keeps target pages by their flat numbers in plain sets and lists, and looks everything up
the slow way.  Beside it a ledger of what was given out checks what no rule may break.
"""

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, field, replace
from itertools import product
from random import Random
from typing import ClassVar

import numpy as np
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
from protocol.runs import Runs, Stretch
from source.background import POSTCOPY_RUN_BYTES_MIN
from source.jobs import Answer, Chunk, Lane, Lies, SchedulerCounts
from source.scheduler import Scheduler

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

# The presets, two that do not follow the requests with their scan, and one that overtakes where
# pages are small.
POLICIES = (
    *PRESETS.values(),
    replace(preset("ordered"), name="ordered-overtakes", overtakes=True),
    *(
        replace(preset(name), name=f"{name}-no-locality", locality=False)
        for name in ("ordered", "critical-first")
    ),
)


# A precopy pass, and the two that have requests.
PHASES: tuple[dict[str, bool], ...] = ({"across_pages": True}, {"postcopy": True}, {})

# Which lane a rule is about, of as many as the policy has.
LANES = st.integers(0, 1)


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
    # It went before, and goes once more.
    copy: bool = False
    # Given out and not yet whole on the wire, and where.
    out: list[int] = field(default_factory=list)
    out_channel: Channel = Channel.PRECOPY
    # All that was given out so far.
    given: list[int] = field(default_factory=list)


class Model:
    """The rules, as one would follow them with paper and pencil."""

    def __init__(self, geometry: Geometry, policy: Policy, chunk_bytes: int) -> None:
        """Start with nothing to send."""
        self.geometry = geometry
        self.policy = policy
        self.chunk_pages = self.run_pages = chunk_bytes // TARGET_PAGE_BYTES
        # Where each page's target pages are, and which page and block each belongs to.
        self.flats_of: dict[PageId, list[int]] = {}
        self.page_at: list[PageId] = []
        for number, block in enumerate(geometry.blocks):
            for index in range(block.page_count):
                page, first = PageId(number, index), len(self.page_at)
                self.page_at += [page] * (block.page_bytes // TARGET_PAGE_BYTES)
                self.flats_of[page] = list(range(first, len(self.page_at)))
        self.owed: set[int] = set()
        self.queue: list[tuple[PageId, list[int], int]] = []
        # What of the queue lay in a connection behind much, and what went twice for that.
        self.far: set[int] = set()
        self.copied: set[int] = set()
        self.streams: dict[Lane, Stream] = {}
        self.half_sent: Stream | None = None
        # A frame that must still end, of a page that went again whole.
        self.leftover: Stream | None = None
        # Pages of which a part went ahead, the newest last, and where each was touched.
        self.demoted: list[tuple[PageId, int]] = []
        self.cursor = 0
        # Nobody asks for pages, and parts of several may go together.
        self.across_pages = False
        self.counts = SchedulerCounts()

    @property
    def busy(self) -> bool:
        """Whether anything is on its way."""
        return bool(self.streams or self.half_sent or self.leftover)

    @property
    def wants_preemption(self) -> bool:
        """Rule 3."""
        stream = self.streams.get(Lane.ALL)
        return bool(self.policy.preempts and self.queue and stream and stream.requested_ns is None)

    def add(self, flats: Iterable[int], *, postcopy: bool, across_pages: bool) -> None:
        """Owe target pages, and look for them from the start."""
        self.owed.update(flats)
        self.across_pages = across_pages
        shortest = POSTCOPY_RUN_BYTES_MIN // TARGET_PAGE_BYTES
        self.run_pages = min(self.chunk_pages, shortest) if postcopy else self.chunk_pages
        self.cursor = 0
        self.demoted = []

    def unit(self, page: PageId, target_page: int) -> list[int]:
        """Return what a request makes urgent."""
        flats = self.flats_of[page]
        return [flats[target_page]] if self.policy.critical else flats

    def request(
        self, page: PageId, target_page: int, now_ns: int, lies: Lies | None = None
    ) -> Answer:
        """Rules 5 to 8."""
        self.counts.received += 1
        unit = self.unit(page, target_page)
        stream = self.under_way(unit)
        heeds = stream is not None and (lies is None or stream.requested_ns is not None)
        if (
            stream is not None
            and heeds
            and (answer := self.met_under_way(stream, page, unit, now_ns))
        ):
            return answer
        if unit in [queued for _, queued, _ in self.queue]:
            self.counts.duplicate += 1
            return Answer.DUPLICATE
        if lies in (Lies.FAR, Lies.UNSENT) and unit[0] not in self.copied:
            self.queue.append((page, unit, now_ns))
            self.far.add(unit[0])
            return Answer.SENT_AGAIN
        is_here = stream or travels(unit, self.half_sent) or self.owed.intersection(unit)
        if is_here and lies is None:
            self.queue.append((page, unit, now_ns))
            puts_off = self.policy.half_sent is HalfSent.POSTPONE
            return Answer.POSTPONED if puts_off and travels(unit, self.half_sent) else Answer.QUEUED
        self.counts.already_sent += 1
        return Answer.ALREADY_SENT

    def met_under_way(
        self, stream: Stream, page: PageId, unit: list[int], now_ns: int
    ) -> Answer | None:
        """Rule 6, and what policies make of it."""
        if stream.requested_ns is not None:
            self.counts.duplicate += 1
            return Answer.DUPLICATE
        if self.policy.half_sent is HalfSent.POSTPONE or self.policy.concurrent:
            stream.put_off = True
            self.counts.postponed += 1
            return Answer.POSTPONED
        if self.wants_preemption:
            return None
        self.hurry(stream, page, unit, now_ns)
        return Answer.URGENT_IN_PLACE

    def under_way(self, unit: list[int]) -> Stream | None:
        """Return what carries a unit now; a frame that only has to end carries nothing."""
        for stream in self.streams.values():
            if stream is not self.leftover and travels(unit, stream):
                return stream
        return None

    def next(self, lane: Lane) -> Stream | None:
        """Return what travels next, its `out` filled: rules 1 and 2."""
        if lane is Lane.ALL and self.wants_preemption:
            self.break_off()
        if lane not in self.streams:
            picked = self.requested() if lane is not Lane.BACKGROUND else None
            if picked is None and lane is not Lane.URGENT:
                picked = self.leftover or self.half_sent or self.scanned()
                if picked is self.half_sent:
                    self.half_sent = None
            if picked is None:
                return None
            self.streams[lane] = picked
        stream = self.streams[lane]
        if not stream.out:
            left = [flat for flat in stream.flats if flat in self.owed or stream.copy]
            stream.out = left[: self.chunk_pages]
            stream.out_channel = stream.channel
            stream.given += stream.out
            self.owed.difference_update(stream.out)
        return stream

    def sent(self, lane: Lane) -> int:
        """Take what is out for sent; return how many pages are at their end."""
        stream = self.streams[lane]
        gone, stream.out = stream.out, []
        stream.begun = True
        if stream is self.leftover:
            self.leftover = None
            del self.streams[lane]
            return 0
        if self.owed.intersection(stream.flats):
            return 0
        del self.streams[lane]
        if stream.copy:
            return 0
        pages = {self.page_at[flat] for flat in gone}
        if self.half_sent is not None and self.policy.critical:
            pages.discard(self.half_sent.page)
        if self.policy.critical or self.across_pages:
            pages = {page for page in pages if not self.owed.intersection(self.flats_of[page])}
        return len(pages)

    def interrupted(self, *, begun: bool) -> None:
        """Break off what is out."""
        stream = self.streams[Lane.ALL]
        if begun:
            stream.begun = True
        else:
            self.owed.update(stream.out)
            stream.given = [flat for flat in stream.given if flat not in stream.out]
            stream.out = []
        self.break_off()

    def break_off(self) -> None:
        """Lay the stream aside, or forget that it was chosen."""
        stream = self.streams.pop(Lane.ALL)
        assert self.half_sent is None, "two pages are preempted"
        if stream is self.leftover:
            return
        if stream.begun or stream.put_off:
            self.half_sent = stream
            self.counts.preemptions += 1
        elif stream.page not in [page for page, _ in self.demoted]:
            self.cursor = stream.flats[0]

    def requested(self) -> Stream | None:
        """Return what the queue calls for, skipping what has no right to be served now."""
        while self.queue:
            page, unit, requested_ns = self.queue.pop(0)
            postpones = self.policy.half_sent is HalfSent.POSTPONE
            if unit[0] in self.far:
                stream = self.again(page, unit)
                self.hurry(stream, page, unit, requested_ns)
                return stream
            if self.under_way(unit) or (postpones and travels(unit, self.half_sent)):
                self.counts.postponed += 1
                continue
            if travels(unit, self.half_sent):
                stream = self.half_sent_one()
            elif self.owed.intersection(unit):
                channel = Channel.POSTCOPY if self.policy.own_channel else Channel.PRECOPY
                stream = Stream(unit, page, channel)
            else:
                self.counts.already_sent += 1
                continue
            self.hurry(stream, page, unit, requested_ns)
            return stream
        return None

    def again(self, page: PageId, unit: list[int]) -> Stream:
        """Return what goes for a target page that lies behind much, if it still does."""
        self.far.remove(unit[0])
        stream = Stream(unit, page, Channel.POSTCOPY)
        stream.copy = not self.owed.intersection(unit)
        if stream.copy:
            self.copied.add(unit[0])
            self.counts.copies += 1
            self.counts.resent_bytes += BASE
        return stream

    def half_sent_one(self) -> Stream:
        """Return what goes for a request that the half-sent page meets."""
        stream, self.half_sent = self.half_sent, None
        assert stream is not None
        is_huge = len(self.flats_of[stream.page]) > 1
        if self.policy.half_sent is HalfSent.RESEND and is_huge:
            self.owed.update(stream.given)
            self.counts.resent_bytes += len(stream.given) * TARGET_PAGE_BYTES
            self.leftover = stream if stream.out else None
            return Stream(stream.flats, stream.page, Channel.POSTCOPY)
        if self.policy.half_sent is HalfSent.SPLIT and self.owed.intersection(stream.flats):
            stream.channel = Channel.POSTCOPY
        else:
            stream.boosted = True
            self.counts.boosted += 1
        return stream

    def scanned(self) -> Stream | None:
        """Return the next of the background: demoted pages, or from the cursor on and round."""
        while self.demoted:
            page, touched = self.demoted[-1]
            left = [flat for flat in self.flats_of[page] if flat in self.owed]
            if left:
                run = [flat for flat in left if flat >= touched] or left
                return Stream(run[: self.run_pages], page, Channel.PRECOPY)
            self.demoted.pop()
        beside = self.streams.get(Lane.URGENT)
        free = self.owed.difference(beside.flats if beside else ())
        if not free:
            return None
        first = min([flat for flat in free if flat >= self.cursor] or free)
        page = self.page_at[first]
        flats = self.flats_of[page]
        in_page = [flat for flat in flats if flat >= first and flat in self.owed]
        if len(flats) == 1 or self.across_pages:
            in_block = (f for f in self.owed if f >= first and self.page_at[f].block == page.block)
            flats = sorted(in_block)[: self.run_pages]
        elif self.policy.critical:
            flats = in_page[: self.run_pages]
        self.cursor = flats[-1] + 1
        return Stream(flats, page, Channel.PRECOPY)

    def hurry(self, stream: Stream, page: PageId, unit: list[int], requested_ns: int) -> None:
        """Make a stream urgent: the place where the background goes on follows."""
        stream.requested_ns = requested_ns
        if stream.channel is Channel.PRECOPY:
            self.counts.on_precopy_channel += 1
        else:
            self.counts.on_postcopy_channel += 1
        if self.policy.locality:
            self.cursor = stream.flats[-1] + 1
        if self.policy.critical:
            self.demoted = [each for each in self.demoted if each[0] != page] + [(page, unit[0])]


def travels(unit: list[int], stream: Stream | None) -> bool:
    """Tell whether a unit is one of a stream's."""
    return stream is not None and unit[0] in stream.flats


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
        self.out: dict[Lane, Chunk] = {}
        # The ledger: what was added and not given out since; what is half on the wire; of each huge
        # page, what went in the background, and the channels that it went over.
        self.due: set[int] = set()
        self.open_frames: dict[Channel, Stretch] = {}
        self.resumed = False
        self.background: dict[PageId, set[int]] = {}
        self.channels: dict[PageId, set[Channel]] = {}

    @initialize(geometry=st.sampled_from(GEOMETRIES), chunk_bytes=st.sampled_from(CHUNKS))
    def start(self, geometry: Geometry, chunk_bytes: int) -> None:
        """Make a guest, all of it dirty."""
        self.geometry = geometry
        self.scheduler = Scheduler(geometry, self.policy, chunk_bytes)
        self.model = Model(geometry, self.policy, chunk_bytes)
        self.add([Span(n, 0, block.length_bytes) for n, block in enumerate(geometry.blocks)])

    @rule(seed=st.integers(0, 1 << 32), phase=st.sampled_from(PHASES))
    def add_some(self, seed: int, phase: dict[str, bool]) -> None:
        """Add a few stretches of the guest, down to single target pages."""
        self.add(self.some_spans(Random(seed)), **phase)

    def some_spans(self, chance: Random) -> list[Span]:
        """Return stretches of the guest that may overlap, or many target pages."""
        spans = []
        if chance.random() < 0.5:
            pages_of = [block.target_page_count for block in self.geometry.blocks]
            for number in chance.choices(range(len(pages_of)), k=chance.choice([3, 30, 150])):
                first = chance.randrange(pages_of[number])
                spans.append(Span(number, first * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
            return spans
        for _ in range(chance.randint(1, 4)):
            block = chance.randrange(len(self.geometry.blocks))
            room = self.geometry.blocks[block].target_page_count
            first = chance.randrange(room)
            count = min(chance.choice([1, 5, 100, 700]), room - first)
            spans.append(Span(block, first * TARGET_PAGE_BYTES, count * TARGET_PAGE_BYTES))
        return spans

    def add(self, spans: list[Span], *, postcopy: bool = False, across_pages: bool = False) -> None:
        """Add spans to both, unless a page is on its way, or asked for by who cannot run."""
        pages, flats = PageSet(self.geometry), set[int]()
        for span in spans:
            pages.add(span)
            flats.update(self.flats_of(span))
        if self.model.busy or (across_pages and self.model.queue):
            with pytest.raises(LocalProtocolError):
                self.scheduler.add(pages, postcopy=postcopy, across_pages=across_pages)
            return
        self.scheduler.add(pages, postcopy=postcopy, across_pages=across_pages)
        self.model.add(flats, postcopy=postcopy, across_pages=across_pages)
        self.due |= flats
        self.background.clear()
        self.channels.clear()

    @rule(data=st.data())
    def request(self, data: st.DataObject) -> None:
        """Request a page: any, or one that takes part in what goes on."""
        flats = data.draw(st.sampled_from(self.choices()))
        self.ask(data.draw(st.sampled_from(flats)))

    def choices(self) -> list[list[int]]:
        """Return target pages that vCPUs may touch, by the part that they play, none empty."""
        model = self.model
        streams = [*model.streams.values(), model.half_sent, model.leftover]
        streamed = [stream.flats for stream in streams if stream]
        kinds = [
            [flat for _, unit, _ in model.queue for flat in unit],
            *streamed,
            [flat for page, _ in model.demoted for flat in model.flats_of[page]],
            list(model.owed),
            list(model.owed.difference(*streamed)),
            list(range(len(model.page_at))),
        ]
        return [flats for flats in kinds if flats]

    def ask(self, flat: int) -> None:
        """Request the page of a target page of both."""
        self.now_ns += 1
        page = self.model.page_at[flat]
        request = page, flat - self.model.flats_of[page][0], self.now_ns
        if self.model.across_pages:
            with pytest.raises(LocalProtocolError):
                self.scheduler.request(*request)
            return
        lies = self.lies(flat)
        assert self.scheduler.request(*request, lies) is self.model.request(*request, lies)

    def lies(self, flat: int) -> Lies | None:
        """Return where a target page lies that was given out: anywhere, or nobody knows."""
        page = self.model.page_at[flat]
        is_small = self.policy.critical or len(self.model.flats_of[page]) == 1
        if not (self.policy.overtakes and is_small) or flat in self.model.owed:
            return None
        return (Lies.FAR, Lies.NEAR, None, Lies.UNSENT)[self.now_ns % 4]

    @rule(seed=st.integers(0, 1 << 32), count=st.integers(50, 150))
    def storm(self, seed: int, count: int) -> None:
        """Send under many requests: takes the machine where its single steps seldom come."""
        chance = Random(seed)
        asking = chance.choice([0.1, 0.3])
        for _ in range(count):
            if not (self.model.owed or self.model.busy):
                self.add(self.some_spans(chance), **chance.choice(PHASES))
            lane = chance.choice(self.scheduler.lanes)
            background = lane in self.out and not self.scheduler.urgent(lane)
            if chance.random() < (0.6 if background else asking):
                self.ask(chance.choice(chance.choice(self.choices())))
            elif lane not in self.out:
                self.take(lane)
            elif self.scheduler.wants_preemption and chance.random() < 0.8:
                self.interrupt(begun=chance.random() < 0.7)
            else:
                self.send(lane)
            self.agrees_with_the_model()
            self.keeps_its_books()

    @rule(block=st.integers(-1, 3), index=st.sampled_from([-1, 4, 150, 1 << 40]))
    def request_outside(self, block: int, index: int) -> None:
        """Request what no guest of ours has."""
        page = PageId(block, index)
        if page in self.model.flats_of:
            return
        with pytest.raises(RemoteProtocolError):
            self.scheduler.request(page, 0, self.now_ns)

    @rule(index=st.sampled_from([-1, 512, 1 << 40]))
    def request_outside_a_page(self, index: int) -> None:
        """Request what no page of ours has."""
        with pytest.raises(RemoteProtocolError):
            self.scheduler.request(PageId(0, 0), index, self.now_ns)

    def lane(self, number: int) -> Lane:
        """Return one of the scheduler's lanes."""
        return self.scheduler.lanes[number % len(self.scheduler.lanes)]

    @rule(number=LANES)
    def take_or_send(self, number: int) -> None:
        """Take a lane's next chunk, or have the one that is out go whole."""
        lane = self.lane(number)
        if lane in self.out:
            self.send(lane)
        else:
            self.take(lane)

    def take(self, lane: Lane) -> None:
        """Take a chunk, and compare it with what the rules say."""
        resent_bytes, copies = self.scheduler.counts.resent_bytes, self.scheduler.counts.copies
        chunk = self.scheduler.next_chunk(lane)
        stream = self.model.next(lane)
        assert (chunk is None) == (stream is None)
        if chunk is None or stream is None:
            return
        assert chunk == Chunk(
            self.stretch_of(stream.out), stream.page, stream.out_channel,
            stream.requested_ns is not None, stream.boosted, stream.requested_ns,
        )  # fmt: skip
        if self.scheduler.counts.copies != copies:
            self.due |= set(self.flats_of(chunk.span))
        elif self.scheduler.counts.resent_bytes != resent_bytes:
            again = self.background.pop(chunk.page)
            resent_bytes += len(again) * TARGET_PAGE_BYTES
            assert self.scheduler.counts.resent_bytes == resent_bytes
            self.due |= again
        self.out[lane] = chunk
        self.enter(chunk)

    def enter(self, chunk: Chunk) -> None:
        """Enter a chunk in the ledger: a frame half on the wire goes on, or its bytes are due."""
        open_frame = self.open_frames.pop(chunk.channel, None)
        self.resumed = open_frame is not None
        if open_frame is not None:
            assert chunk.span == open_frame
            return
        flats = set(self.flats_of(chunk.span))
        assert flats <= self.due, "target pages are given out twice"
        self.due -= flats

    @rule(number=LANES, count=st.integers(1, 5))
    def send_several(self, number: int, count: int) -> None:
        """Have some chunks go whole, one after the other."""
        lane = self.lane(number)
        for _ in range(count):
            if lane not in self.out:
                self.take(lane)
            if lane in self.out:
                self.send(lane)

    def send(self, lane: Lane) -> None:
        """Have the chunk go whole."""
        self.goes(self.out.pop(lane))
        assert self.scheduler.chunk_sent(lane) == self.model.sent(lane)

    def goes(self, chunk: Chunk) -> None:
        """Enter what is on the wire; only some policies have a huge page on both channels."""
        if not chunk.urgent:
            self.background.setdefault(chunk.page, set()).update(self.flats_of(chunk.span))
        if len(self.model.flats_of[chunk.page]) > 1:
            channels = self.channels.setdefault(chunk.page, set())
            channels.add(chunk.channel)
            may_mix = self.policy.mixes_channels or self.policy.half_sent is HalfSent.RESEND
            assert may_mix or len(channels) == 1

    @precondition(lambda self: self.out and self.scheduler.wants_preemption)
    @rule(begun=st.booleans())
    def interrupt(self, *, begun: bool) -> None:
        """Break the chunk off, as the scheduler wants it."""
        chunk = self.out.pop(Lane.ALL)
        assert self.model.streams[Lane.ALL].requested_ns is None, "an urgent page is broken off"
        # What is on the wire stays there.
        begun = begun or self.resumed
        if begun:
            self.open_frames[chunk.channel] = chunk.span
            self.goes(chunk)
        else:
            self.due |= set(self.flats_of(chunk.span))
        self.scheduler.chunk_interrupted(begun=begun)
        self.model.interrupted(begun=begun)

    @rule(number=LANES, begun=st.booleans())
    def speak_of_no_chunk(self, number: int, *, begun: bool) -> None:
        """Say that a chunk was sent, or broken off, while none is out; or take a second one."""
        lane = self.lane(number)
        if lane in self.out:
            with pytest.raises(LocalProtocolError):
                self.scheduler.next_chunk(lane)
        else:
            with pytest.raises(LocalProtocolError):
                self.scheduler.chunk_sent(lane)
        if Lane.ALL not in self.out or not self.scheduler.wants_preemption:
            with pytest.raises(LocalProtocolError):
                self.scheduler.chunk_interrupted(begun=begun)

    @rule(lane=st.sampled_from(Lane))
    def take_from_another_lane(self, lane: Lane) -> None:
        """Take a chunk of a lane that the policy has not."""
        if lane not in self.scheduler.lanes:
            with pytest.raises(LocalProtocolError):
                self.scheduler.next_chunk(lane)

    @invariant()
    def agrees_with_the_model(self) -> None:
        """What the scheduler shows is what the model has."""
        if not hasattr(self, "model"):
            return
        scheduler, model = self.scheduler, self.model
        assert scheduler.wants_preemption == model.wants_preemption
        for lane in Lane:
            stream = model.streams.get(lane)
            assert scheduler.urgent(lane) == bool(stream and stream.requested_ns is not None)
        assert scheduler.preempted_page == (model.half_sent.page if model.half_sent else None)
        assert scheduler.queued_requests == len(model.queue)
        assert scheduler.remaining_bytes == len(self.due) * TARGET_PAGE_BYTES
        assert astuple(scheduler.counts) == astuple(model.counts)

    @invariant()
    def keeps_its_books(self) -> None:
        """Queue entries differ, urgent pages run to their end, and every request is accounted."""
        if not hasattr(self, "model"):
            return
        queued = list(self.scheduler._queue)
        assert len(set(queued)) == len(queued)
        assert not (self.scheduler.urgent() and self.scheduler.wants_preemption)
        assert len(self.open_frames) <= 1
        # What is out, whole or broken off, is no socket's until it is sent.
        half = [*self.open_frames.values(), *(chunk.span for chunk in self.out.values())]
        unsent_bytes = self.scheduler.remaining_bytes + sum(each.length for each in half)
        assert self.scheduler.unsent_bytes == unsent_bytes
        counts = self.scheduler.counts
        assert counts.received == (
            counts.duplicate + counts.already_sent + counts.postponed
            + counts.on_precopy_channel + counts.on_postcopy_channel + len(queued)
        )  # fmt: skip

    def teardown(self) -> None:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Send all that is left: nothing stays behind."""
        if not hasattr(self, "model"):
            return
        for lane in self.scheduler.lanes:
            if lane not in self.out:
                self.take(lane)
            while lane in self.out:
                self.send(lane)
                self.take(lane)
        self.agrees_with_the_model()
        self.keeps_its_books()
        assert not self.due
        assert not self.open_frames
        assert self.scheduler.queued_requests == 0
        assert self.scheduler.preempted_page is None
        assert self.scheduler.remaining_bytes == 0

    def stretch_of(self, flats: list[int]) -> Stretch:
        """Return flat numbers as a span where they are consecutive, else as runs."""
        block, first = self.geometry.locate(flats[0])
        if consecutive(flats) == flats:
            return Span(block, first * TARGET_PAGE_BYTES, len(flats) * TARGET_PAGE_BYTES)
        return Runs.of_target_pages(block, np.array(flats) - flats[0] + first)

    def flats_of(self, stretch: Stretch) -> list[int]:
        """Return the flat numbers of a stretch."""
        base = self.geometry.flat_target_page(stretch.block, 0)
        spans = [stretch] if isinstance(stretch, Span) else stretch.spans()
        return [base + at // BASE for each in spans for at in range(each.offset, each.end, BASE)]


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
        machine_of(policy), settings=settings(max_examples=8, stateful_step_count=15)
    )


@BY_POLICY
def test_the_scheduler_follows_the_rules_through_long_storms(policy: Policy) -> None:
    """Through hundreds of requests, and pages broken off again and again, the two still agree."""
    seen = SchedulerCounts()
    combinations = list(product(GEOMETRIES, CHUNKS))
    # Each geometry and each size several times; all of them together take longer than they tell.
    for seed, (geometry, chunk_bytes) in enumerate(combinations[::3]):
        machine = machine_of(policy)()
        machine.start(geometry, chunk_bytes)
        machine.storm(seed, 400)
        machine.teardown()
        for name, value in asdict(machine.scheduler.counts).items():
            setattr(seen, name, getattr(seen, name) + value)
    resends = policy.half_sent is HalfSent.RESEND or policy.overtakes
    assert (seen.copies > 10) == policy.overtakes
    assert (seen.preemptions > 30) == policy.preempts
    # Where pages go again or are split, runs of base pages are finished all the same.
    assert (seen.boosted > 2) == (policy.preempts and policy.half_sent is not HalfSent.POSTPONE)
    assert (seen.postponed > 100) == (policy.half_sent is HalfSent.POSTPONE or policy.concurrent)
    assert (seen.on_postcopy_channel > 100) == policy.own_channel
    assert (seen.on_precopy_channel > 20) == (seen.postponed == 0)
    assert (seen.resent_bytes > 0) == resends


# What long searches have found: storms, by their seeds and counts, in a guest of four huge pages.
FOUND = {
    # A request waits while parts of pages were to go together, for which nobody can wait.
    "parallel": (
        (55, 50), (103, 50), (50, 50), (50, 50), (9, 50), (9, 50), (9, 50), (124, 50), (18556, 110),
        (56509774, 57), (711, 56),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(name: str) -> None:
    """Storms in which scheduler and model once differed."""
    machine = machine_of(preset(name))()
    machine.start(GEOMETRIES[0], 128 * BASE)
    for seed, count in FOUND[name]:
        machine.storm(seed, count)
    machine.teardown()
