"""The scheduler and the assembly with a wire between them that breaks and lies, against plain sets.

Whatever is sent, asked for, delivered, changed and broken in whichever order: every target page
arrives, no byte that the destination holds is sent again, and each is placed once.
"""

from collections import deque
from dataclasses import dataclass
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
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.messages import Standing
from protocol.missing import HeldParts, MissingReader, held_parts, missing_maps
from protocol.pageset import PageSet
from protocol.policy import PRESETS, HalfSent, Policy
from protocol.runs import Stretch, overlap
from source.jobs import Chunk, Lane
from source.resumption import Lacking, lost_bytes
from source.scheduler import Scheduler

BASE, HUGE = TARGET_PAGE_BYTES, 2 << 20
GEOMETRY = Geometry((RamBlock("huge", 3 * HUGE, HUGE), RamBlock("base", 40 * BASE, BASE)))
CHUNK_BYTES = 64 * BASE
STEPS_MAX = 5000

shares = st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.999, 1.0])


@dataclass
class Frame:
    """A frame on its way: how many of its bytes the socket took, how many came, whether changed.

    It is the rest of a target page where that is held in part.
    """

    chunk: Chunk
    sent: int = 0
    come: int = 0
    changed: bool = False
    held: int = 0

    @property
    def length(self) -> int:
        """Its bytes."""
        return self.chunk.span.length - self.held

    def target_pages(self) -> list[tuple[int, int]]:
        """Return (block, index) of its target pages, in the order in which they come."""
        block = self.chunk.span.block
        return [(block, int(index)) for index in np.r_[self.chunk.span.target_pages]]


class Machine(RuleBasedStateMachine):
    """One guest on its way."""

    policy: ClassVar[Policy]

    @initialize()
    def begin(self) -> None:
        """Hand the guest over, all of it missing."""
        handed_over = PageSet(GEOMETRY)
        handed_over.fill()
        self.handed_over = handed_over
        self.scheduler = Scheduler(GEOMETRY, self.policy, CHUNK_BYTES)
        self.scheduler.add(handed_over, postcopy=True)
        self.assembly = Assembly(GEOMETRY, self.policy)
        for block, first, count, bits in handed_over.bitmaps(1 << 20):
            self.assembly.discard(block, first, count, bits)
        self.assembly.start_postcopy()
        self.resends = self.policy.half_sent is HalfSent.RESEND
        self.everything = {
            (number, index)
            for number, block in enumerate(GEOMETRY.blocks)
            for index in range(block.target_page_count)
        }
        self.held: set[tuple[int, int]] = set()
        self.placed: set[tuple[int, int]] = set()
        self.asked: dict[tuple[int, int], None] = {}
        self.out: dict[Lane, Chunk] = {}
        self.open: dict[Channel, Frame] = {}
        self.wire: dict[Channel, deque[Frame]] = {channel: deque() for channel in Channel}
        # What came changed, on its way back.
        self.refused: deque[Stretch] = deque()
        # How many bytes of target pages are there that are not there whole.
        self.parts: HeldParts = {}

    @rule(lane=st.integers(0, 1), share=shares)
    def send(self, lane: int, share: float) -> None:
        """Hand a share of the next frame, or of one that is open, to the socket."""
        self._send(self.scheduler.lanes[lane % len(self.scheduler.lanes)], share)

    def _send(self, lane: Lane, share: float) -> bool:
        if lane not in self.out:
            chunk = self.scheduler.next_chunk(lane)
            if chunk is None:
                return False
            self.out[lane] = chunk
        chunk = self.out[lane]
        frame = self.open.get(chunk.channel)
        if frame is None:
            frame = self.open[chunk.channel] = Frame(chunk)
            self.wire[chunk.channel].append(frame)
            if not self.resends:
                again = self.held & set(frame.target_pages())
                assert not again, f"{len(again)} target pages that are held go again"
        frame.sent += int((frame.length - frame.sent) * share)
        if frame.sent == frame.length:
            del self.open[chunk.channel], self.out[lane]
            self.scheduler.chunk_sent(lane)
        else:
            self._preempt()
        return True

    def _preempt(self) -> None:
        if Lane.ALL in self.out and self.scheduler.wants_preemption:
            chunk = self.out.pop(Lane.ALL)
            frame = self.open[chunk.channel]
            self.scheduler.chunk_interrupted(begun=frame.sent > 0)
            if not frame.sent:
                del self.open[chunk.channel]
                self.wire[chunk.channel].remove(frame)

    @precondition(lambda self: self.everything - self.held)
    @rule(number=st.integers(0, 10_000))
    def touch(self, number: int) -> None:
        """Have a vCPU touch what is not placed; it asks once."""
        waiting = sorted(self.everything - self.placed)
        if waiting:
            self._ask(waiting[number % len(waiting)])

    def _ask(self, target_page: tuple[int, int]) -> None:
        block, index = target_page
        page = GEOMETRY.page_of(block, index)
        per_page = GEOMETRY.blocks[block].target_pages_per_page
        self.asked[target_page] = None
        self.scheduler.request(PageId(block, page.index), index % per_page, 0)
        self._preempt()

    @rule(channel=st.sampled_from(Channel), share=shares)
    def deliver(self, channel: Channel, share: float) -> None:
        """Let a share of what is on a channel's wire arrive."""
        due = int(sum(frame.sent - frame.come for frame in self.wire[channel]) * share)
        while due > 0 and self.wire[channel]:
            frame = self.wire[channel][0]
            count = min(due, frame.sent - frame.come)
            if not count:
                return
            self._arrive(channel, frame, count)
            due -= count

    def _arrive(self, channel: Channel, frame: Frame, count: int) -> None:
        if not frame.come:
            self._begin(channel, frame)
        self.assembly.progress(channel, count)
        frame.come += count
        self._hold(frame)
        if frame.come < frame.length:
            return
        self.wire[channel].popleft()
        if frame.changed:
            self._refuse(channel)
        elif (span := self.assembly.end(channel)) is not None:
            self._place(span)

    def _begin(self, channel: Channel, frame: Frame) -> None:
        if frame.held:
            del self.parts[frame.target_pages()[0]]
            offset = frame.chunk.span.offset + frame.held
            self.assembly.begin_rest(channel, frame.chunk.span.block, offset, frame.length)
        else:
            self.assembly.begin(channel, frame.chunk.span)

    def _refuse(self, channel: Channel) -> None:
        whole, again = self.assembly.refuse(channel)
        assert whole == [], "these frames name no zeros"
        if again is not None:
            self.held -= {(again.block, int(index)) for index in again.target_pages}
            self.refused.append(again)

    @rule(channel=st.sampled_from(Channel), which=st.integers(0, 3))
    def change(self, channel: Channel, which: int) -> None:
        """Have a byte change of one of the frames on a wire."""
        for frame in list(self.wire[channel])[which : which + 1]:
            # With checksums nothing is held that was not compared.
            frame.changed = not frame.held

    @rule()
    def hear(self) -> None:
        """Have the source hear what came changed, and asked for once more who waits for that."""
        while self.refused:
            again = self.refused.popleft()
            self.scheduler.send_again(again)
            for block, index in list(self.asked):
                unit = self.assembly.units.page_of(block, index)
                if overlap(again, self.assembly.units.page_span(unit)):
                    self._ask((block, index))

    def _hold(self, frame: Frame) -> None:
        self.held.update(frame.target_pages()[: _there(frame)[0]])

    def _place(self, span: Stretch) -> None:
        pages = {(span.block, int(index)) for index in np.r_[span.target_pages]}
        if not self.resends:
            assert pages <= self.held
        assert not pages & self.placed, "a unit was placed twice"
        self.placed |= pages
        for page in pages & self.asked.keys():
            del self.asked[page]

    @rule()
    def break_(self) -> None:
        """Lose both connections with all that is on them, and recover."""
        for frames in self.wire.values():
            if frames and frames[0].come:
                whole_count, held_bytes = _there(frames[0])
                if held_bytes:
                    self.parts[frames[0].target_pages()[whole_count]] = held_bytes
            frames.clear()
        self.open.clear()
        self.out.clear()
        self.refused.clear()
        for span in self.assembly.interrupt():
            self._place(span)
        reader = MissingReader(GEOMETRY)
        for message, payload in missing_maps(self.assembly.missing()):
            reader.add(message, payload)
        count = len(self.assembly.missing())
        standing = Standing(
            running=True, target_pages=count, dropped_bytes=self.assembly.dropped_bytes
        )
        for part in held_parts(self.assembly.held_parts):
            reader.add_part(part)
        lacking = Lacking(reader.finish(standing), reader.held)
        remaining = self.scheduler.remaining
        lost_bytes(self.handed_over, remaining, {}, lacking, goes_twice=self.resends)
        if not self.resends:
            assert count == len(self.everything - self.held)
            assert lacking.held == self.parts
            assert not self.assembly.dropped_bytes
        self.scheduler.begin_again(lacking.untouched())
        self._send_rests(lacking.held)
        for target_page in list(self.asked):
            self._ask(target_page)

    def _send_rests(self, held: HeldParts) -> None:
        for (block, index), held_bytes in held.items():
            span = Span(block, index * BASE, BASE)
            page = GEOMETRY.page_of(block, index)
            chunk = Chunk(span, page, Channel.PRECOPY, False, False, None)
            self.wire[Channel.PRECOPY].append(Frame(chunk, sent=BASE - held_bytes, held=held_bytes))

    @invariant()
    def a_placed_page_is_whole(self) -> None:
        """What is placed is never missing again."""
        if hasattr(self, "placed") and not self.resends:
            assert self.placed <= self.held

    def teardown(self) -> None:  # type: ignore[explicit-override]
        """Send and deliver the rest: everything arrives."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(STEPS_MAX):
            went = [self._send(lane, 1.0) for lane in self.scheduler.lanes]
            for channel in Channel:
                self.deliver(channel, 1.0)
            self.hear()
            if not any(went) and not any(self.wire.values()) and not self.scheduler.remaining_bytes:
                break
        assert self.scheduler.remaining_bytes == 0
        assert self.assembly.complete
        assert self.placed == self.everything
        assert not self.asked


def _there(frame: Frame) -> tuple[int, int]:
    """Return how many target pages of a frame are there whole, and the bytes of the next."""
    return divmod(frame.held + frame.come, TARGET_PAGE_BYTES)


@pytest.mark.parametrize("policy", PRESETS.values(), ids=PRESETS)
def test_everything_arrives_through_any_breaks(policy: Policy) -> None:
    """With every policy all memory arrives, each page once, whatever breaks and is changed."""
    machine = type("PolicyMachine", (Machine,), {"policy": policy})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=6, stateful_step_count=30, deadline=None)
    )
