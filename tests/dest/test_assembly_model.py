"""The assembly against a naive model, fed by a source that may be hostile.

The model keeps each missing target page in a plain set and counts everything anew each time.
"""

from dataclasses import dataclass
from random import Random

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

from dest.assembly import Assembly
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span

BASE, HUGE = TARGET_PAGE_BYTES, 2 << 20

GEOMETRIES = tuple(
    Geometry(tuple(RamBlock(name, count * page_bytes, page_bytes) for name, count, page_bytes in g))
    for g in (
        (("base", 24, BASE), ("huge", 3, HUGE)),
        (("one", 2, HUGE), ("two", 2, HUGE), ("base", 9, BASE)),
        (("huge", 1, HUGE), ("base", 30, BASE)),
    )
)


@dataclass
class Frame:
    """A frame under way in the model."""

    span: Span
    received: int = 0

    def unreceived(self) -> range:
        """Return the byte offsets that have not come."""
        return range(self.span.offset + self.received, self.span.end)


class Model:
    """What a destination may take, as one would check it with paper and pencil."""

    def __init__(self, geometry: Geometry) -> None:
        """Start in precopy."""
        self.geometry = geometry
        self.stale: set[tuple[int, int]] = set()
        self.missing: set[tuple[int, int]] | None = None
        self.frames: dict[Channel, Frame] = {}
        self.owner: dict[PageId, Channel] = {}
        self.counts = dict.fromkeys(Channel, (0, 0))
        self.pages = [
            PageId(number, index)
            for number, block in enumerate(geometry.blocks)
            for index in range(block.page_count)
        ]

    def is_admissible(self, channel: Channel, span: Span) -> bool:
        """Tell whether a correct source could send this now."""
        inside = (
            0 <= span.block < len(self.geometry.blocks)
            and 0 <= span.offset < span.end <= self.geometry.blocks[span.block].length_bytes
            and (span.offset % BASE, span.length % BASE) == (0, 0)
        )
        if self.missing is None or not inside:
            return inside and channel is Channel.PRECOPY
        if not self.target_pages(span) <= self.missing:
            return False
        touched = self.pages_of(span)
        if self.geometry.blocks[span.block].page_bytes == BASE:
            return True
        return len(touched) == 1 and self.owner.get(touched[0], channel) is channel

    def begin(self, channel: Channel, span: Span) -> None:
        """Let an admissible frame begin."""
        if self.missing is not None:
            self.missing -= self.target_pages(span)
            if self.geometry.blocks[span.block].page_bytes != BASE:
                self.owner[self.pages_of(span)[0]] = channel
        self.frames[channel] = Frame(span)

    def end(self, channel: Channel) -> Span | None:
        """Let a frame end; return what is whole then."""
        frame = self.frames.pop(channel)
        target_pages, data_bytes = self.counts[channel]
        self.counts[channel] = (
            target_pages + frame.span.length // BASE,
            data_bytes + frame.received,
        )
        if self.missing is None:
            return None
        if self.geometry.blocks[frame.span.block].page_bytes == BASE:
            return frame.span
        page = self.pages_of(frame.span)[0]
        if not self.is_whole(page):
            return None
        del self.owner[page]
        return self.geometry.page_span(page)

    def is_whole(self, page: PageId) -> bool:
        """Tell whether nothing of a page is missing or under way, which never is in precopy."""
        if self.missing is None:
            return True
        target_pages = self.target_pages(self.geometry.page_span(page))
        under_way = (self.target_pages(frame.span) for frame in self.frames.values())
        return target_pages.isdisjoint(self.missing.union(*under_way))

    def received_bytes(self, page: PageId) -> int:
        """Count the bytes of a page that are here."""
        span = self.geometry.page_span(page)
        bytes_here = span.length
        if self.missing is not None:
            bytes_here -= BASE * len(self.target_pages(span) & self.missing)
        for frame in self.frames.values():
            if frame.span.block == page.block:
                left = frame.unreceived()
                bytes_here -= len(range(max(left.start, span.offset), min(left.stop, span.end)))
        return bytes_here

    def incomplete(self, block: int) -> list[Span]:
        """Return the pages of a block that are not whole, neighbours put together."""
        page_bytes = self.geometry.blocks[block].page_bytes
        spans: list[Span] = []
        for page in self.pages:
            if page.block != block or self.is_whole(page):
                continue
            offset = page.index * page_bytes
            if spans and spans[-1].end == offset:
                offset, length = spans[-1].offset, spans.pop().length + page_bytes
                spans.append(Span(block, offset, length))
            else:
                spans.append(Span(block, offset, page_bytes))
        return spans

    def pages_of(self, span: Span) -> list[PageId]:
        """Return the pages that a span touches."""
        page_bytes = self.geometry.blocks[span.block].page_bytes
        last = (span.end - 1) // page_bytes
        return [PageId(span.block, i) for i in range(span.offset // page_bytes, last + 1)]

    def target_pages(self, span: Span) -> set[tuple[int, int]]:
        """Return the target pages of a span."""
        return {(span.block, offset // BASE) for offset in range(span.offset, span.end, BASE)}


class AssemblyMachine(RuleBasedStateMachine):
    """Does to the assembly and to the model what a source can do, correct or not."""

    @initialize(geometry=st.sampled_from(GEOMETRIES))
    def start(self, geometry: Geometry) -> None:
        """Make a guest."""
        self.geometry = geometry
        self.assembly = Assembly(geometry)
        self.model = Model(geometry)

    @rule(seed=st.integers(0, 1 << 32))
    def discard(self, seed: int) -> None:
        """Discard target pages, inside the guest or not, before the switch-over or after."""
        chance = Random(seed)
        block = chance.randrange(len(self.geometry.blocks) + (chance.random() < 0.1))
        room = self.geometry.blocks[block % len(self.geometry.blocks)].target_page_count
        first = chance.randrange(room)
        count = chance.choice([0, 1, 7, 8, room, room - first, chance.randrange(1, room + 1)])
        share = chance.choice([0.8, 1.0])
        flags = np.array([chance.random() < share for _ in range(count)], dtype=np.bool_)
        bits = np.packbits(flags, bitorder="little").tobytes() + b"\0" * (chance.random() < 0.1)
        allowed = (
            self.model.missing is None
            and block < len(self.geometry.blocks)
            and 0 < count <= room - first
            and len(bits) == -(-count // 8)
        )
        if allowed:
            self.assembly.discard(block, first, count, bits)
            self.model.stale |= {(block, first + int(i)) for i in np.flatnonzero(flags)}
        else:
            with pytest.raises(RemoteProtocolError):
                self.assembly.discard(block, first, count, bits)

    @rule()
    def start_postcopy(self) -> None:
        """Switch over, unless that was done or a frame is under way."""
        if self.model.missing is not None or self.model.frames:
            with pytest.raises(LocalProtocolError):
                self.assembly.start_postcopy()
            return
        self.assembly.start_postcopy()
        self.model.missing = self.model.stale

    @rule(channel=st.sampled_from(Channel), seed=st.integers(0, 1 << 32))
    def begin(self, channel: Channel, seed: int) -> None:
        """Begin a frame, correct or hostile."""
        self.begin_span(channel, self.some_span(Random(seed)))

    def begin_span(self, channel: Channel, span: Span) -> None:
        """Begin a frame on both, if the channel is free and a correct source could send it."""
        if channel in self.model.frames:
            with pytest.raises(LocalProtocolError):
                self.assembly.begin(channel, span)
        elif self.model.is_admissible(channel, span):
            self.assembly.begin(channel, span)
            self.model.begin(channel, span)
        else:
            with pytest.raises(RemoteProtocolError):
                self.assembly.begin(channel, span)

    def some_span(self, chance: Random) -> Span:
        """Return a span that often is missing, sometimes is off by a little, or is anything."""
        if self.model.missing and chance.random() < 0.7:
            block, first = chance.choice(sorted(self.model.missing))
            per_page = self.geometry.blocks[block].target_pages_per_page
            room = per_page - first % per_page if per_page > 1 else 6
            # Now and then across the border of two pages.
            room += per_page * (chance.random() < 0.4)
            count = 0
            while count < room and (block, first + count) in self.model.missing:
                count += 1
            count = chance.choice([count, count, (count + 1) // 2, 1])
            off = chance.choice([0] * 9 + [1, -1, 512])
            return Span(block, first * BASE + off * chance.choice([1, BASE]), count * BASE)
        blocks = self.geometry.blocks
        block = chance.randrange(-1, len(blocks) + 1)
        length = blocks[block % len(blocks)].length_bytes
        unit = chance.choice([1, BASE, BASE, BASE])
        offset = chance.randrange(-unit, length + unit, unit)
        return Span(block, offset, unit * chance.randrange(-1, 1 + (length - offset) // unit + 2))

    @precondition(lambda self: self.model.frames)
    @rule(seed=st.integers(0, 1 << 32))
    def go_on(self, seed: int) -> None:
        """Have some bytes of a frame come, or a frame end; both may be too early or too late."""
        chance = Random(seed)
        channel = chance.choice(sorted(self.model.frames, key=lambda channel: channel.value))
        frame = self.model.frames[channel]
        left = frame.span.length - frame.received
        if chance.random() < 0.5:
            count = chance.choice([0, 1, left, left, left + 1, -1, chance.randint(0, left)])
            if 0 <= count <= left:
                self.assembly.progress(channel, count)
                frame.received += count
            else:
                with pytest.raises(LocalProtocolError):
                    self.assembly.progress(channel, count)
        elif not frame.received or not left:
            assert self.assembly.end(channel) == self.model.end(channel)
        else:
            with pytest.raises(LocalProtocolError):
                self.assembly.end(channel)

    @rule(channel=st.sampled_from(Channel))
    def go_on_without_a_frame(self, channel: Channel) -> None:
        """Have bytes come, or a frame end, where there is none."""
        if channel in self.model.frames:
            return
        with pytest.raises(LocalProtocolError):
            self.assembly.progress(channel, 0)
        with pytest.raises(LocalProtocolError):
            self.assembly.end(channel)

    @rule(seed=st.integers(0, 1 << 32), count=st.integers(5, 25))
    def stream(self, seed: int, count: int) -> None:
        """Have frames come for a while, some of them hostile."""
        chance = Random(seed)
        for _ in range(count):
            channel = chance.choice(list(Channel))
            if channel in self.model.frames:
                self.go_on(chance.randrange(1 << 32))
            else:
                self.begin_span(channel, self.some_span(chance))
            self.agrees_with_the_model()

    @invariant()
    def agrees_with_the_model(self) -> None:
        """What the assembly shows is what the model has; so a refusal has changed nothing."""
        if not hasattr(self, "model"):
            return
        assembly, model = self.assembly, self.model
        assert assembly.in_postcopy == (model.missing is not None)
        assert assembly.missing_bytes == BASE * len(model.missing or ())
        assert assembly.complete == (not model.missing and not model.frames)
        for channel, counts in assembly.counts.items():
            assert (counts.target_pages, counts.data_bytes) == model.counts[channel]
        for page in model.pages:
            assert assembly.is_placed(page) == model.is_whole(page)
            assert assembly.channel_of(page) == model.owner.get(page)
            assert assembly.received_bytes(page) == model.received_bytes(page)
        for block in range(len(self.geometry.blocks)):
            expected = model.incomplete(block)
            assert list(assembly.incomplete_pages(block)) == expected

    def teardown(self) -> None:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Have all that is missing come, in frames that the model admits: the guest is whole."""
        if not hasattr(self, "model"):
            return
        for channel, frame in list(self.model.frames.items()):
            left = frame.span.length - frame.received
            self.assembly.progress(channel, left)
            frame.received += left
            assert self.assembly.end(channel) == self.model.end(channel)
        for block, target_page in sorted(self.model.missing or ()):
            span = Span(block, target_page * BASE, BASE)
            channel = self.model.owner.get(self.model.pages_of(span)[0], Channel.PRECOPY)
            self.begin_span(channel, span)
            assert self.assembly.end(channel) == self.model.end(channel)
        self.agrees_with_the_model()
        assert self.assembly.complete
        assert not self.model.owner


def test_the_assembly_takes_and_refuses_what_the_model_does() -> None:
    """Whatever a source sends, the assembly does what the model does or raises, unchanged."""
    run_state_machine_as_test(
        AssemblyMachine, settings=settings(max_examples=40, stateful_step_count=20)
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_long_streams_with_hostile_frames_do_not_confuse_the_assembly(geometry: Geometry) -> None:
    """Through hundreds of frames over both channels, hostile ones among them, the two agree."""
    machine = AssemblyMachine()
    machine.start(geometry)
    for seed in range(12):
        machine.discard(seed)
    machine.stream(1, 40)
    machine.teardown()
    machine.start_postcopy()
    for seed in range(6):
        machine.stream(seed, 40)
    machine.teardown()
