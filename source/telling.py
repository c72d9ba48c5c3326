"""When the destination is told of its requests: never before bytes that somebody waits for.  Pure.

What is told is `source.tracking`'s.  It goes when nobody waits for bytes, or when those wait for
room, and then not over their channel; where neither is ever so, once there is enough of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.channels import Channel
from protocol.messages import RequestAnswer
from source.commands import Tell, Until
from source.outlet import Outlet
from source.scheduler import Scheduler
from source.tracking import RequestTracker

# Where requests never run out, one page in so many waits until it is told of those before.
UNTOLD_COUNT_MAX = 16
# So many are told before a frame of the background; one by one they took both ends' time from the
# next request (1 Gbit/s, `critical-first`, 1 vCPU, 9 rounds: 99 of 100 faults within 3.3 instead of
# 2.3 ms).
TOLD_TOGETHER = 8
# After so long it is told though the background, before whose frames that is done, does not go on.
TELL_NS = 5_000_000


class Telling:
    """Chooses the moments to tell of requests, and the channels.

    After each `Tell` that it returns its user says with `told` whether that went.

    Attributes:
        tracker: Knows what there is to tell; None where nothing is told, or no more.
        is_overdue: Enough is untold to be in somebody's way for once.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        outlets: Mapping[Channel, Outlet],
        tracker: RequestTracker | None,
    ) -> None:
        """Start with what the tracker has."""
        self.tracker = tracker
        self.is_overdue = False
        self._scheduler = scheduler
        self._outlets = outlets
        self._answers: list[RequestAnswer] = []
        # A frame of the background has gone since this was last tried before one.
        self._may_try = True
        # When it is told without one; None while there is nothing to tell.
        self._due_ns: int | None = None

    @property
    def untold_count(self) -> int:
        """How many requests there is something to tell of."""
        return self.tracker.untold_count if self.tracker is not None else 0

    @property
    def has_many(self) -> bool:
        """Whether enough is untold to be told together, before a frame of the background."""
        return self.tracker is not None and self.tracker.untold_count >= TOLD_TOGETHER

    @property
    def is_idle(self) -> bool:
        """Whether no request waits for its bytes, as far as somebody keeps account."""
        return self.tracker is None or self.tracker.is_idle

    def frame_sent(self) -> None:
        """Say that a frame is whole with its stream."""
        self._may_try = True
        self.is_overdue = self.untold_count >= UNTOLD_COUNT_MAX

    def overdue(self, now_ns: int) -> Tell | None:
        """Return what is told though it may be in somebody's way, None if no channel takes it."""
        self.is_overdue = False
        return self._tell(now_ns)

    def before_background(self, now_ns: int, *, is_full: bool) -> Tell | None:
        """Return what is told before a frame of the background begins, None for nothing.

        Args:
            now_ns: The time.
            is_full: Urgent bytes wait for room, or for their turn.
        """
        if not self.has_many or not self._may_try or self._is_busy(is_full=is_full):
            return None
        self._may_try = False
        return self._tell(now_ns)

    def by_itself(self, now_ns: int, *, is_full: bool) -> Tell | Until | None:
        """Return what is told though no frame is sent, or until when to wait for that.

        None: there is nothing to tell.

        Args:
            now_ns: The time.
            is_full: Urgent bytes wait for room, or for their turn.
        """
        if not self.untold_count:
            self._due_ns = None
            return None
        if self._due_ns is None:
            self._due_ns = now_ns + TELL_NS
        elif now_ns >= self._due_ns:
            self._due_ns = now_ns + TELL_NS
            if not self._is_busy(is_full=is_full) and (tell := self._tell(now_ns)):
                return tell
        return Until(self._due_ns)

    def told(self, *, went: bool) -> None:
        """Say whether a channel took what was to be told; if not, it is told later."""
        answers, self._answers = self._answers, []
        if not went and self.tracker is not None:
            self.tracker.put_back(answers)

    def take_last(self, now_ns: int) -> list[RequestAnswer]:
        """Return all that is untold, oldest first; from then on nothing is told."""
        tracker, self.tracker = self.tracker, None
        return tracker.take(now_ns) if tracker is not None else []

    def _is_busy(self, *, is_full: bool) -> bool:
        """Tell whether somebody waits for bytes that could go now."""
        scheduler = self._scheduler
        # Bytes that wait for room are not held up by what goes over the other channel.
        return not is_full and bool(
            scheduler.queued_requests or any(scheduler.urgent(lane) for lane in scheduler.lanes)
        )

    def _tell(self, now_ns: int) -> Tell | None:
        # A channel in the middle of a frame takes nothing, and urgent bytes are in one.
        channels = tuple(
            name for name, outlet in self._outlets.items() if outlet.open_frame is None
        )
        if self.tracker is None or not channels:
            return None
        self._answers = self.tracker.take(now_ns)
        return Tell(channels, self._answers)
