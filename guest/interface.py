"""What an engine may do with a guest, whatever kind of guest it is.

A guest runs over memory that its engine owns (guest/memory.py), and is opened by `open_guest`
(guest/handle.py); from then on an engine knows it by what stands here:

    run             start
    pause           stop at a boundary, between two accesses; or anywhere, as soon as that can be
    load            state in; out it comes with each pause
    choose_dirty_log    what tells which pages it writes to
    service         what the kernel does for the engine: whom it stops, and where
    receive, take   what the guest reports: faults, wake-ups, wrong reads
    wake, note_stopped, set_present, clear_present      answers to faults
    discard, collapse   how its memory is mapped
    counters, accesses  statistics

Programs, their replay and the control page are the simulated guest's own: no engine looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from guest.board import VcpuCounters
from guest.dirty_log import DirtyLog
from guest.messages import Collapsed, Faulted, GuestEvent, Mismatch, Touched, Woke
from guest.services import Service
from guest.spec import ProgramSpec
from guest.states import VcpuState

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

__all__ = [
    "Collapsed",
    "Faulted",
    "Guest",
    "GuestEvent",
    "GuestSnapshot",
    "Mismatch",
    "Touched",
    "VcpuCounters",
    "Woke",
]


@dataclass(frozen=True)
class GuestSnapshot:
    """A paused guest: the state that crosses, and what its vCPUs have counted, by vCPU number."""

    states: tuple[VcpuState, ...]
    counters: tuple[VcpuCounters, ...]


class Guest(Protocol):
    """A guest; it starts paused.

    Attributes:
        spec: What its vCPUs do, and how many there are.
        service: What the kernel does for the engine (guest/services.py); the guest closes it.
    """

    spec: ProgramSpec
    service: Service

    @property
    def is_running(self) -> bool:
        """Whether the vCPUs were last told to run."""

    async def run(self) -> None:
        """Let all vCPUs run; nothing changes if they do."""

    async def pause(self, *, anywhere: bool = False) -> GuestSnapshot:
        """Stop all vCPUs; return their state.

        A vCPU that waited for a page faults again when it runs again, unless the page is there by
        then.

        Args:
            anywhere: Stop each vCPU where it is, also in the middle of an access and at a page that
                nobody provides, if this kind of guest can; the state then says all that there is
                to know of it.  Otherwise vCPUs stop before their next access, and one that the
                kernel has stopped at a page when it has made the access: so somebody has to go on
                serving faults.

        Raises:
            GuestFailed: The guest died, or a vCPU does not stop.
        """

    async def load(self, states: tuple[VcpuState, ...]) -> None:
        """Put the vCPUs where `states` say; only while the guest is paused.

        Raises:
            LocalProtocolError: It is not paused, or these are not its vCPUs.
            GuestFailed: The guest died, or cannot take them.
        """

    async def kill(self) -> None:
        """End the guest for good, also vCPUs that the kernel holds: nobody touches memory any more.

        What was counted stays.
        """

    def choose_dirty_log(self) -> tuple[DirtyLog, str]:
        """Return what tells of the guest's writes, and why it is no better one if that was wished.

        Call it before the guest runs.
        """

    def set_present(self, pages: slice) -> None:
        """Let vCPUs touch these flat target pages; then `wake` who waits for them.

        For vCPUs that look before they touch; the others, which the kernel stops, never look.
        """

    def clear_present(self, pages: slice) -> None:
        """Make vCPUs that look first fault on these flat target pages; only while paused."""

    def note_stopped(self, vcpu: int) -> None:
        """Have a vCPU that the kernel has stopped at a page say so when it runs again."""

    def wake(self, vcpu: int) -> None:
        """Make a sleeping vCPU look again whether its page is present; cheap, never blocks."""

    async def discard(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Unmap ranges of what vCPUs touch; the bytes stay in memory.  Only while it is paused.

        Args:
            ranges: (address, length) of whole pages, at most ORDER_RANGE_COUNT_MAX.

        Raises:
            GuestFailed: The guest died, or the kernel refused.
        """

    async def collapse(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Have ranges mapped by huge pages, by and by; `Collapsed` says when that is done.

        Args:
            ranges: (address, length) of whole huge pages, at most ORDER_RANGE_COUNT_MAX.

        Raises:
            GuestFailed: The guest died.
        """

    async def touch(self, vcpu: int, flat_page: int) -> None:
        """Let a vCPU of a "scripted" guest read a target page, after those it was told before.

        Returns when the order is given; `Touched` says when it is done.

        Raises:
            LocalProtocolError: There is no such vCPU or page, or the guest has a program to follow.
            GuestFailed: The guest died.
        """

    async def receive(self) -> GuestEvent:
        """Return the next thing that the guest reports; one caller at a time.  Safe to cancel.

        Raises:
            GuestFailed: The guest died; says how.
        """

    def take(self) -> GuestEvent | None:
        """Return the next thing that the guest has reported, None if it is still to come."""

    def counters(self, vcpu: int) -> VcpuCounters:
        """Return what a vCPU has done so far: exact while it is paused, nearly so while it runs."""

    def accesses(self) -> HdrHistogram:
        """Return the access latencies of all vCPUs in nanoseconds, from when each was due.

        Takes some milliseconds: not for the downtime.
        """
