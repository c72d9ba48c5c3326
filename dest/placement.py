"""Making received pages touchable for vCPUs, and hearing of those that touch what is missing.

Two ways, the same calls: vCPUs look at a map before they touch (`SimulatedPlacement`), or they
touch and the kernel stops them (`UserfaultPlacement`).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol

import trio

from dest.config import SIMULATED, USERFAULT
from guest.interface import Guest
from guest.memory import GuestMemory
from guest.messages import ORDER_RANGE_COUNT_MAX
from guest.services import Service
from guest.userfaultfd import Userfaultfd
from protocol.errors import GuestFailed
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, Span
from protocol.runs import at_most

# How long the guest's huge pages are given to be mapped as such at the end.  They are when that
# takes longer, too; nobody waits for it then.
_COLLAPSE_SECONDS_MAX = 5.0

Fault = tuple[int, int]


class Placement(Protocol):
    """Where pages become the guest's: after `place`, its vCPUs may touch them.

    Attributes:
        name: As in `--placement` and the report.
        is_told_by_kernel: Whether faults come from the kernel and not from the vCPUs.
    """

    name: str
    is_told_by_kernel: bool

    def discard(self, span: Span) -> None:
        """Make vCPUs fault on a stretch from `settle` on; only while the guest stands still."""

    async def settle(self) -> None:
        """Return when all that was discarded is in force."""

    def place(self, span: Span) -> None:
        """Let vCPUs touch a stretch whose bytes are all in memory."""

    def wake(self, vcpu: int) -> None:
        """Wake a vCPU that waits for something which was placed just now."""

    def release(self, vcpu: int, span: Span) -> None:
        """Wake a vCPU that waits for the beginning of a stretch which was placed long ago."""

    def take_faults(self) -> list[Fault]:
        """Return the (vCPU, flat target page) of which only the kernel has told; never blocks."""

    async def wait_faults(self) -> None:
        """Return when `take_faults` may have some."""

    def completed(self, span: Span) -> None:
        """Say that pages are whole, whose pieces may have been placed one by one."""

    def collapsed(self, range_count: int) -> None:
        """Count so many of them as seen to, by the guest's word."""

    async def run(self) -> None:
        """Do what has time, until cancelled."""

    async def finish(self) -> None:
        """All pages are placed: let vCPUs run without anybody's help."""


class SimulatedPlacement:
    """Placement without the kernel: vCPUs look at a shared map before they touch."""

    name = SIMULATED
    is_told_by_kernel = False

    def __init__(self, geometry: Geometry, guest: Guest) -> None:
        """Start with every page touchable."""
        self._geometry = geometry
        self._guest = guest
        guest.set_present(slice(None))

    def discard(self, span: Span) -> None:
        """Make vCPUs fault on a stretch; only while the guest stands still."""
        self._guest.clear_present(self._flat(span))

    async def settle(self) -> None:
        """Return: each discard was in force at once."""
        await trio.lowlevel.checkpoint()

    def place(self, span: Span) -> None:
        """Let vCPUs touch a stretch whose bytes are all in memory."""
        self._guest.set_present(self._flat(span))

    def wake(self, vcpu: int) -> None:
        """Make a vCPU look again."""
        self._guest.wake(vcpu)

    def release(self, vcpu: int, span: Span) -> None:  # noqa: ARG002 - what is placed stays so
        """Make a vCPU look again."""
        self._guest.wake(vcpu)

    def take_faults(self) -> list[Fault]:
        """Return nothing: vCPUs tell of their faults themselves."""
        return []

    async def wait_faults(self) -> None:
        """Wait for ever."""
        await trio.sleep_forever()

    def completed(self, span: Span) -> None:
        """Do nothing: there is no mapping to mend."""

    def collapsed(self, range_count: int) -> None:
        """Do nothing: nobody was asked to."""

    async def run(self) -> None:
        """Sleep: there is nothing to do."""
        await trio.sleep_forever()

    async def finish(self) -> None:
        """Return: who looks finds every page."""
        await trio.lowlevel.checkpoint()

    def _flat(self, span: Span) -> slice:
        base = self._geometry.target_page_bases[span.block]
        return slice(base + span.target_pages.start, base + span.target_pages.stop)


class UserfaultPlacement:
    """Placement by the kernel: a vCPU that touches what is not mapped is stopped until it is.

    All of the guest is mapped at first, for none of its vCPUs runs yet.  At the switch-over what is
    stale is unmapped, which leaves its bytes in memory where the receivers overwrite them.
    """

    name = USERFAULT
    is_told_by_kernel = True

    def __init__(self, memory: GuestMemory, guest: Guest, userfaultfd: Userfaultfd) -> None:
        """Use what the guest process has set up."""
        service: Service = guest.service
        self._geometry = memory.geometry
        self._guest = guest
        self._userfaultfd = userfaultfd
        self._addresses = service.addresses
        self._vcpus = {thread_id: vcpu for vcpu, thread_id in enumerate(service.thread_ids)}
        # Blocks lie in memory in any order.
        self._ascending = sorted((address, block) for block, address in enumerate(self._addresses))
        # What the kernel maps at once.
        self._step_bytes = tuple(
            block.page_bytes if kind == "hugetlb" else TARGET_PAGE_BYTES
            for block, kind in zip(memory.geometry.blocks, memory.kinds, strict=True)
        )
        self._collapsible = tuple(
            kind == "thp" and block.page_bytes > TARGET_PAGE_BYTES
            for block, kind in zip(memory.geometry.blocks, memory.kinds, strict=True)
        )
        self._discarded: list[Span] = []
        self._to_collapse: list[tuple[int, int]] = []
        # Of those that were passed on.
        self._collapsing_count = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._is_over = False

    def discard(self, span: Span) -> None:
        """Queue a stretch for unmapping; `settle` applies it."""
        self._discarded.append(span)

    async def settle(self) -> None:
        """Unmap what was discarded, in a bounded number of calls.

        Raises:
            GuestFailed: The guest process died, or the kernel refused.
        """
        spans = at_most(self._discarded, ORDER_RANGE_COUNT_MAX)
        self._discarded.clear()
        await self._guest.discard([(self._address(span), span.length) for span in spans])

    def place(self, span: Span) -> None:
        """Map a stretch whose bytes are all in memory, and wake who waits in it.

        Raises:
            GuestFailed: The guest process is gone, or the kernel refused.
        """
        try:
            self._userfaultfd.map_pages(
                self._address(span), span.length, self._step_bytes[span.block]
            )
        except OSError as error:
            raise self._failure(span, error) from error

    def wake(self, vcpu: int) -> None:
        """Do nothing: whoever waits for a page is woken by the call that maps it."""

    def release(self, vcpu: int, span: Span) -> None:  # noqa: ARG002 - all who wait there wake
        """Map a stretch from its beginning, as far as nothing of it is mapped, and wake."""
        if self._is_over:
            # All were woken; one of them may not have told of it yet.
            return
        step_bytes = self._step_bytes[span.block]
        offset = span.offset // step_bytes * step_bytes
        whole = Span(span.block, offset, span.end - offset)
        try:
            self._userfaultfd.map_some(self._address(whole), whole.length, step_bytes)
        except OSError as error:
            raise self._failure(span, error) from error

    def take_faults(self) -> list[Fault]:
        """Return who was stopped where, and have those vCPUs tell when they run again.

        Raises:
            GuestFailed: Something else than a vCPU touched what only vCPUs may.
        """
        faults = []
        for fault in self._userfaultfd.read_faults():
            vcpu = self._vcpus.get(fault.thread_id)
            if vcpu is None:
                raise GuestFailed(
                    f"thread {fault.thread_id} is no vCPU and touched guest memory that is missing"
                )
            self._guest.note_stopped(vcpu)
            faults.append((vcpu, self._flat(fault.address)))
        return faults

    async def wait_faults(self) -> None:
        """Return when a vCPU has been stopped."""
        await trio.lowlevel.wait_readable(self._userfaultfd.fd)

    def completed(self, span: Span) -> None:
        """Queue whole pages to be mapped by huge pages, where their memory is made of these."""
        if self._collapsible[span.block]:
            self._to_collapse.append((self._address(span), span.length))
            self._changed.unpark_all()

    def collapsed(self, range_count: int) -> None:
        """Count so many stretches as seen to, by the guest's word."""
        self._collapsing_count -= range_count
        self._changed.unpark_all()

    async def run(self) -> None:
        """Pass on what is to be mapped by huge pages, until cancelled."""
        while True:
            while not self._to_collapse:
                await self._changed.park()
            ranges = self._to_collapse[:ORDER_RANGE_COUNT_MAX]
            del self._to_collapse[:ORDER_RANGE_COUNT_MAX]
            self._collapsing_count += len(ranges)
            await self._guest.collapse(ranges)

    async def finish(self) -> None:
        """Stop no vCPU any more, who still waits wakes; see huge pages mapped as such.

        Raises:
            GuestFailed: The guest process is gone.
        """
        self._is_over = True
        for address, block in zip(self._addresses, self._geometry.blocks, strict=True):
            self._userfaultfd.unregister(address, block.length_bytes)
        with trio.move_on_after(_COLLAPSE_SECONDS_MAX):
            while self._to_collapse or self._collapsing_count:
                await self._changed.park()

    def _address(self, span: Span) -> int:
        return self._addresses[span.block] + span.offset

    def _flat(self, address: int) -> int:
        place = bisect_right(self._ascending, (address, len(self._ascending))) - 1
        begin, block = self._ascending[place]
        return self._geometry.flat_target_page(block, (address - begin) // TARGET_PAGE_BYTES)

    def _failure(self, span: Span, error: OSError) -> GuestFailed:
        name = self._geometry.blocks[span.block].name
        return GuestFailed(f"RAMBlock {name!r}: cannot map {span.length} bytes: {error.strerror}")


def make_placement(memory: GuestMemory, guest: Guest) -> Placement:
    """Return the placement that a guest was started for."""
    if guest.service.name == USERFAULT and guest.service.userfaultfd is not None:
        return UserfaultPlacement(memory, guest, guest.service.userfaultfd)
    return SimulatedPlacement(memory.geometry, guest)
