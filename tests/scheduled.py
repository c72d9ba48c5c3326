"""What the tests of the scheduler share: guests, spans, and a sender without sockets."""

from collections.abc import Iterable

import numpy as np

from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.pageset import PageSet
from protocol.policy import HalfSent, Policy, preset
from protocol.runs import Runs
from source.jobs import Answer, Chunk
from source.scheduler import Scheduler

BASE = TARGET_PAGE_BYTES
HUGE = 2 << 20

# Four chunks make a huge page.
CHUNK = HUGE // 4


def guest(*shapes: tuple[int, int]) -> Geometry:
    """Return a guest of blocks that are each given as (page count, page size)."""
    return Geometry(
        tuple(
            RamBlock(f"block-{number}", count * page_bytes, page_bytes)
            for number, (count, page_bytes) in enumerate(shapes)
        )
    )


HUGE_PAGES = guest((16, HUGE))
# Base pages, then huge ones.
MIXED = guest((200, BASE), (4, HUGE))


def page(index: int, block: int = 0) -> PageId:
    """Return a page, of the first block unless told otherwise."""
    return PageId(block, index)


def target_pages(first: int, count: int, block: int = 0) -> Span:
    """Return the span of target pages of a block."""
    return Span(block, first * TARGET_PAGE_BYTES, count * TARGET_PAGE_BYTES)


def runs_of(*spans: Span) -> Runs:
    """Return several spans of one block, in order, as the runs of one chunk."""
    pages = [each for span in spans for each in range(*span.target_pages.indices(1 << 40))]
    return Runs.of_target_pages(spans[0].block, np.array(pages))


def set_of(geometry: Geometry, spans: Iterable[Span]) -> PageSet:
    """Return the target pages of spans as a set."""
    pages = PageSet(geometry)
    for span in spans:
        pages.add(span)
    return pages


class Wire:
    """A sender without sockets: sends a scheduler's chunks as told, and remembers what went.

    Of a concurrent policy it serves one lane at a time: requests whenever there are any.

    Attributes:
        out: The chunk that was taken and not yet sent.
        lane: Whose that is, or was.
        sent: The chunks that went whole.
        twice_bytes: What of them had gone before.
    """

    def __init__(
        self,
        policy: str | Policy,
        geometry: Geometry = HUGE_PAGES,
        *,
        chunk_bytes: int = CHUNK,
        dirty: Iterable[Span] | None = None,
        postcopy: bool = False,
        across_pages: bool = False,
    ) -> None:
        """Start with some spans to send, or with the whole guest."""
        self.geometry = geometry
        self.policy = preset(policy) if isinstance(policy, str) else policy
        self.scheduler = Scheduler(geometry, self.policy, chunk_bytes)
        self.out: Chunk | None = None
        self.lane = self.scheduler.lanes[0]
        self.sent: list[Chunk] = []
        self.twice_bytes = 0
        self.now_ns = 1000
        if dirty is None:
            dirty = (Span(number, 0, b.length_bytes) for number, b in enumerate(geometry.blocks))
        self.owed = set_of(geometry, dirty)
        self.gone = PageSet(geometry)
        self.scheduler.add(self.owed, postcopy=postcopy, across_pages=across_pages)

    def request(self, wanted: PageId, target_page: int = 0) -> Answer:
        """Request a page, each a nanosecond after the one before."""
        self.now_ns += 1
        return self.scheduler.request(wanted, target_page, self.now_ns)

    @property
    def urgent(self) -> bool:
        """Whether what is being sent is urgent."""
        return self.scheduler.urgent(self.lane)

    def take(self) -> Chunk:
        """Take a chunk, which then is out."""
        chunk = self.next()
        assert chunk is not None
        return chunk

    def next(self) -> Chunk | None:
        """Take a chunk of the first lane that has one."""
        for lane in self.scheduler.lanes:
            self.lane, self.out = lane, self.scheduler.next_chunk(lane)
            if self.out is not None:
                break
        return self.out

    def send(self) -> Chunk:
        """Send the chunk that is out, or the next one; return it."""
        chunk = self.out or self.take()
        self._send(chunk)
        return chunk

    def send_page(self) -> PageId:
        """Send all that goes together with the chunk that is out, or the next one."""
        served = (self.out or self.take()).page
        done = False
        while not done:
            done = self._send(self.out or self.take())
        return served

    def drain(self) -> list[Chunk]:
        """Send all that is left; return it."""
        before = len(self.sent)
        if self.out is not None:
            self.send()
        while (chunk := self.next()) is not None:
            self._send(chunk)
        return self.sent[before:]

    def _send(self, chunk: Chunk) -> bool:
        again_bytes = self.gone.count_in(chunk.span) * TARGET_PAGE_BYTES
        assert not again_bytes or self.policy.half_sent is HalfSent.RESEND, "something goes twice"
        self.twice_bytes += again_bytes
        self.gone.add(chunk.span)
        self.sent.append(chunk)
        self.out = None
        return self.scheduler.chunk_sent(self.lane) > 0

    def interrupt(self, *, begun: bool) -> None:
        """Break off the chunk that is out."""
        assert self.out is not None
        self.out = None
        self.scheduler.chunk_interrupted(begun=begun)

    def break_off(self, wanted: PageId, *, mid_chunk: bool) -> PageId:
        """Have the next page broken off after some of its bytes; return which that is.

        Args:
            wanted: The page that it is broken off for, whose first chunk is out afterwards.
            mid_chunk: In the middle of its second chunk, not behind its first.
        """
        half_sent = self.send().page
        if mid_chunk:
            self.take()
            assert self.request(wanted) is Answer.QUEUED
            self.interrupt(begun=True)
        else:
            assert self.request(wanted) is Answer.QUEUED
        assert self.take().page == wanted
        assert self.scheduler.preempted_page == half_sent
        return half_sent

    def assert_all_sent_once(self) -> None:
        """Check that nothing is left, and that what went, none of it twice, is what was to go.

        What a policy sends again on purpose must be what its scheduler counted.
        """
        assert self.next() is None
        assert self.twice_bytes == self.scheduler.counts.resent_bytes
        assert self.scheduler.remaining_bytes == 0
        for block in range(len(self.geometry.blocks)):
            assert self.gone.members(block).tolist() == self.owed.members(block).tolist()


def in_order(chunks: Iterable[Chunk]) -> list[PageId]:
    """Return the pages of chunks in the order of service; a page that came back stands twice."""
    pages: list[PageId] = []
    for chunk in chunks:
        if pages[-1:] != [chunk.page]:
            pages.append(chunk.page)
    return pages


def urgent(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Return the chunks that a vCPU waits for."""
    return [chunk for chunk in chunks if chunk.urgent]


def pages(*indices: int) -> list[PageId]:
    """Return pages of the first block."""
    return [page(index) for index in indices]
