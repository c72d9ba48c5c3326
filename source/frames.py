"""Begins the frames of what the scheduler gives out, breaks them off and ends them.  Pure.

Between the scheduler, which knows chunks, and the channels, which know bytes: each lane is in the
middle of one frame at most, and a frame that was broken off stays open on its channel.  What is
whole with its stream is counted and told here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, Span
from source.commands import Write
from source.jobs import Chunk, Lane
from source.outlet import Frame, Outlet
from source.overtaking import Overtaking
from source.scheduler import Scheduler
from source.telling import Telling

# See `source.scheduler`: a look at an enumeration's member is not free.
_PRECOPY = Channel.PRECOPY


class Frames:
    """The frames under way over the channels of one epoch.

    Attributes:
        writes: What each lane is in the middle of handing over.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        make_frame: Callable[[Chunk, int, int], Frame],
        outlets: Mapping[Channel, Outlet],
        emit: Emit,
        telling: Telling,
        overtaking: Overtaking | None,
    ) -> None:
        """Begin with none.

        Args:
            scheduler: What is to be sent, and in which order.
            make_frame: As of `SendEngine`.
            outlets: Where it goes.
            emit: Takes events.
            telling: Hears what becomes of requests.
            overtaking: Hears of the frames on the precopy channel, where some may be overtaken.
        """
        self.writes: dict[Lane, Write] = {}
        self._scheduler = scheduler
        self._make_frame = make_frame
        self._outlets = outlets
        self._emit = emit
        self._is_heard = events.is_heard(emit)
        self._telling = telling
        self._overtaking = overtaking
        # When the request being served came, and when its first urgent frame was made.
        self._urgent_since_ns = (0, 0)

    @property
    def remaining_bytes(self) -> int:
        """Bytes of guest memory that no stream has taken yet, to the byte."""
        begun = [each.begun_memory_bytes for each in self._outlets.values()]
        return self._scheduler.unsent_bytes - sum(begun)

    def pick(self, lane: Lane, now_ns: int) -> Write | None:
        """Begin with what a lane is to send next, or go on with it; None if there is nothing."""
        while (chunk := self._next_chunk(lane, now_ns)) is not None:
            outlet = self._outlets[chunk.channel]
            if chunk.urgent and chunk.channel is not _PRECOPY:
                self._outlets[_PRECOPY].pause()
            if outlet.open_frame is None:
                outlet.open_frame = self._make_frame(chunk, *self._waited_us(chunk, now_ns))
                if self._overtaking is not None and chunk.channel is _PRECOPY:
                    self._overtaking.begun(chunk, outlet.open_frame)
            write = self.writes[lane] = Write(chunk, outlet, outlet.open_frame)
            if not write.frame.done:
                return write
            # It was broken off, and a sign of life was its last byte.
            self.sent(lane, now_ns)
        return None

    def run_on(self, lane: Lane, row: Span) -> None:
        """Say that the lane's frame, and those of a row of pages but the last, went whole.

        See `SendEngine.run_on`.
        """
        before = self.writes[lane]
        outlet, frame = before.outlet, before.frame
        page_bytes = before.chunk.span.length
        count = row.length // page_bytes
        if self._overtaking is not None:
            self._overtaking.ran_on(row, frame.length)
        chunk = self._scheduler.run_on(lane, row)
        pages = range(chunk.page.index + 1 - count, chunk.page.index + 1)
        if (tracker := self._telling.tracker) is not None:
            tracker.ran_on(chunk, lane, pages)
            self._telling.frame_sent()
        outlet.target_pages_sent += row.length // TARGET_PAGE_BYTES
        outlet.data_bytes_sent += count * frame.payload_bytes
        outlet.bytes_sent += count * frame.length
        outlet.open_frame = self._make_frame(chunk, 0, 0)
        outlet.open_frame.sent = frame.sent
        if self._overtaking is not None:
            self._overtaking.begun(chunk, outlet.open_frame)
        write = self.writes[lane] = Write(chunk, outlet, outlet.open_frame)
        write.limit, write.paced = before.limit, before.paced

    def break_off(self, lane: Lane, now_ns: int) -> None:
        """Leave the background's frame for a request."""
        write = self.writes.pop(lane)
        begun = write.frame.sent > 0
        if (tracker := self._telling.tracker) is not None:
            tracker.interrupted(lane, now_ns)
        self._scheduler.chunk_interrupted(begun=begun)
        if not begun:
            write.outlet.open_frame = None

    def sent(self, lane: Lane, now_ns: int) -> bool:
        """Count and tell what is whole with its stream; return whether it was urgent."""
        write = self.writes.pop(lane)
        chunk, outlet = write.chunk, write.outlet
        outlet.open_frame = None
        if self._overtaking is not None and chunk.channel is _PRECOPY:
            self._overtaking.sent()
        outlet.target_pages_sent += chunk.span.length // TARGET_PAGE_BYTES
        outlet.data_bytes_sent += write.frame.payload_bytes
        scheduler = self._scheduler
        urgent = scheduler.urgent(lane)
        if urgent:
            outlet.await_sent()
        page_count = scheduler.chunk_sent(lane)
        if (tracker := self._telling.tracker) is not None:
            tracker.sent(
                chunk, lane, now_ns, goes_on=scheduler.is_sending(lane), lacks=scheduler.lacks
            )
            self._telling.frame_sent()
        if page_count and self._is_heard:
            # Of scattered pages the first is named, and how many they are.
            self._emit(
                events.PageSent(
                    block=chunk.page.block, page=chunk.page.index,
                    channel=chunk.channel.value, urgent=urgent, boosted=chunk.boosted,
                    pages=page_count,
                    channel_bytes=outlet.bytes_carried,
                    remaining_bytes=self.remaining_bytes,
                )
            )  # fmt: skip
        return urgent

    def _next_chunk(self, lane: Lane, now_ns: int) -> Chunk | None:
        chunk = self._scheduler.next_chunk(lane)
        if chunk is not None and (tracker := self._telling.tracker) is not None:
            tracker.begun(chunk, lane, now_ns)
        self._tell_notices()
        return chunk

    def _waited_us(self, chunk: Chunk, now_ns: int) -> tuple[int, int]:
        """Return how long a request waited until its send began, and how long ago that was."""
        if chunk.requested_ns is None:
            return 0, 0
        if self._urgent_since_ns[0] != chunk.requested_ns:
            self._urgent_since_ns = (chunk.requested_ns, now_ns)
        began_ns = self._urgent_since_ns[1]
        return (began_ns - chunk.requested_ns) // 1000, (now_ns - began_ns) // 1000

    def _tell_notices(self) -> None:
        notices = self._scheduler.take_notices()
        for notice in notices if self._is_heard else ():
            cause: dict[str, Any] = {"cause": notice.cause} if notice.cause else {}
            self._emit(
                notice.event(
                    block=notice.page.block, page=notice.page.index,
                    channel=notice.channel.value, urgent=notice.urgent, boosted=notice.boosted,
                    channel_bytes=self._outlets[notice.channel].bytes_carried,
                    remaining_bytes=self.remaining_bytes, **cause,
                )
            )  # fmt: skip
        if reason := self._scheduler.take_failure():
            self._emit(events.PolicyOff(reason=reason))
