"""Where target pages lie in the precopy connection, and which of them go again.  Pure.

What is asked for may be with the socket already, or in the frame under way.  Behind few bytes it is
soonest there where it is; behind many, a copy of it over the postcopy connection overtakes them.
The destination takes the copy that comes first.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from guest.streams.stream import Delivery
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.runs import Stretch, overlap, position_in
from source.jobs import Chunk, Lies
from source.outlet import Frame, Outlet

# So much may lie before a page without that it goes again: a copy costs its own bytes, and some of
# both ends' time.  On a fast connection more would be there as soon; few are asked for there.
BEHIND_BYTES_MAX = 4 * TARGET_PAGE_BYTES

# What went before these is on the wire or there: the kernel is not given so much to send.
_FRAMES_MAX = 64


class _Place(NamedTuple):
    """A frame among all bytes that a stream takes: what it carries, and where that is."""

    span: Stretch
    payload: int
    end: int

    def end_of(self, unit: Span) -> int:
        """Return where a target page ends; zeros are in the head, so that may be less far on."""
        position = position_in(self.span, unit.offset // TARGET_PAGE_BYTES)
        assert position is not None, "the frame has it"
        return min(self.payload + (position + 1) * TARGET_PAGE_BYTES, self.end)


class Overtaking:
    """Knows the frames that went over the precopy channel last, and the one under way.

    Attributes:
        awaited_bytes: How much the stream took until it had the target page that was last found.
    """

    def __init__(self, outlet: Outlet) -> None:
        """Start with none; the outlet is the precopy channel's."""
        self.awaited_bytes = 0
        self._outlet = outlet
        self._under_way: tuple[Chunk, Frame] | None = None
        self._sent: deque[_Place] = deque(maxlen=_FRAMES_MAX)
        self._delivery: Delivery | None = None

    def begun(self, chunk: Chunk, frame: Frame) -> None:
        """Say that a frame is handed to the stream from now on."""
        self._under_way = chunk, frame

    def sent(self) -> None:
        """Say that the frame under way is whole with the stream."""
        assert self._under_way is not None
        self._sent.append(self._place(*self._under_way))
        self._under_way = None

    def ran_on(self, row: Span, frame_bytes: int) -> None:
        """Say that the frame under way went whole, and one for each page of a row but the last.

        Args:
            row: Pages that each went in a frame as long as the one under way.
            frame_bytes: How long that is.
        """
        assert self._under_way is not None
        place = self._place(*self._under_way)
        page_bytes = place.span.length
        count = row.length // page_bytes
        self._sent.append(place)
        for step in range(max(1, count - _FRAMES_MAX), count):
            offset = row.offset + (step - 1) * page_bytes
            self._sent.append(
                _Place(
                    Span(row.block, offset, page_bytes),
                    place.payload + step * frame_bytes,
                    place.end + step * frame_bytes,
                )
            )
        self._under_way = None

    def delivers(self, delivery: Delivery) -> None:
        """Say how the channel delivers; it holds for one question."""
        self._delivery = delivery

    def is_unknown(self, unit: Span) -> bool:
        """Return whether it is to be looked how the channel delivers, before `find` is asked."""
        end = self._end_of(unit)
        return end is not None and end <= self._outlet.bytes_sent and self._delivery is None

    def find(self, unit: Span) -> Lies | None:
        """Return where a target page lies that a frame was made of, None if that was long ago."""
        delivery, self._delivery = self._delivery, None
        sent_bytes, end = self._outlet.bytes_sent, self._end_of(unit)
        self.awaited_bytes = sent_bytes if end is None else end
        if end is None:
            return None
        if end > sent_bytes:
            return Lies.UNSENT
        assert delivery is not None, "it was not said how the channel delivers"
        rate = delivery.bytes_per_second
        # What is on the wire is in nobody's way.
        on_wire_bytes = rate * delivery.round_trip_us // 10**6
        in_host_bytes = max(delivery.unacknowledged_bytes - on_wire_bytes, 0)
        behind_bytes = end - (sent_bytes - in_host_bytes)
        return Lies.FAR if behind_bytes > BEHIND_BYTES_MAX else Lies.NEAR

    def _end_of(self, unit: Span) -> int | None:
        """Return how much the stream takes until it has a target page; None where nobody knows."""
        if self._under_way is not None and self._under_way[1] is self._outlet.open_frame:
            place = self._place(*self._under_way)
            if overlap(place.span, unit):
                return place.end_of(unit)
        for place in reversed(self._sent):
            if overlap(place.span, unit):
                return place.end_of(unit)
        return None

    def _place(self, chunk: Chunk, frame: Frame) -> _Place:
        end = self._outlet.bytes_sent - frame.sent + frame.length
        return _Place(chunk.span, end - frame.payload_bytes, end)
