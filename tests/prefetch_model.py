"""A vCPU that touches pages at its times, a link of a rate, and a scheduler between: virtual time.

The same scheduler decides as in a migration, with nothing of a machine in it: whatever is counted
here comes out the same each time.
"""

from collections import deque
from dataclasses import dataclass, field
from random import Random

from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.pageset import PageSet
from protocol.policy import Policy
from source.scheduler import Scheduler

BYTES_PER_SECOND = 125_000_000
# From a vCPU's touch until the source has read its request, and from the last byte until it runs.
WAY_NS = 100_000
CHUNK_BYTES = 128 * 1024

# Of the guest, in pages, by their size; what the vCPU touches begins at its middle.
PAGE_COUNTS = {TARGET_PAGE_BYTES: 16_384, 2 << 20: 128}
# Between two touches: longer than the link needs for a page.
PAUSES_NS = {TARGET_PAGE_BYTES: 60_000, 2 << 20: 30_000_000}

Touches = list[tuple[int, int]]


def guest_of(page_bytes: int) -> Geometry:
    """Return a guest of pages of a size."""
    return Geometry((RamBlock("ram", PAGE_COUNTS[page_bytes] * page_bytes, page_bytes),))


def touches_of(kind: str, page_bytes: int, seed: int = 1) -> Touches:
    """Return the times and pages of a kind of trace."""
    count, chance = PAGE_COUNTS[page_bytes], Random(seed)
    middle, length = count // 2, count // 3
    if kind == "sequential":
        pages = [middle + number for number in range(length)]
    elif kind == "strided":
        pages = [middle - 3 * number for number in range(length // 2)]
    elif kind == "zipf":
        order = chance.sample(range(count), count)
        weights = [1 / rank for rank in range(1, count + 1)]
        pages = [order[rank] for rank in chance.choices(range(count), weights, k=length)]
    else:
        assert kind == "uniform"
        pages = [chance.randrange(count) for _ in range(length)]
    return [(number * PAUSES_NS[page_bytes], page) for number, page in enumerate(pages)]


@dataclass
class Ran:
    """What came of a run.

    Attributes:
        faults: The pages that were asked for, in their order.
        blocked_ns: How long the vCPU slept for them.
        scheduler: What has sent the pages.
    """

    scheduler: Scheduler
    faults: list[PageId] = field(default_factory=list)
    blocked_ns: int = 0


def run(policy: Policy, page_bytes: int, touches: Touches) -> Ran:
    """Send a guest while its vCPU touches pages; return when all is there and touched."""
    geometry = guest_of(page_bytes)
    scheduler = Scheduler(geometry, policy, CHUNK_BYTES)
    every = PageSet(geometry)
    every.fill()
    scheduler.add(every, postcopy=True)
    ran = Ran(scheduler)
    vcpu = _Vcpu(deque(touches), ran)
    now_ns = 0
    while vcpu.left or scheduler.unsent_bytes:
        vcpu.go_on(now_ns)
        while vcpu.asked and vcpu.asked[0][0] <= now_ns:
            scheduler.request(vcpu.asked.popleft()[1], 0, now_ns)
        chunk = scheduler.next_chunk()
        if chunk is None:
            now_ns += WAY_NS
            continue
        now_ns += chunk.span.length * 10**9 // BYTES_PER_SECOND
        if scheduler.chunk_sent():
            for span in (chunk.span,) if isinstance(chunk.span, Span) else chunk.span.spans():
                for index in geometry.pages_of(span):
                    vcpu.placed_ns.setdefault(index, now_ns + WAY_NS)
    return ran


@dataclass
class _Vcpu:
    """What is left to touch, and when each page is the vCPU's."""

    left: deque[tuple[int, int]]
    ran: Ran
    placed_ns: dict[int, int] = field(default_factory=dict)
    asked: deque[tuple[int, PageId]] = field(default_factory=deque)
    waits: bool = False
    at_ns: int = 0

    def go_on(self, now_ns: int) -> None:
        """Touch all that is due, up to what is missing."""
        while self.left:
            due_ns, page = self.left[0]
            ready_ns = self.placed_ns.get(page)
            if not self.waits:
                at_ns = max(self.at_ns, due_ns)
                if at_ns > now_ns:
                    return
                self.at_ns = at_ns
                if ready_ns is None or ready_ns > at_ns:
                    self.waits = True
                    self.ran.faults.append(PageId(0, page))
                    self.asked.append((at_ns + WAY_NS, PageId(0, page)))
            if self.waits:
                if ready_ns is None or ready_ns > now_ns:
                    return
                self.ran.blocked_ns += ready_ns - self.at_ns
                self.at_ns, self.waits = ready_ns, False
            self.left.popleft()
