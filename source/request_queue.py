"""The page requests that wait for their turn, and whose turn it is.  Pure."""

from __future__ import annotations

from collections import OrderedDict

from protocol.geometry import Span
from protocol.policy import Policy
from source.guarding import GuardedOrder
from source.halfsent import HalfSentPage
from source.jobs import Job
from source.scheme import Request, Scheme


class RequestQueue(OrderedDict[Span, Job]):
    """Jobs by their units, oldest request first; at most one for each unit.

    A *unit* is what is urgent of a page: all, or its touched target page.  The job is what would
    serve the request were the page untouched.

    Attributes:
        copied: Target pages that went twice to overtake what they lay behind, and do not again.
    """

    def __init__(self, policy: Policy) -> None:
        """Begin with none.

        Raises:
            PolicyFailed: A user's order cannot be made.
        """
        super().__init__()
        self.copied: set[Span] = set()
        self._order: GuardedOrder | None = None
        if isinstance(policy, Scheme) and policy.order is not None:
            self._order = GuardedOrder(policy.name, policy.order)

    @property
    def failure(self) -> str:
        """What was wrong with a user's order, which is not asked any more; empty if nothing."""
        return self._order.failure if self._order is not None else ""

    def forget(self) -> None:
        """Have neither requests nor what went twice: after a break they come again."""
        self.clear()
        self.copied.clear()

    def take(self, half_sent: HalfSentPage) -> tuple[Span, Job]:
        """Take out the request whose turn it is: the oldest, where no order says otherwise.

        Args:
            half_sent: The page that was broken off in the background, for an order to know of.
        """
        if self._order is None or self._order.failure:
            return self.popitem(last=False)
        waiting = [Request(job.page, job.requested_ns or 0) for job in self.values()]
        page = half_sent.job.page if half_sent.job is not None else None
        unit = list(self)[self._order.pick(waiting, page)]
        return unit, self.pop(unit)
