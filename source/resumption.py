"""What was left at the destination: who comes back after a break, and what goes again.  Pure.

The destination says what it misses, by the target page.  That is what is sent from then on, neither
more nor less: what the source thought it had sent decides nothing (`ram_dirty_bitmap_reload` in
QEMU's `migration/ram.c` does the same with whole pages).  It is compared with it, though: a
destination that misses what it had before, or holds what never went, or does not run a guest that
was seen to run there, is not the one that was left.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol import events
from protocol.channels import Channel
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.limits import RECOVER_SECONDS_MAX
from protocol.messages import HeldPart, MissingMap, PageRest, Standing
from protocol.missing import HeldParts, MissingReader, span_of_part
from protocol.pageset import PageSet
from protocol.policy import Policy
from source.framing import Blocks
from source.halfsent import treatment
from source.outlet import Outlet
from source.scheduler import Scheduler
from source.steps import LATE, Do, Now, Say, Steps, Within


@dataclass(frozen=True)
class Lacking:
    """What a destination lacks after a break, as it says.

    Attributes:
        missing: Every target page that is not here whole.
        held: How many bytes are here of which of them.
    """

    missing: PageSet
    held: HeldParts

    def untouched(self) -> PageSet:
        """Return the target pages of which nothing is there."""
        result = self.missing.copy()
        for key in self.held:
            result.remove(span_of_part(key))
        return result


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
        self._overtakes = policy.overtakes
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

    def hear_standing(self, now: Now) -> Steps[tuple[Standing, Lacking]]:
        """Hear over new connections where the destination stands after a break, and what it lacks.

        Raises:
            ConnectionLost: It broke again, or does not say in time.
            PeerAborted: The destination ended the session.
            RemoteProtocolError: It says something else.
        """
        reader = MissingReader(self._geometry)
        until = now.seconds + RECOVER_SECONDS_MAX
        while (received := (yield Within(Do.HEAR, until - now.seconds))) is not LATE:
            match received.message:
                case MissingMap():
                    reader.add(received.message, received.payload)
                case HeldPart():
                    reader.add_part(received.message)
                case Standing():
                    standing = received.message
                    return standing, Lacking(reader.finish(standing), reader.held)
                case other:
                    name = type(other).__name__
                    raise RemoteProtocolError(f"{name} came where Standing was due")
        raise ConnectionLost(
            f"the destination did not say in {RECOVER_SECONDS_MAX:g} s what it has",
            Channel.PRECOPY.value,
        )

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

    def send_rests(self, memory: Blocks, main: Outlet, emit: Emit) -> Steps[None]:
        """Send of each target page in which a break cut a frame off what the destination lacks.

        Args:
            memory: The guest's.
            main: The precopy channel's, with nothing under way.
            emit: Takes events: a page may be whole with them.

        Raises:
            ConnectionLost: The connection broke.
        """
        geometry, remaining = self._geometry, self._scheduler.remaining
        while self.rests:
            (block, target_page), held_bytes = self.rests.popitem()
            end = (target_page + 1) * TARGET_PAGE_BYTES
            rest = memory.views[block][end - TARGET_PAGE_BYTES + held_bytes : end]
            offset = end - len(rest)
            yield Say(PageRest(payload_bytes=len(rest), block=block, offset=offset), rest)
            main.target_pages_sent += 1
            main.data_bytes_sent += len(rest)
            page = geometry.page_of(block, target_page)
            also = [geometry.page_of(*key) for key in self.rests]
            if page not in also and not remaining.holds_page(page):
                emit(
                    events.PageSent(
                        block=block, page=page.index, channel=main.name.value, urgent=False,
                        boosted=False, pages=1, channel_bytes=main.bytes_carried,
                        remaining_bytes=remaining.length_bytes,
                    )
                )  # fmt: skip

    @property
    def _may_have_copies(self) -> bool:
        """Whether what came changed and goes again may be there by its other copy."""
        return self._overtakes and self._scheduler.counts.changed_frames > 0

    def _lost_bytes(self, lacking: Lacking) -> int:
        """Return how many bytes went and did not arrive.

        Raises:
            RemoteProtocolError: That cannot be.
        """
        return lost_bytes(
            self._left_to_miss, self._scheduler.remaining, self.rests, lacking,
            goes_twice=self._goes_twice or self._handed_over_again or self._may_have_copies,
        )  # fmt: skip


def lost_bytes(
    handed_over: PageSet, unsent: PageSet, rests: HeldParts, lacking: Lacking, *, goes_twice: bool
) -> int:
    """Return how many bytes went and did not arrive.

    Args:
        handed_over: What was missing there when the guest was handed over.
        unsent: What no byte was sent of yet.
        rests: Target pages of which no more was sent since the last break, and what was there then.
        lacking: What is missing now, as the destination says.
        goes_twice: What is unsent may have gone before, and be there: the policy sends pages again
            of which the destination holds a part, or the guest was handed over anew.

    Raises:
        RemoteProtocolError: It misses more than it was left to miss, or holds what was never sent.
    """
    missing = lacking.missing
    more = missing.count_beyond(handed_over)
    if more:
        raise RemoteProtocolError(f"{more} target pages are said to be missing that never were")
    never_sent = unsent.count_beyond(missing)
    if never_sent and not goes_twice:
        raise RemoteProtocolError(f"{never_sent} target pages are said to be there that never went")
    if not rests.items() <= lacking.held.items():
        raise RemoteProtocolError("other parts of target pages are said to be there than were")
    if not goes_twice and any(unsent.holds_any(span_of_part(key)) for key in lacking.held):
        raise RemoteProtocolError("parts of target pages are said to be there that never went")
    unsent_bytes = sum(TARGET_PAGE_BYTES - held_bytes for held_bytes in rests.values())
    there_bytes = sum(lacking.held.values())
    # What goes twice may be there before it goes again.
    return max(missing.count_beyond(unsent) * TARGET_PAGE_BYTES - there_bytes - unsent_bytes, 0)
