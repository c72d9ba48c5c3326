"""The assembly against a naive model, fed by a source that may be hostile.

The model keeps each missing target page in a plain set and counts everything anew each time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
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

from dest.assembly import Assembly
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.policy import HalfSent, Policy, preset
from protocol.runs import Flags, Runs, Stretch, hull_of

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

    span: Stretch
    # The target pages that bytes come of, in their order.
    data: list[tuple[int, int]]
    received: int = 0
    waste: bool = False
    # What was placed before the frame's end.
    early: set[tuple[int, int]] = field(default_factory=set)
    # What came over the other channel.
    late: set[tuple[int, int]] = field(default_factory=set)

    @property
    def open(self) -> frozenset[tuple[int, int]]:
        """What waits for the frame's end to be placed."""
        return target_pages_of(self.span) - self.early - self.late

    @property
    def left(self) -> int:
        """How many bytes have not come."""
        return len(self.data) * BASE - self.received

    def unreceived_in(self, page: Span) -> int:
        """Count the bytes of a page that have not come."""
        left = [max(0, min(BASE, (at + 1) * BASE - self.received)) for at in range(len(self.data))]
        inside = target_pages_of(page) - self.late
        return sum(each for each, at in zip(left, self.data, strict=True) if at in inside)


class Model:
    """What a destination may take, as one would check it with paper and pencil."""

    def __init__(self, geometry: Geometry, policy: Policy) -> None:
        """Start in precopy."""
        self.geometry = geometry
        self.policy = policy
        self.resends = policy.half_sent is HalfSent.RESEND
        # Where pages may come again: what may come over each channel.
        self.due: dict[Channel, set[tuple[int, int]]] = {}
        # Where single target pages may: those that came over the postcopy channel, and over both.
        self.by_postcopy: set[tuple[int, int]] = set()
        self.twice: set[tuple[int, int]] = set()
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
        # What is placed at once.
        self.units = [
            PageId(number, index)
            for number, block in enumerate(geometry.blocks)
            for index in range(block.length_bytes // self.unit_bytes(number))
        ]

    def unit_bytes(self, block: int) -> int:
        """Return the size of what is placed at once in a block."""
        return BASE if self.policy.critical else self.geometry.blocks[block].page_bytes

    def unit_span(self, unit: PageId) -> Span:
        """Return the bytes of what is placed at once."""
        unit_bytes = self.unit_bytes(unit.block)
        return Span(unit.block, unit.index * unit_bytes, unit_bytes)

    def start_postcopy(self) -> None:
        """Miss what is stale."""
        self.missing = self.stale
        self.stale_at_start = frozenset(self.stale)
        self.due = {channel: set(self.stale) for channel in Channel}

    def is_admissible(self, channel: Channel, span: Stretch) -> bool:
        """Tell whether a correct source could send this now."""
        inside = (
            0 <= span.block < len(self.geometry.blocks)
            and 0 <= span.offset < span.end <= self.geometry.blocks[span.block].length_bytes
            and (span.offset % BASE, span.length % BASE) == (0, 0)
        )
        if self.missing is None or not inside:
            return inside and channel is Channel.PRECOPY
        if self.geometry.blocks[span.block].page_bytes == BASE:
            return self.may_come(channel, span)
        touched = self.pages_of(span)
        if len(touched) > 1:
            return False
        if self.policy.mixes_channels:
            return self.may_come(channel, span)
        if self.resends:
            return target_pages_of(span) <= self.due[channel]
        bound = self.owner.get(touched[0], channel) is channel
        return target_pages_of(span) <= self.missing and bound

    def may_come(self, channel: Channel, span: Stretch) -> bool:
        """Tell whether target pages may come that no channel has for itself."""
        assert self.missing is not None
        again = target_pages_of(span) - self.missing
        if not again or not self.policy.overtakes:
            return not again
        if channel is Channel.PRECOPY:
            return again <= self.by_postcopy - self.twice
        return len(target_pages_of(span)) == 1 and again.isdisjoint(self.by_postcopy | self.twice)

    def begin(self, channel: Channel, span: Stretch, zeros: Iterable[Span]) -> None:
        """Let an admissible frame begin."""
        zero_pages = frozenset[tuple[int, int]]().union(*map(target_pages_of, zeros))
        frame = Frame(span, sorted(target_pages_of(span) - zero_pages))
        if self.missing is not None:
            if self.geometry.blocks[span.block].page_bytes != BASE:
                frame.waste = self.begin_huge(channel, self.pages_of(span)[0])
            self.due[channel] -= target_pages_of(span)
            if self.policy.overtakes:
                again = target_pages_of(span) - self.missing
                self.twice |= again
                if channel is Channel.POSTCOPY:
                    self.by_postcopy |= target_pages_of(span) - again
                frame.late = set(again)
                frame.waste = again == target_pages_of(span)
            if not frame.waste:
                self.missing -= target_pages_of(span)
        self.frames[channel] = frame

    def begin_huge(self, channel: Channel, page: PageId) -> bool:
        """Bind a page to its channel; return whether it comes for nothing."""
        if self.policy.mixes_channels:
            return False
        if self.is_whole(self.geometry.page_span(page)):
            return True
        owner = self.owner.setdefault(page, channel)
        if owner is channel:
            return False
        if channel is Channel.PRECOPY:
            return True
        # It begins anew.
        assert self.missing is not None
        self.missing |= target_pages_of(self.geometry.page_span(page)) & self.stale_at_start
        for frame in self.frames.values():
            frame.waste = frame.waste or page in self.pages_of(frame.span)
        self.owner[page] = channel
        return False

    def end(self, channel: Channel) -> Stretch | None:
        """Let a frame end; return what is whole then."""
        frame = self.frames.pop(channel)
        target_pages, data_bytes = self.counts[channel]
        self.counts[channel] = (
            target_pages + frame.span.length // BASE,
            data_bytes + frame.received,
        )
        if self.missing is None:
            return None
        if frame.waste:
            return self.overtaken_by(frame) if channel is Channel.POSTCOPY else None
        if self.unit_bytes(frame.span.block) == BASE:
            placed = frame.early | frame.late
            if not placed or not frame.open:
                return None if placed else frame.span
            return Runs.of_target_pages(
                frame.span.block, np.array(sorted(page for _, page in frame.open))
            )
        page = self.pages_of(frame.span)[0]
        if not self.is_whole(self.geometry.page_span(page)):
            return None
        self.owner.pop(page, None)
        return self.geometry.page_span(page)

    def overtaken_by(self, copy: Frame) -> Stretch | None:
        """Let a copy count that ends before the frame brings the target page that began with it."""
        for frame in self.frames.values():
            if copy.late and not frame.waste and copy.late <= frame.open:
                frame.late |= copy.late
                return hull_of(copy.span)
        return None

    def is_whole(self, span: Span) -> bool:
        """Tell whether nothing of a stretch is missing or under way, which never is in precopy."""
        if self.missing is None:
            return True
        target_pages = target_pages_of(span)
        under_way = (frame.open for frame in self.frames.values() if not frame.waste)
        return target_pages.isdisjoint(self.missing) and all(
            map(target_pages.isdisjoint, under_way)
        )

    def take_early(self, unit: PageId) -> Channel | None:
        """Take a unit whose bytes are here for whole, though its frame's are not; say whose."""
        if self.missing is None or self.resends or self.unit_bytes(unit.block) != BASE:
            return None
        for channel, frame in self.frames.items():
            come = frame.data[: frame.received // BASE]
            here = target_pages_of(frame.span) - set(frame.data[len(come) :]) - frame.late
            if frame.left and not frame.waste and frame.data and (unit.block, unit.index) in here:
                frame.early.add((unit.block, unit.index))
                return channel
        return None

    def received_bytes(self, page: PageId) -> int:
        """Count the bytes of a page that are here."""
        span = self.geometry.page_span(page)
        bytes_here = span.length
        if self.missing is not None:
            bytes_here -= BASE * len(target_pages_of(span) & self.missing)
        for frame in self.frames.values():
            if not frame.waste:
                bytes_here -= frame.unreceived_in(span)
        return bytes_here

    def incomplete(self, block: int) -> list[Span]:
        """Return the units of a block that are not whole, neighbours put together."""
        spans: list[Span] = []
        under_way = (frame.open for frame in self.frames.values() if not frame.waste)
        wanted = (self.missing or set()).union(*under_way)
        for unit in self.units if self.missing is not None else ():
            span = self.unit_span(unit)
            if unit.block != block or target_pages_of(span).isdisjoint(wanted):
                continue
            if spans and spans[-1].end == span.offset:
                before = spans.pop()
                span = Span(block, before.offset, before.length + span.length)
            spans.append(span)
        return spans

    def pages_of(self, span: Stretch) -> list[PageId]:
        """Return the pages that a span touches."""
        page_bytes = self.geometry.blocks[span.block].page_bytes
        last = (span.end - 1) // page_bytes
        return [PageId(span.block, i) for i in range(span.offset // page_bytes, last + 1)]


@lru_cache(maxsize=1000)
def target_pages_of(stretch: Stretch) -> frozenset[tuple[int, int]]:
    """Return the target pages of a stretch."""
    spans = [stretch] if isinstance(stretch, Span) else stretch.spans()
    return frozenset(
        (span.block, offset // BASE)
        for span in spans
        for offset in range(span.offset, span.end, BASE)
    )


class AssemblyMachine(RuleBasedStateMachine):
    """Does to the assembly and to the model what a source can do, correct or not."""

    policy: ClassVar[Policy]

    @initialize(geometry=st.sampled_from(GEOMETRIES))
    def start(self, geometry: Geometry) -> None:
        """Make a guest."""
        self.geometry = geometry
        self.assembly = Assembly(geometry, self.policy)
        self.model = Model(geometry, self.policy)

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
        self.model.start_postcopy()

    @rule(channel=st.sampled_from(Channel), seed=st.integers(0, 1 << 32))
    def begin(self, channel: Channel, seed: int) -> None:
        """Begin a frame, correct or hostile."""
        self.begin_span(channel, self.some_span(Random(seed)))

    @rule(channel=st.sampled_from(Channel), seed=st.integers(0, 1 << 32))
    def begin_runs(self, channel: Channel, seed: int) -> None:
        """Begin a frame of scattered runs, some of them zero, correct or hostile."""
        chance = Random(seed)
        runs = self.some_runs(chance)
        zeros = np.array([chance.random() < 0.4 for _ in range(len(runs))], dtype=np.bool_)
        self.begin_span(channel, runs, zeros)

    def begin_span(self, channel: Channel, span: Stretch, is_zero: Flags | None = None) -> None:
        """Begin a frame on both, if the channel is free and a correct source could send it."""
        if channel in self.model.frames:
            with pytest.raises(LocalProtocolError):
                self.assembly.begin(channel, span, is_zero)
        elif self.model.is_admissible(channel, span):
            self.assembly.begin(channel, span, is_zero)
            spans = [] if isinstance(span, Span) else list(span.spans())
            flags = [] if is_zero is None else is_zero.tolist()
            zeros = [each for each, zero in zip(spans, flags, strict=True) if zero]
            self.model.begin(channel, span, zeros)
        else:
            with pytest.raises(RemoteProtocolError):
                self.assembly.begin(channel, span, is_zero)

    def some_runs(self, chance: Random) -> Runs:
        """Return runs that often are all missing, and of one page, or have something wrong."""
        wanted = self.model.missing
        if self.model.resends and self.model.due and chance.random() < 0.5:
            wanted = chance.choice([self.model.due[channel] for channel in Channel])
        wanted = self.some_again(chance) or wanted
        blocks = self.geometry.blocks
        if wanted and chance.random() < 0.8:
            block, first = chance.choice(sorted(wanted))
            per_page = blocks[block].target_pages_per_page
            near = range(first, first + max(20, per_page * (chance.random() < 0.9)))
            end = first - first % per_page + per_page if per_page > 1 else first + 20
            room = [each for each in near if (block, each) in wanted]
            if chance.random() < 0.9:
                room = [each for each in room if each < end]
        else:
            block = chance.randrange(len(blocks))
            room = list(range(blocks[block].target_page_count + (chance.random() < 0.2)))
        chosen = sorted(chance.sample(room, min(len(room), chance.choice([1, 3, 12, 100]))))
        if chance.random() < 0.1:
            chosen = sorted({*chosen, chosen[0] + chance.choice([1, 2, 600])})
        block += len(blocks) * (chance.random() < 0.03)
        return Runs.of_target_pages(block, np.array(chosen))

    def some_again(self, chance: Random) -> set[tuple[int, int]]:
        """Return what may come again where the policy overtakes, with what is missing; or nothing.

        Most of it is under way.
        """
        model = self.model
        if not model.policy.overtakes or model.missing is None or chance.random() < 0.5:
            return set()
        under_way = [set(target_pages_of(frame.span)) for frame in model.frames.values()]
        if under_way and chance.random() < 0.7:
            return set().union(*under_way)
        return model.missing | model.by_postcopy

    def some_span(self, chance: Random) -> Span:
        """Return a span that often is missing, sometimes is off by a little, or is anything."""
        wanted = self.model.missing
        if self.model.resends and self.model.due and chance.random() < 0.5:
            # Also what came over the other channel.
            wanted = chance.choice([self.model.due[channel] for channel in Channel])
        if (again := self.some_again(chance)) and chance.random() < 0.7:
            block, first = chance.choice(sorted(again))
            return Span(block, first * BASE, BASE * chance.choice([1, 1, 1, 2]))
        if wanted and chance.random() < 0.7:
            block, first = chance.choice(sorted(wanted))
            per_page = self.geometry.blocks[block].target_pages_per_page
            room = per_page - first % per_page if per_page > 1 else 6
            # Now and then across the border of two pages.
            room += per_page * (chance.random() < 0.4)
            count = 0
            while count < room and (block, first + count) in wanted:
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
        left = frame.left
        if chance.random() < 0.5:
            count = chance.choice([0, 1, left, left, left + 1, -1, chance.randint(0, left)])
            if 0 <= count <= left:
                self.assembly.progress(channel, count)
                frame.received += count
            else:
                with pytest.raises(LocalProtocolError):
                    self.assembly.progress(channel, count)
        elif not left or (not frame.received and isinstance(frame.span, Span)):
            assert self.assembly.end(channel) == self.model.end(channel)
        else:
            with pytest.raises(LocalProtocolError):
                self.assembly.end(channel)

    @precondition(lambda self: self.model.frames)
    @rule(seed=st.integers(0, 1 << 32))
    def take_early(self, seed: int) -> None:
        """Have vCPUs wait for units of frames under way, which are here or not."""
        chance = Random(seed)
        channel, frame = chance.choice(list(self.model.frames.items()))
        near = sorted(target_pages_of(frame.span))
        for block, index in chance.sample(near, min(len(near), 3)):
            unit = PageId(block, index // (self.model.unit_bytes(block) // BASE))
            expected = self.model.take_early(unit)
            come = self.assembly.come_early(channel, [unit])
            assert come == ([unit] if expected is channel else [])
            assert self.assembly.take_early(unit) is expected

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
                again = self.take_early if chance.random() < 0.3 else self.go_on
                again(chance.randrange(1 << 32))
            else:
                (self.begin_runs if chance.random() < 0.5 else self.begin)(
                    channel, chance.getrandbits(32)
                )
            self.agrees_with_the_model(chance)

    @invariant()
    def agrees_with_the_model(self, chance: Random | None = None) -> None:
        """What the assembly shows is what the model has; so a refusal has changed nothing.

        Args:
            chance: Picks a few of many units to look at; all if there is none.
        """
        if not hasattr(self, "model"):
            return
        assembly, model = self.assembly, self.model
        assert assembly.in_postcopy == (model.missing is not None)
        assert assembly.missing_bytes == BASE * len(model.missing or ())
        assert assembly.complete == (not model.missing and not model.frames)
        for channel, counts in assembly.counts.items():
            assert (counts.target_pages, counts.data_bytes) == model.counts[channel]
        for channel, frame in model.frames.items():
            assert assembly.is_waste(channel) == frame.waste
        for unit in chance.sample(model.units, min(len(model.units), 10)) if chance else ():
            assert assembly.is_placed(unit) == model.is_whole(model.unit_span(unit))
        for page in model.pages:
            span = self.geometry.page_span(page)
            assert assembly.is_whole(span) == model.is_whole(span)
            assert assembly.channel_of(page) == model.owner.get(page)
            assert assembly.received_bytes(page) == model.received_bytes(page)
        if chance is None or chance.random() < 0.1:
            for block in range(len(self.geometry.blocks)):
                assert list(assembly.incomplete_pages(block)) == model.incomplete(block)

    def teardown(self) -> None:  # type: ignore[explicit-override] # typing.override: from 3.12
        """Have all that is missing come, in frames that the model admits: the guest is whole."""
        if not hasattr(self, "model"):
            return
        for channel, frame in list(self.model.frames.items()):
            left = frame.left
            self.assembly.progress(channel, left)
            frame.received += left
            assert self.assembly.end(channel) == self.model.end(channel)
        while self.model.missing:
            block, target_page = min(self.model.missing)
            span = Span(block, target_page * BASE, BASE)
            channel = self.model.owner.get(self.model.pages_of(span)[0], Channel.PRECOPY)
            self.begin_span(channel, span)
            assert self.assembly.end(channel) == self.model.end(channel)
        self.agrees_with_the_model()
        assert self.assembly.complete
        assert not self.model.owner


BY_POLICY = pytest.mark.parametrize("name", ["ordered", "resend", "split", "critical-first"])


def machine_of(name: str) -> type[AssemblyMachine]:
    """Return the machine of a policy."""

    class Machine(AssemblyMachine):
        policy = preset(name)

    return Machine


@BY_POLICY
def test_the_assembly_takes_and_refuses_what_the_model_does(name: str) -> None:
    """Whatever a source sends, the assembly does what the model does or raises, unchanged."""
    run_state_machine_as_test(
        machine_of(name), settings=settings(max_examples=8, stateful_step_count=20)
    )


@BY_POLICY
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_long_streams_with_hostile_frames_do_not_confuse_the_assembly(
    geometry: Geometry, name: str
) -> None:
    """Through hundreds of frames over both channels, hostile ones among them, the two agree."""
    machine = machine_of(name)()
    machine.start(geometry)
    for seed in range(12):
        machine.discard(seed)
    machine.stream(1, 40)
    machine.teardown()
    machine.start_postcopy()
    for seed in range(6):
        machine.stream(seed, 40)
    machine.teardown()
