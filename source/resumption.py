"""What was left at the destination, and whoever comes back after a break is held against.  Pure.

A guest that was seen to run there is not this side's any more; what is there of its memory, and
what is not, must be what went.  How that is worked out is in `recovery`.
"""

from __future__ import annotations

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.messages import Standing
from protocol.missing import HeldParts
from protocol.pageset import PageSet
from protocol.policy import Policy
from source.halfsent import treatment
from source.recovery import Lacking, lost_bytes
from source.scheduler import Scheduler


class Resumption:
    """Knows what a destination may say after a break, and has the scheduler go on from there.

    Attributes:
        rests: How many bytes are there of target pages of which nothing was sent since the last
            break; who sends a rest takes it out.
        runs_there: The destination has said, when it was its turn, that it runs the guest.
    """

    def __init__(self, geometry: Geometry, policy: Policy, scheduler: Scheduler) -> None:
        """Prepare; the guest is here, and the destination lacks nothing that it may lack.

        Args:
            geometry: The guest's blocks.
            policy: Whether pages of which the destination holds a part go again.
            scheduler: Takes what is missing there, and counts what that costs.
        """
        self.rests: HeldParts = {}
        self.runs_there = False
        self._geometry = geometry
        self._goes_twice = treatment(policy).goes_twice
        self._scheduler = scheduler
        # A destination has said that it runs the guest, or a vCPU there has needed a page.
        self._seen_there = False
        self._left_to_miss = PageSet(geometry)
        self._handed_over_again = False
        self._dropped_bytes = 0

    @property
    def rest_bytes(self) -> int:
        """Bytes that the destination lacks of the target pages in `rests`."""
        return sum(TARGET_PAGE_BYTES - held_bytes for held_bytes in self.rests.values())

    def hand_over(self, missing: PageSet) -> None:
        """Note what the destination lacks of a guest that is being handed over."""
        self._left_to_miss = missing

    def see_there(self) -> None:
        """Note that the guest was seen to run there, whether or not it was time to say so."""
        self._seen_there = True

    def confirm_there(self) -> None:
        """Note that the destination has said that it runs the guest, when it was its turn."""
        self.runs_there = True

    def check(self, standing: Standing, lacking: Lacking) -> None:
        """Check that a destination can be the one that was left; nothing changes.

        Args:
            standing: What it says of itself.
            lacking: What it has not received, if it runs the guest.

        Raises:
            RemoteProtocolError: It cannot.
        """
        if not standing.running:
            if self.runs_there or self._seen_there:
                raise RemoteProtocolError("the destination ran the guest and says that it does not")
            return
        self._lost_bytes(lacking)
        if standing.dropped_bytes < self._dropped_bytes:
            raise RemoteProtocolError("the destination takes back what it dropped")

    def hand_over_again(self) -> None:
        """Begin the hand-over anew: the destination has not taken the guest."""
        # Should this be a stranger, the one that was left will hold more than is known then.
        self._handed_over_again = True
        self._scheduler.begin_again(PageSet(self._geometry))

    def take(self, standing: Standing, lacking: Lacking) -> None:
        """Go on with what a destination that runs the guest lacks.

        Args:
            standing: What it says of itself, and `check` found right.
            lacking: What it has not received.

        Raises:
            RemoteProtocolError: It is not the one that was left.
        """
        self.runs_there = True
        counts = self._scheduler.counts
        counts.lost_bytes += self._lost_bytes(lacking)
        counts.resent_bytes += standing.dropped_bytes - self._dropped_bytes
        self._dropped_bytes = standing.dropped_bytes
        self._handed_over_again = False
        self.rests = dict(lacking.held)
        self._scheduler.begin_again(lacking.untouched())

    def _lost_bytes(self, lacking: Lacking) -> int:
        """Return how many bytes went and did not arrive.

        Raises:
            RemoteProtocolError: That cannot be.
        """
        return lost_bytes(
            self._left_to_miss, self._scheduler.remaining, self.rests, lacking,
            goes_twice=self._goes_twice or self._handed_over_again,
        )  # fmt: skip
