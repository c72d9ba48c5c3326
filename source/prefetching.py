"""All that has a say in what the background sends next.  Pure.

In this order: what is left of pages whose touched part went ahead, where the policy is critical;
what a user's prefetcher picks; and a place for the scan to go on at, where the policy has locality.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from protocol.channels import Channel
from protocol.geometry import PageId, Span
from protocol.pageset import PageSet
from protocol.policy import Policy
from protocol.runs import Stretch
from source.guarding import GuardedPrefetcher
from source.jobs import covers
from source.prefetched import Prefetched
from source.prefetchers.demotion import DemotedRest
from source.prefetchers.locality import GoOnBehind
from source.scheme import Pick, Prefetcher, Remaining, Scheme


class Prefetching:
    """Asks one prefetcher after the other.

    Attributes:
        prefetched: What a user's picked; None where there is none.
        hears: There is a user's, which hears of all that happens.
        is_silent: Nobody has anything to say until the next request is served.
    """

    def __init__(self, policy: Policy, remaining: PageSet) -> None:
        """Make what the policy has; `restart` before all else.

        Args:
            policy: Says which prefetchers there are.
            remaining: What no chunk was made of yet; kept up to date by the scheduler.

        Raises:
            PolicyFailed: A user's cannot be made.
        """
        self.prefetched: Prefetched | None = None
        self._geometry = remaining.geometry
        self._remaining = remaining
        self._view = Remaining(remaining)
        self._demoted = DemotedRest() if policy.critical else None
        self._behind = GoOnBehind() if policy.locality else None
        self._made: GuardedPrefetcher | None = None
        if isinstance(policy, Scheme) and policy.prefetcher is not None:
            self._made = GuardedPrefetcher(policy.name, policy.prefetcher)
            self.prefetched = Prefetched(self._geometry)
        # A user's is told nothing before it is told of the guest.
        self._users: GuardedPrefetcher | None = None
        self.hears = False
        self.is_silent = True
        self._all: list[Prefetcher] = [
            each for each in (self._demoted, self._made, self._behind) if each is not None
        ]
        # What a user's has picked and did not go, or not all of it; it comes before its next.
        self._pending: deque[Pick] = deque()

    @property
    def failure(self) -> str:
        """What was wrong with a user's prefetcher, which is not asked again; empty if nothing."""
        return self._made.failure if self._made is not None else ""

    def restart(self) -> None:
        """Begin, or begin again after a break, with what remains now."""
        self._pending.clear()
        self._users = self._made
        self.hears = self._users is not None
        self.is_silent = not self.hears
        if self.prefetched is not None:
            self.prefetched.lost(self._remaining)
        for prefetcher in self._all:
            prefetcher.restart(self._geometry, self._view)

    def requested(self, page: PageId, target_page: int, now_ns: int, answer: str) -> None:
        """Tell a user's prefetcher of a request, and of the answer to it."""
        if self._users is not None and self.prefetched is not None:
            self.prefetched.requested(page)
            self._users.requested(page, target_page, now_ns, answer)

    def served(self, page: PageId, urgent: Span) -> None:
        """Tell all that a request's turn has come; `urgent` is what of its page is."""
        self.is_silent = False
        if self._demoted is not None:
            self._demoted.served(page, urgent)
        if self._users is not None:
            self._users.served(page, urgent)
        if self._behind is not None:
            self._behind.served(page, urgent)

    def sent(self, stretch: Stretch, channel: Channel) -> None:
        """Tell a user's prefetcher of the pages of a stretch, which are whole with a connection."""
        if self._users is None or not self._users.hears_sent:
            return
        for span in (stretch,) if isinstance(stretch, Span) else stretch.spans():
            for index in self._geometry.pages_of(span):
                self._users.sent(PageId(span.block, index), channel.value)

    def next(self, avoid: Stretch | None = None) -> tuple[Pick | None, bool]:
        """Return what to send next, or where the scan is to go on, and whether a user's says so.

        Args:
            avoid: A page that is being sent elsewhere: one that picks it has no say in this turn.
        """
        if self._demoted is not None and (pick := self._demoted.next(self._view)) is not None:
            return pick, False
        if self._users is not None and (pick := self._users_next(avoid)) is not None:
            return pick, True
        if self._behind is not None and (pick := self._behind.next(self._view)) is not None:
            return pick, False
        self.is_silent = not self.hears
        return None, False

    def more(self, block: int, count_max: int) -> Iterator[Pick]:
        """Yield base pages of a block that a user's picks now and that may go together."""
        if not self._geometry.has_base_pages[block]:
            return
        for _ in range(count_max):
            pick = self._users_next(None)
            if pick is None:
                return
            if pick.go_on or pick.page.block != block:
                self._pending.appendleft(pick)
                return
            yield pick

    def put_back(self, picks: Iterable[Pick]) -> None:
        """Take back what did not go of a user's picks."""
        self._pending.extendleft(reversed(list(picks)))

    def _users_next(self, avoid: Stretch | None) -> Pick | None:
        pick = self._pending_next() or self._picked()
        if pick is None or avoid is None or pick.go_on:
            return pick
        if not covers(avoid, self._geometry.page_span(pick.page)):
            return pick
        self._pending.appendleft(pick)
        return None

    def _pending_next(self) -> Pick | None:
        while self._pending:
            pick = self._pending.popleft()
            # It may have been asked for meanwhile.
            if pick.go_on or self._view.holds(pick.page):
                return pick
        return None

    def _picked(self) -> Pick | None:
        assert self._users is not None
        pick = self._users.next(self._view)
        if pick is not None and self.prefetched is not None and not pick.go_on:
            self.prefetched.picked(pick, self._remaining)
        return pick
