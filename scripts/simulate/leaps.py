"""Goes over stretches of the background in one step, where nothing else is due.

A frame of the background goes as the one before it went.  So after some of them everything between
the two sides is again as it was, as seen from the present and from the end of the stream: what is
due, what lies in the kernels and on the link, how far both processors are.  From there all repeats
itself until something else is due, a vCPU's access or a timer.  As many rounds as fit before that
are gone over at once: times and streams are moved on, and the engines are told of the pages.  Which
pages those are the sending engine says (`SendEngine.ahead`); where something is to be decided on
the way, it names none.

That everything is as it was is looked at and not assumed, and all of it is whole numbers: a run
with leaps is the same as one without, to the nanosecond.  One thing alone may differ: by how many
bytes the heads do of frames that are there and wait to be read.  A window of hundreds of them would
take as many to be the same again; so it is enough that it fills, and opens, with either.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

from protocol.channels import Channel
from protocol.geometry import PageId, Span
from scripts.simulate.agenda import Agenda, Processor, is_own
from scripts.simulate.dest import DestSide
from scripts.simulate.kernel import ModelFrame, ModelOutlet, frame_length
from scripts.simulate.link import Flow, Link
from scripts.simulate.reader import Incoming
from scripts.simulate.sender import Waiting
from scripts.simulate.source import SourceSide
from source.commands import Write
from source.jobs import Chunk

# A round has fewer frames than that.
_GLANCES_MAX = 4096
# So many pages are asked about at once, at most.
_PAGES_MAX = 1 << 30


@dataclass(frozen=True)
class Before:
    """How everything was when a frame began to go.

    Attributes:
        glance: What differs soonest.
        state: All of it.
        now_ns: When that was.
        written: What the stream had been given.
        busy_ns: What was used of both processors.
        unread: How long each of the frames was that the destination had not read.
    """

    glance: Hashable
    state: Hashable
    now_ns: int
    written: int
    busy_ns: tuple[int, ...]
    unread: list[int]


class Leaps:
    """Goes over what repeats itself in one run; `look` each time that a frame was begun."""

    def __init__(
        self,
        agenda: Agenda,
        link: Link,
        outlets: Mapping[Channel, ModelOutlet],
        source: SourceSide,
        dest: DestSide,
        processors: tuple[Processor, Processor],
    ) -> None:
        """Begin with nothing to compare with.

        Args:
            agenda: The run's.
            link: Between the sides.
            outlets: The connections.
            source: Sends.
            dest: Receives.
            processors: The source's, and the destination's.
        """
        self._agenda = agenda
        self._link = link
        self._outlets = outlets
        self._source = source
        self._dest = dest
        self._processors = processors
        self._before: Before | None = None
        # Frames so far, and at which of them each glance was seen last.
        self._count = 0
        self._seen: dict[Hashable, int] = {}
        # Until which frame all is compared with how it was, and how many those are at least.
        self._until, self._apart = 0, 1
        # What the destination had said, and how long a frame was, when that began.
        self._since = 0, 0

    def look(self) -> None:
        """Leap if all is as it was, and if not, keep how it is."""
        begun = self._source.sender.begun
        if begun is None:
            return
        since = self._source.heard_bytes, begun[1].frame.length
        if since != self._since:
            # Whatever came about again before that does so no more.
            self._since = since
            self._before, self._until, self._apart = None, 0, 1
            self._seen.clear()
        outlet = self._outlets[begun[1].outlet.name]
        if not self._is_alone(outlet.flow):
            return
        before, glance = self._before, self._glance(outlet)
        self._count += 1
        seen = self._seen.get(glance)
        self._seen[glance] = self._count
        if before is not None and before.glance == glance and self._rounds(before):
            state = self._state(outlet)
            if state is not None and before.state == state:
                if self._may_differ(before, outlet.flow):
                    self._leap(before, outlet)
                self._before = self._keep(glance, state, outlet)
                self._until = self._count + _GLANCES_MAX
                return
        if seen is not None and self._count > self._until:
            # What is seen again after so many frames may be so once more after as many, or more.
            state = self._state(outlet)
            self._before = None if state is None else self._keep(glance, state, outlet)
            self._apart = min(2 * self._apart, _GLANCES_MAX)
            self._until = self._count + max(self._count - seen, self._apart)
        if len(self._seen) > _GLANCES_MAX:
            self._seen.clear()

    def _is_alone(self, flow: Flow) -> bool:
        """Return whether nothing but a stream is under way, and nobody waits for anything."""
        channels = self._dest.reader.channels.values()
        return self._dest.is_quiet and all(
            each.flow is flow or (each.is_idle and not each.flow.marks) for each in channels
        )

    def _rounds(self, before: Before) -> int:
        """Return how many rounds as the one since then fit before something else is due."""
        now_ns, first_ns = self._agenda.now_ns, self._agenda.first_other_ns()
        if now_ns == before.now_ns:
            return 0
        if first_ns is None:
            return _PAGES_MAX
        # At the very time of what is due it matters what was put in first.
        return (first_ns - 1 - now_ns) // (now_ns - before.now_ns)

    def _glance(self, outlet: ModelOutlet) -> Hashable:
        """Return some of the state, which is soon looked at."""
        flow, now_ns = outlet.flow, self._agenda.now_ns
        incoming = self._dest.reader.channels[flow.name]
        return (
            flow.left_parts, len(incoming.waiting), outlet.state(now_ns),
            *(each.free_at_ns - now_ns for each in self._processors),
        )  # fmt: skip

    def _state(self, outlet: ModelOutlet) -> Hashable | None:
        """Return all that what follows depends on, as seen from now and from the stream's end.

        None where something is about more than the stream.
        """
        now_ns, flow = self._agenda.now_ns, outlet.flow
        if not all(is_own(do) for each in self._processors for do in each.queued()):
            return None
        sender, incoming = self._source.sender, self._dest.reader.channels[flow.name]
        # What came before a processor is free is as good as old.
        free_at_ns = self._processors[1].free_at_ns

        def told(each: object) -> Hashable:
            if isinstance(each, ModelFrame):
                came_ns = max(each.came_ns, free_at_ns) - now_ns if each.came_ns else None
                return each.start - flow.written, each.begun, came_ns
            if isinstance(each, Waiting):
                return each.lane, sender.is_current(each)
            if isinstance(each, Incoming):
                return each.flow.name
            if isinstance(each, tuple):
                return tuple(map(told, each))
            return getattr(each, "__qualname__", each)

        return (
            *(told((due.time_ns - now_ns, *due[1:])) for due in self._agenda.own()),
            *(told((byte - flow.written, *rest)) for byte, _, *rest in flow.marks_in_order()),
            self._link.state(), outlet.state(now_ns), sender.state(now_ns),
            incoming.state(now_ns, free_at_ns),
            *(each.state() for each in self._processors),
        )  # fmt: skip

    def _keep(self, glance: Hashable, state: Hashable, outlet: ModelOutlet) -> Before:
        flow, busy_ns = outlet.flow, tuple(each.busy_ns for each in self._processors)
        incoming = self._dest.reader.channels[flow.name]
        incoming.spare_bytes = sys.maxsize
        unread = [frame.length for frame in incoming.unread()]
        return Before(glance, state, self._agenda.now_ns, flow.written, busy_ns, unread)

    def _may_differ(self, before: Before, flow: Flow) -> bool:
        """Return whether it changes nothing by how many bytes frames that are here differ.

        It is some bytes in a window of many, which fills all the same, or does not.
        """
        incoming = self._dest.reader.channels[flow.name]
        unread = [frame.length for frame in incoming.unread()]
        return incoming.spare_bytes > 0 or unread == before.unread

    def _leap(self, before: Before, outlet: ModelOutlet) -> None:
        """Go over as many rounds as there is time and there are pages for; maybe none."""
        sender = self._source.sender
        assert sender.begun is not None
        lane, write = sender.begun
        chunk, frame_bytes = write.chunk, write.frame.length
        frames = self._under_way(outlet.flow, write)
        if not all(each.is_like(frames[-1]) for each in frames) or frames[-1] is not write.frame:
            return
        round_frames = (outlet.flow.written - before.written) // frame_bytes
        rounds = self._rounds(before)
        # One that was begun anew went no further.
        if not round_frames:
            return
        rows = sender.ahead(lane, min(rounds * round_frames, _PAGES_MAX))
        if not rows or rows[0].block != chunk.span.block:
            return
        count = _count_like(rows, chunk, frame_bytes)
        if rounds := min(rounds, count // round_frames):
            pages = _first_of(rows, rounds * round_frames * chunk.span.length)
            self._move(before, outlet, frames, pages, rounds)

    def _move(
        self,
        before: Before,
        outlet: ModelOutlet,
        frames: Sequence[ModelFrame],
        rows: list[Span],
        rounds: int,
    ) -> None:
        """Move all on by some rounds, in which the pages of rows were written."""
        agenda, flow, sender = self._agenda, outlet.flow, self._source.sender
        assert sender.begun is not None
        passed_ns = rounds * (agenda.now_ns - before.now_ns)
        count = rounds * (flow.written - before.written)
        shifts = [
            each.shifted(passed_ns, rounds * (each.busy_ns - busy_ns))
            for each, busy_ns in zip(self._processors, before.busy_ns, strict=True)
        ]
        lane, write = sender.begun
        page_bytes, chunk = write.chunk.span.length, write.chunk
        # What is under way comes first, and the same number of pages is under way in the end.
        gone, going = _divided([*(each.span for each in frames), *rows], len(frames) * page_bytes)
        last = sender.run_on(lane, rows).frame
        assert isinstance(last, ModelFrame)
        begin = self._dest.reader.take_pages(flow.name, gone)
        for frame, page in zip(frames, _pages(going, page_bytes), strict=True):
            frame.move(passed_ns, count, _chunk_of(page, chunk))
        _set_behind_each_other(frames)
        last.follow(frames[-1])

        def moved(each: object) -> object:
            return last if each is frames[-1] else each

        agenda.shift(passed_ns, moved)
        self._link.shift(passed_ns, flow, count, moved)
        outlet.shift(passed_ns, count)
        sender.shift(passed_ns)
        begin(moved)
        for shift in shifts:
            shift()

    def _under_way(self, flow: Flow, write: Write) -> list[ModelFrame]:
        """Return the frames of which something is still to happen, in their order."""
        incoming = self._dest.reader.channels[flow.name]
        places = chain(
            (each.arguments for each in self._agenda.own()),
            (mark[-1] for mark in flow.marks),
            incoming.waiting,
            [(incoming.frame, write.frame)],
        )
        found = {id(each): each for each in chain(*places) if isinstance(each, ModelFrame)}
        return sorted(found.values(), key=lambda frame: frame.start)


def _divided(spans: list[Span], last_bytes: int) -> tuple[list[Span], list[Span]]:
    """Return what of spans is before so many bytes at their end, and these."""
    first_bytes = sum(span.length for span in spans) - last_bytes
    return _first_of(spans, first_bytes), _first_of(spans, last_bytes, first_bytes)


def _first_of(spans: list[Span], length: int, skipped: int = 0) -> list[Span]:
    """Return so many bytes of spans, behind those that are skipped."""
    found = []
    for span in spans:
        start, stop = min(skipped, span.length), min(skipped + length, span.length)
        if start < stop:
            found.append(Span(span.block, span.offset + start, stop - start))
        skipped, length = skipped - start, length - (stop - start)
    return found


def _set_behind_each_other(frames: Sequence[ModelFrame]) -> None:
    """Line frames up, each to begin where the one before it ends; the last is where it is."""
    for frame, after in reversed(list(pairwise(frames))):
        frame.start = after.start - frame.length


def _pages(spans: list[Span], page_bytes: int) -> Iterator[Span]:
    """Yield the pages of spans."""
    for span in spans:
        for offset in range(span.offset, span.end, page_bytes):
            yield Span(span.block, offset, page_bytes)


def _count_like(rows: list[Span], chunk: Chunk, frame_bytes: int) -> int:
    """Return how many of the pages of rows, from the first, go in a frame as long as a chunk's.

    A frame's head grows with the place that it tells of.
    """
    page_bytes, count = chunk.span.length, 0
    for row in rows:

        def length_of(number: int, row: Span = row) -> int:
            page = Span(row.block, row.offset + number * page_bytes, page_bytes)
            return frame_length(_chunk_of(page, chunk))

        numbers = range(row.length // page_bytes)
        if length_of(0) != frame_bytes:
            break
        if length_of(numbers[-1]) != frame_bytes:
            return count + bisect_right(numbers, frame_bytes, key=length_of)
        count += len(numbers)
    return count


def _chunk_of(page: Span, chunk: Chunk) -> Chunk:
    """Return a chunk as another, of a page of the same block."""
    return replace(chunk, span=page, page=PageId(page.block, page.offset // page.length))
