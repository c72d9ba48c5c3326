"""What bytes wait for before they may go: a limit, and others that the kernel holds.  Pure.

Bytes in the kernel cannot be preempted.  So the background waits for its bandwidth limit and behind
urgent bytes, and what goes first in the host's queues waits for what somebody waits for below; what
lies too deep goes again.  Each of these is asked how a channel delivers first, and answers once.
"""

from __future__ import annotations

from collections.abc import Mapping

from guest.streams.stream import Delivery
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from source.buffering import Backlog
from source.commands import Look, Until, Wait, Write
from source.jobs import Lies
from source.leaving import Leaving
from source.outlet import Outlet
from source.overtaking import Overtaking
from source.pacing import Pacer
from source.scheduler import Scheduler

# See `source.scheduler`: a look at an enumeration's member is not free.
_PRECOPY, _POSTCOPY = Channel.PRECOPY, Channel.POSTCOPY


class Gate:
    """Tells what is next whether it may go, or what it is to wait for.

    A `Look` is to be done first; then the same is asked again.

    Attributes:
        scheduler: What is to be sent, and in which order.
        pacer: Holds the background to a bandwidth.
        backlog: Hears of urgent bytes that the background is to wait for.
        leaving: What goes first waits for; None where it waits for nothing.
        held: What it waits for now, or has waited for last.
        overtaking: Knows what may be overtaken; None where the policy overtakes nothing.
    """

    def __init__(
        self, scheduler: Scheduler, outlets: Mapping[Channel, Outlet], pacer: Pacer
    ) -> None:
        """Begin with nothing in the kernel.

        Args:
            scheduler: What is to be sent, and in which order.
            outlets: Where it goes.
            pacer: Holds the background to a bandwidth.
        """
        self.pacer = pacer
        self.backlog = Backlog()
        self.leaving: Leaving | None = None
        self.held: Until | None = None
        self.overtaking = Overtaking(outlets[_PRECOPY]) if scheduler.policy.overtakes else None
        self.scheduler = scheduler
        self._outlets = outlets
        # Who wants to know what is looked at.
        self._looking: Backlog | Leaving | Overtaking = self.backlog

    def keep_behind(self) -> None:
        """Have what goes first in this host's queues wait for urgent bytes that lie below it.

        So nothing urgent goes over the postcopy channel before those on the precopy channel have
        left.
        """
        self.leaving = Leaving(self._outlets[_PRECOPY], self._outlets[_POSTCOPY])

    def delivers(self, delivery: Delivery) -> None:
        """Say how the channel that was to be looked at delivers."""
        self._looking.delivers(delivery)

    def find(self, page: PageId, target_page: int) -> Lies | Look | None:
        """Return where what is requested lies, as far as that matters.

        Raises:
            RemoteProtocolError: The guest has no such page.
        """
        overtaking, scheduler = self.overtaking, self.scheduler
        if overtaking is None:
            return None
        unit = scheduler.unit_of(page, target_page)
        if unit.length != TARGET_PAGE_BYTES or scheduler.remaining.holds_any(unit):
            return None
        if overtaking.is_unknown(unit):
            self._looking = overtaking
            return _LOOK_BELOW
        return overtaking.find(unit)

    def hold(self, wait: Wait | None, now_ns: int) -> Look | Until | None:
        """Return what goes before what goes first, None if nothing does.

        Args:
            wait: What its lane's task waits for.
            now_ns: The time.
        """
        held, leaving = self.held, self.leaving
        assert leaving is not None, "nothing is kept behind"
        if held is not None and wait is held and now_ns < held.at_ns:
            return held
        if leaving.is_unknown or (pause_ns := leaving.pause_ns(now_ns)) is None:
            self._looking = leaving
            return Look(leaving.looks_at)
        if not pause_ns:
            return None
        self._outlets[_PRECOPY].pause()
        self.held = Until(now_ns + pause_ns)
        return self.held

    def admit(self, write: Write, now_ns: int) -> Write | Look | Until:
        """Return a write of the background with what may go, or what it is to wait for."""
        backlog = self.backlog
        if backlog.is_unknown:
            self._looking = backlog
            return _LOOK
        pause_ns = backlog.pause_ns(now_ns)
        if not pause_ns:
            limit, pause_ns = self.allowance(write, now_ns)
            if limit:
                write.limit = limit
                write.paced = True
                return write
        write.outlet.pause()
        return Until(now_ns + pause_ns)

    def allowance(self, write: Write, now_ns: int) -> tuple[int, int]:
        """Return how many bytes of a background frame may go now; of none, how long (ns)."""
        wanted_bytes = write.frame.length - write.frame.sent
        allowed_bytes = self.pacer.allowance(wanted_bytes, now_ns)
        return allowed_bytes, 0 if allowed_bytes else self.pacer.wait_ns(wanted_bytes, now_ns)


_LOOK = Look(_POSTCOPY)
_LOOK_BELOW = Look(_PRECOPY)
