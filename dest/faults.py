"""Who waits for which page: waiters, one request a page, and how long each waited.

A *wait* begins when a vCPU touches a missing page and ends when the vCPU runs again.  However many
vCPUs wait for a page, it is requested once; each has its own latency (QEMU's blocktime,
`migration/postcopy-ram.c`, counts them the same way).  A vCPU waits for one page at a time: when it
faults again, as it does after a pause, the wait before counts as never made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocol.geometry import PageId


class Outcome(Enum):
    """What a fault leads to."""

    # Ask the source for the page.
    REQUEST = "request"
    # It was asked for already.
    WAIT = "wait"
    # It is here: wake the vCPU.
    PLACED = "placed"


@dataclass
class Wait:
    """One vCPU's wait for one page; times in nanoseconds of the machine's monotonic clock.

    Attributes:
        vcpu: Who waits.
        page: For what.
        fault_ns: When the vCPU touched the page.
        detect_ns: When the engine knew.
        placed_ns: When the page was whole and placed.
        wake_ns: When the vCPU ran again.
        urgent_ns: When the first frame came that was sent because of the request, if one did.
        last_byte_ns: When the page's last byte had come.
        queue_us: How long the request waited at the source, as the source says.
        send_us: How long the source took to send the page, as it says.
    """

    vcpu: int
    page: PageId
    fault_ns: int
    detect_ns: int
    urgent_ns: int | None = None
    last_byte_ns: int | None = None
    placed_ns: int | None = None
    wake_ns: int | None = None
    queue_us: int = 0
    send_us: int = 0

    @property
    def latency_ns(self) -> int:
        """Fault to wake-up; 0 while it lasts."""
        return self.wake_ns - self.fault_ns if self.wake_ns is not None else 0


@dataclass
class _Request:
    """A page that is asked for, and what its urgent frames say."""

    urgent_ns: int | None = None
    queue_us: int = 0
    send_us: int = 0


class FaultTable:
    """All waits of one migration; its user brings the times."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._requests: dict[PageId, _Request] = {}
        # By vCPU, in the order of the faults.
        self._waiting: dict[int, Wait] = {}
        # Placed, but the vCPU has not said that it runs again.
        self._waking: dict[int, Wait] = {}

    @property
    def requested_pages(self) -> tuple[PageId, ...]:
        """The pages that are asked for and have not come, in the order of their first faults."""
        return tuple(self._requests)

    @property
    def waiting_vcpus(self) -> dict[int, Wait]:
        """The waits that go on, by vCPU, in the order of the faults."""
        return dict(self._waiting)

    def fault(
        self, vcpu: int, page: PageId, *, fault_ns: int, now_ns: int, placed: bool
    ) -> Outcome:
        """Take a fault.

        Args:
            vcpu: Who touched the page.
            page: Which.
            fault_ns: When it touched it.
            now_ns: The time.
            placed: Whether the page is whole already.
        """
        self._waiting.pop(vcpu, None)
        self._waking.pop(vcpu, None)
        wait = Wait(vcpu, page, fault_ns, now_ns)
        if placed:
            wait.last_byte_ns = wait.placed_ns = now_ns
            self._waking[vcpu] = wait
            return Outcome.PLACED
        self._waiting[vcpu] = wait
        if page in self._requests:
            return Outcome.WAIT
        self._requests[page] = _Request()
        return Outcome.REQUEST

    def told(self, page: PageId, *, now_ns: int, queue_us: int, send_us: int) -> None:
        """Keep what the head of an urgent frame says of the page's time with the source.

        Args:
            page: The frame's page.
            now_ns: When the frame began to come.
            queue_us: How long the request waited there.
            send_us: How long the page's urgent frames have been on their way to the socket; the
                last frame's word counts.
        """
        request = self._requests.get(page)
        if request is None:
            return
        if request.urgent_ns is None:
            request.urgent_ns = now_ns
        request.queue_us, request.send_us = queue_us, send_us

    def placed(self, block: int, pages: range, *, last_byte_ns: int, now_ns: int) -> list[int]:
        """Say that pages are placed; return the vCPUs to wake, in the order in which they came.

        Args:
            block: Block index.
            pages: Page indices in the block; a run of base pages may be long, those waited for few.
            last_byte_ns: When the last of their bytes had come.
            now_ns: The time: they are placed.
        """
        here = {
            page: request
            for page, request in self._requests.items()
            if page.block == block and page.index in pages
        }
        waits = [wait for wait in self._waiting.values() if wait.page in here]
        for wait in waits:
            request = here[wait.page]
            wait.urgent_ns = request.urgent_ns
            wait.queue_us, wait.send_us = request.queue_us, request.send_us
            wait.last_byte_ns, wait.placed_ns = last_byte_ns, now_ns
            self._waking[wait.vcpu] = self._waiting.pop(wait.vcpu)
        for page in here:
            del self._requests[page]
        return [wait.vcpu for wait in waits]

    def woke(self, vcpu: int, wake_ns: int) -> Wait | None:
        """Say that a vCPU runs again; return its wait, now complete, if it had one."""
        wait = self._waking.pop(vcpu, None)
        if wait is not None:
            wait.wake_ns = wake_ns
        return wait
