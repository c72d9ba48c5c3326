"""Reads what comes over both connections, in virtual time: frames of pages, and all other messages.

What has come is told to the executor when the destination's processor has come to it, as
`dest.receiver` does.  Each connection has its reader, and the two take turns: what has come over
one does not wait for all that came before it over the other.  A page that somebody waits for may be
placed in the middle of a frame, when the piece of it was read that brings its last byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from dest.channel import gathered_of
from dest.executor import Executor
from dest.trips import Urgent
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.runs import Runs, position_in
from protocol.states import Lifecycle, check_receivable
from scripts.simulate.agenda import Host, goes_on
from scripts.simulate.kernel import HEADS_DIFFER_BYTES, ModelFrame
from scripts.simulate.link import Flow, Link
from source.config import SourceConfig

# What a reader does with a frame: with its head, with its end, or with a message that is no page.
Take: TypeAlias = Callable[["Incoming", ModelFrame], None]


class Incoming:
    """One channel as its reader sees it.

    Attributes:
        frame: The frame of pages that comes now.
        received: How many bytes of its payload were read.
        waiting: What has come, and the reader has not done; the first of it is being done.
        is_busy: The reader does that.
        is_held: It begins with nothing more.
        unread_bytes: How many have come in frames that the reader has not done.
        spare_bytes: How near those came to where the window closes or opens, at the least since
            somebody set this, less what other heads of as many frames could make of that.
    """

    def __init__(self, flow: Flow) -> None:
        """Begin with nothing."""
        self.flow = flow
        self.frame: ModelFrame | None = None
        self.received = 0
        # How many were paid for, those that were read ahead of a turn among them.
        self.paid_bytes = 0
        self.waiting: deque[tuple[Take, ModelFrame]] = deque()
        self.is_busy = False
        self.is_held = False
        self.unread_bytes = 0
        self.spare_bytes = 0
        self.has_ended = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is under way here or at its host."""
        return not (self.flow.left_parts or self.waiting or self.frame or self.is_busy)

    def state(self, now_ns: int, free_at_ns: int) -> Hashable:
        """Return all that matters of it, as seen from now and the flow's end.

        But for how long the heads of frames are that are here: that matters only to the window, and
        only where `spare_bytes` says so.

        Args:
            now_ns: The time.
            free_at_ns: Until when its processor is busy: what came before that is as good as old.
        """
        written = self.flow.written

        def place_of(frame: ModelFrame | None) -> int | None:
            return None if frame is None or frame.is_here else frame.start - written

        return (
            self.received, self.paid_bytes, self.is_busy, self.is_held, self.has_ended,
            self.frame is None, place_of(self.frame),
            *(
                (
                    take.__name__, frame.payload_bytes, place_of(frame),
                    max(frame.came_ns, free_at_ns) - now_ns,
                )
                for take, frame in self.waiting
            ),
        )  # fmt: skip

    def unread(self) -> list[ModelFrame]:
        """Return the frames that are here whole and not done, in their order."""
        return list(dict.fromkeys(frame for _, frame in self.waiting if frame.is_here))


class Reader:
    """The readers of one run's channels.

    Attributes:
        channels: As their readers see them, by their names.
        places_early: Pages may be placed in the middle of a frame.
    """

    def __init__(
        self,
        config: SourceConfig,
        host: Host,
        link: Link,
        executor: Executor,
        lifecycle: Lifecycle,
        on_message: Callable[[Incoming, ModelFrame], None],
    ) -> None:
        """Prepare; nothing has come.

        Args:
            config: How pages come.
            host: What the destination runs on.
            link: What bytes come over.
            executor: What pages are told to.
            lifecycle: For which messages may come when.
            on_message: Takes what brings no pages.
        """
        policy = config.policy
        self.channels: Mapping[Channel, Incoming] = {
            name: Incoming(link.flows[name]) for name in policy.channels
        }
        self.places_early = any(executor.engine.assembly.units.has_base_pages)
        self._executor = executor
        self._engine = executor.engine
        self._gathers = not policy.sends_again
        self._agenda, self._model, self._processor = host.agenda, host.model, host.processor
        self._link = link
        self._lifecycle = lifecycle
        self._message = on_message

    def hold(self, incoming: Incoming) -> None:
        """Read no more of a channel: its reader is busy with what it has read."""
        incoming.is_held = True

    def go_on(self, incoming: Incoming) -> None:
        """Read on, first what came meanwhile."""
        incoming.is_held = False
        self._read_on(incoming)

    def take_pages(
        self, name: Channel, spans: Iterable[Span]
    ) -> Callable[[Callable[[Any], Any]], None]:
        """Receive pages that came whole, each in a frame: the first in the one that comes now.

        Args:
            name: Over which channel.
            spans: The pages, in their order.

        Returns:
            What is to be called, with what `Agenda.shift` is given, when the frames that were under
            way are about the pages that come next.
        """
        incoming, executor = self.channels[name], self._executor
        current, received, paid_bytes = incoming.frame, incoming.received, incoming.paid_bytes
        for number, span in enumerate(spans):
            if number or current is None:
                executor.take_pages(name, span)
            else:
                self._progress(incoming, current, current.payload_bytes)
                executor.end(name)

        def begin(moved: Callable[[Any], Any]) -> None:
            incoming.waiting = deque((take, moved(frame)) for take, frame in incoming.waiting)
            incoming.unread_bytes = sum(frame.length for frame in incoming.unread())
            if current is None:
                return
            frame = moved(current)
            assert frame.chunk is not None
            incoming.frame, incoming.received = frame, 0
            incoming.paid_bytes = paid_bytes
            executor.begin(name, frame.chunk.span)
            self._progress(incoming, frame, received)

        return begin

    def watch(self, units: Iterable[PageId]) -> None:
        """Place units that somebody waits for when their bytes were read."""
        for unit in units:
            for incoming in self.channels.values():
                self._watch(incoming, unit)

    def expect(self, flow: Flow, frame: ModelFrame) -> None:
        """Note a frame of which the first byte is about to leave."""
        incoming, link, begun = self.channels[flow.name], self._link, frame.begun
        head, end = frame.start + frame.head_bytes, frame.start + frame.length
        if frame.chunk is not None:
            link.deliver(flow, head, self._head_comes, incoming, frame, begun)
        link.deliver(flow, end, self._end_comes, incoming, frame, begun)

    @goes_on
    def _head_comes(self, incoming: Incoming, frame: ModelFrame, begun: int) -> None:
        if frame.begun != begun:
            # None of it went after all.
            return
        frame.came_ns = self._agenda.now_ns
        self._came(incoming, self._head, frame)

    @goes_on
    def _end_comes(self, incoming: Incoming, frame: ModelFrame, begun: int) -> None:
        if frame.begun != begun:
            return
        frame.is_here = True
        incoming.unread_bytes += frame.length
        self._heed_window(incoming)
        self._came(incoming, self._message if frame.chunk is None else self._end, frame)

    def _came(self, incoming: Incoming, take: Take, frame: ModelFrame) -> None:
        """Queue something that has come, behind what came before it over its channel."""
        incoming.waiting.append((take, frame))
        self._read_on(incoming)

    def _read_on(self, incoming: Incoming) -> None:
        """Begin with the next thing, unless the reader is busy."""
        if incoming.waiting and not (incoming.is_busy or incoming.is_held):
            incoming.is_busy = True
            self._processor.submit(self._cost_ns(incoming), self._take, incoming)

    @goes_on
    def _take(self, incoming: Incoming) -> None:
        take, frame = incoming.waiting.popleft()
        incoming.is_busy = False
        take(incoming, frame)
        self._read_on(incoming)

    def _cost_ns(self, incoming: Incoming) -> float:
        """Return what the next thing that its reader does takes of the processor."""
        model, (_, frame) = self._model, incoming.waiting[0]
        if frame.chunk is None:
            return model.message_ns + frame.length * model.copy_ns_per_byte
        if incoming.frame is not frame:
            return model.head_ns
        left = frame.payload_bytes - incoming.received
        # What came before was read as it came, as far as nothing else was to be done.
        piece = gathered_of(left, unhurried=False)
        unpaid = frame.payload_bytes - incoming.paid_bytes
        last = min(unpaid, left if piece == 1 or not self._gathers else piece)
        before = (unpaid - last) * model.copy_ns_per_byte
        incoming.paid_bytes = frame.payload_bytes
        cost_ns = model.end_ns + last * model.copy_ns_per_byte
        return cost_ns + self._processor.lag_ns(before, frame.came_ns)

    def _head(self, incoming: Incoming, frame: ModelFrame) -> None:
        chunk, name = frame.chunk, incoming.flow.name
        assert chunk is not None
        span = chunk.span
        check_receivable(self._lifecycle.state, name, frame.message)
        incoming.frame, incoming.received, incoming.paid_bytes = frame, 0, 0
        urgent = None
        if chunk.urgent:
            message: Any = frame.message
            urgent = Urgent(message.queue_us, message.send_us)
        if isinstance(span, Runs):
            self._executor.begin_runs(name, span, np.zeros(len(span), np.bool_), urgent)
        else:
            self._executor.begin(name, span, urgent)
        # What a single one brings is there with the frame's end.
        if self.places_early and span.length > TARGET_PAGE_BYTES:
            first, stop = span.offset // TARGET_PAGE_BYTES, span.end // TARGET_PAGE_BYTES
            for unit in self._engine.faults.requested_pages:
                if first <= unit[1] < stop:
                    self._watch(incoming, unit)

    def _end(self, incoming: Incoming, frame: ModelFrame) -> None:
        self._progress(incoming, frame, frame.payload_bytes)
        incoming.frame = None
        if self._engine.assembly.is_waste(incoming.flow.name):
            self._executor.end_copy(incoming.flow.name, b"")
        else:
            self._executor.end(incoming.flow.name)
        self.was_read(incoming, frame)

    def _progress(self, incoming: Incoming, frame: ModelFrame, received: int) -> None:
        if frame is incoming.frame and received > incoming.received:
            count, incoming.received = received - incoming.received, received
            self._executor.progress(incoming.flow.name, count)

    def was_read(self, incoming: Incoming, frame: ModelFrame) -> None:
        """Say that all of a frame was read."""
        incoming.unread_bytes -= frame.length
        self._heed_window(incoming)

    def _heed_window(self, incoming: Incoming) -> None:
        """Close a connection's window when what nobody has read is too much."""
        over_bytes = incoming.unread_bytes - self._model.receive_buffer_bytes
        # Every frame that waits does so twice, but for one: with its head and with its end.
        unsure_bytes = HEADS_DIFFER_BYTES * (len(incoming.waiting) // 2 + 2)
        incoming.spare_bytes = min(incoming.spare_bytes, abs(over_bytes) - unsure_bytes)
        is_full = over_bytes > 0
        if is_full is not incoming.flow.is_shut:
            self._link.advance()
            incoming.flow.is_shut = is_full
            self._link.plan()

    # A unit that somebody waits for, in the middle of a frame.

    def _watch(self, incoming: Incoming, unit: PageId) -> None:
        """Place it when its bytes were read, which is before the frame's end."""
        frame = incoming.frame
        if frame is None or frame.chunk is None or unit.block != frame.chunk.span.block:
            return
        position = position_in(frame.chunk.span, unit.index)
        if position is None:
            return
        received = self._read_at(frame.payload_bytes, (position + 1) * TARGET_PAGE_BYTES)
        if received <= incoming.received or received == frame.payload_bytes:
            return
        flow, link = incoming.flow, self._link
        byte = frame.start + frame.head_bytes + received
        link.advance()
        if flow.drained >= byte:
            at_ns = max(self._agenda.now_ns, flow.when_drained(byte) + link.way_ns)
            self._agenda.at(at_ns, self._piece_comes, incoming, frame, received)
        else:
            link.deliver(flow, byte, self._piece_comes, incoming, frame, received)
            link.plan()

    def _piece_comes(self, incoming: Incoming, frame: ModelFrame, received: int) -> None:
        if frame is incoming.frame and received > incoming.received:
            unpaid = max(0, received - incoming.paid_bytes)
            incoming.paid_bytes += unpaid
            cost = unpaid * self._model.copy_ns_per_byte
            self._processor.submit(
                self._model.write_ns + cost, self._progress, incoming, frame, received
            )

    def _read_at(self, payload_bytes: int, need: int) -> int:
        """Return behind which of a payload's bytes the read ends that brings so many of them."""
        at = 0
        while self._gathers and (piece := gathered_of(payload_bytes - at, unhurried=False)) > 1:
            at += piece
            if at >= need:
                return at
        return need

    def catch_up(self) -> None:
        """Count what was read by now, before somebody asks whether a page has come."""
        self._link.advance()
        now_ns = self._agenda.now_ns
        for incoming in self.channels.values():
            frame = incoming.frame
            if frame is None:
                continue
            came = incoming.flow.drained_at(now_ns - self._link.way_ns)
            have = int(came) - frame.start - frame.head_bytes
            at, total = 0, frame.payload_bytes
            while self._gathers and (piece := gathered_of(total - at, unhurried=False)) > 1:
                if at + piece > have:
                    break
                at += piece
            else:
                at = min(max(at, have), total)
            self._progress(incoming, frame, at)
