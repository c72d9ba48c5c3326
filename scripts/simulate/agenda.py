"""The clock of a simulated run and what is due, and processors that do one thing after the other.

Pure: the same agenda gives the same run.  A handler runs at the time that it was put in for, and
what it uses of its processor is added while it runs, so that who looks at the clock sees it pass.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from scripts.simulate.model import Model

Handler = Callable[..., None]
_Method = TypeVar("_Method", bound=Handler)

# The engines take 0 for "never".
START_NS = 1_000_000_000


def goes_on(handler: _Method) -> _Method:
    """Mark a handler as one of a stream that goes by itself: `Agenda.shift` moves it with that."""
    handler.goes_on = True  # type: ignore[attr-defined]
    return handler


def is_own(handler: Handler) -> bool:
    """Return whether a handler is so marked."""
    return getattr(handler, "goes_on", False)


class Due(NamedTuple):
    """Something to come: when, and what is called with what then."""

    time_ns: int
    do: Handler
    arguments: tuple[Any, ...]


class Agenda:
    """Events to come, by their time in nanoseconds from `START_NS` on.

    Attributes:
        now_ns: When the handler that runs was due.
        used_ns: What it has used of its processor since.
        count: How many handlers were put in so far.
        after: Called once, when the handler that runs has ended.
        rng: All chance of the run.
    """

    __slots__ = ("_heap", "after", "count", "now_ns", "rng", "used_ns")

    def __init__(self, seed: int) -> None:
        """Begin with nothing to happen.

        Args:
            seed: Of all chance.
        """
        self.now_ns = START_NS
        self.used_ns = 0
        self.count = 0
        self.after: Callable[[], None] | None = None
        self.rng = np.random.default_rng(seed)
        self._heap: list[tuple[int, int, Handler, tuple[Any, ...]]] = []

    def clock_ns(self) -> int:
        """Return the time, as whoever looks at a clock sees it."""
        return self.now_ns + self.used_ns

    def at(self, time_ns: int, do: Handler, *arguments: object) -> None:
        """Schedule something; of two at the same time the first one scheduled goes first."""
        self.count += 1
        heapq.heappush(self._heap, (time_ns, self.count, do, arguments))

    def run(self, is_over: Callable[[], bool]) -> bool:
        """Do what is due, in order, until it is over; tell whether that has come."""
        heap, pop = self._heap, heapq.heappop
        while not is_over():
            if not heap:
                return False
            self.now_ns, _, do, arguments = pop(heap)
            self.used_ns = 0
            do(*arguments)
            if self.after is not None:
                after, self.after = self.after, None
                after()
        return True

    def own(self) -> list[Due]:
        """Return what is marked as going on by itself, in the order in which it comes."""
        # No two have the same number.
        found = sorted(each for each in self._heap if is_own(each[2]))
        return [Due(time_ns, do, arguments) for time_ns, _, do, arguments in found]

    def first_other_ns(self) -> int | None:
        """Return when the first thing is due that is not; None for never."""
        return min((each[0] for each in self._heap if not is_own(each[2])), default=None)

    def shift(self, passed_ns: int, moved: Callable[[Any], Any]) -> None:
        """Let a time pass in which nothing else was due.

        Args:
            passed_ns: How long.
            moved: Returns what stands in for an argument of what goes on by itself.
        """
        own = self.own()
        self._heap[:] = [each for each in self._heap if not is_own(each[2])]
        heapq.heapify(self._heap)
        self.now_ns += passed_ns
        for time_ns, do, arguments in own:
            self.at(time_ns + passed_ns, do, *map(moved, arguments))


class Processor:
    """The event loop of one side's process: what comes to it waits for what came before.

    Attributes:
        busy_ns: What was used of it so far.
    """

    __slots__ = (
        "_agenda",
        "_awake_ns",
        "_free_at_ns",
        "_is_due",
        "_late_ns",
        "_noise_ns",
        "_put_off_ns",
        "_queue",
        "busy_ns",
    )

    def __init__(self, agenda: Agenda, *, awake_ns: int, late_ns: int, noise_ns: int) -> None:
        """Begin with nothing to do.

        Args:
            agenda: The run's.
            awake_ns: How long it looks for work before it sleeps.
            late_ns: How long it takes to be woken.
            noise_ns: The mean of what other processes take of its time at each wake-up.
        """
        self._agenda = agenda
        self._awake_ns, self._late_ns, self._noise_ns = awake_ns, late_ns, noise_ns
        self._free_at_ns = 0
        # What waits for it, and when that is done but for what all of it was put off by.
        self._queue: deque[tuple[int, Handler, tuple[Any, ...]]] = deque()
        self._put_off_ns = 0
        self._is_due = False
        self.busy_ns = 0

    def submit(self, cost_ns: float, do: Handler, *arguments: object) -> None:
        """Queue something that takes so long; it is done as soon as its turn comes.

        It happens at its end.
        """
        agenda = self._agenda
        now_ns = agenda.now_ns + agenda.used_ns
        start_ns = self._free_at_ns
        if start_ns < now_ns:
            idle_ns = now_ns - start_ns
            start_ns = now_ns + (self._late_ns if idle_ns > self._awake_ns else 0)
            if self._noise_ns:
                start_ns += int(agenda.rng.exponential(self._noise_ns))
        cost = int(cost_ns)
        self._free_at_ns = start_ns + cost
        self.busy_ns += cost
        queue = self._queue
        queue.append((self._free_at_ns - self._put_off_ns, do, arguments))
        if not self._is_due:
            self._is_due = True
            agenda.at(queue[0][0] + self._put_off_ns, self._turn)

    def lag_ns(self, cost_ns: float, since_ns: int) -> int:
        """Say that something took so long that could be done from a time on; return what is left.

        That is what the time since then, as far as nothing else was done in it, was not enough for.
        """
        since_ns = max(self._free_at_ns, since_ns)
        done_ns = min(int(cost_ns), max(0, self._agenda.now_ns - since_ns))
        if done_ns:
            self._free_at_ns = since_ns + done_ns
            self.busy_ns += done_ns
        return int(cost_ns) - done_ns

    @property
    def free_at_ns(self) -> int:
        """When it has done all that waits for it."""
        return self._free_at_ns

    def queued(self) -> list[Handler]:
        """Return what waits for it."""
        return [do for _, do, _ in self._queue]

    def state(self) -> Hashable:
        """Return all that matters of it, as seen from now."""
        now_ns = self._agenda.now_ns
        return (
            self._free_at_ns - now_ns, self._is_due,
            *(
                (due_ns + self._put_off_ns - now_ns, do.__name__) for due_ns, do, _ in self._queue
            ),
        )  # fmt: skip

    def shifted(self, passed_ns: int, busy_ns: int) -> Callable[[], None]:
        """Return what makes it so much later than it is now, and busy for so long in between.

        Whatever was used of it meanwhile does not count.
        """
        free_at_ns, before_ns = self._free_at_ns, self.busy_ns
        put_off_ns, queue = self._put_off_ns, self._queue.copy()

        def shift() -> None:
            self._free_at_ns, self.busy_ns = free_at_ns + passed_ns, before_ns + busy_ns
            self._put_off_ns, self._queue = put_off_ns + passed_ns, queue

        return shift

    def use(self, cost_ns: float) -> None:
        """Say that the handler that runs, one of this processor's, takes so much longer.

        All that waits for it is done so much later.
        """
        cost = int(cost_ns)
        agenda = self._agenda
        self._free_at_ns = max(self._free_at_ns, agenda.now_ns + agenda.used_ns) + cost
        agenda.used_ns += cost
        self.busy_ns += cost
        self._put_off_ns += cost

    @goes_on
    def _turn(self) -> None:
        """Do something whose turn has come, unless what was done before it took longer."""
        queue = self._queue
        self._is_due = False
        if queue[0][0] + self._put_off_ns <= self._agenda.now_ns:
            _, do, arguments = queue.popleft()
            do(*arguments)
        # Only the first in the queue is on the agenda.
        if queue and not self._is_due:
            self._is_due = True
            self._agenda.at(queue[0][0] + self._put_off_ns, self._turn)


@dataclass(frozen=True)
class Host:
    """A processor, which a side runs on.

    Attributes:
        agenda: The run's.
        model: What things take.
        processor: This side's.
    """

    agenda: Agenda
    model: Model
    processor: Processor

    @classmethod
    def of(cls, agenda: Agenda, model: Model) -> Host:
        """Return one with a processor of its own."""
        processor = Processor(
            agenda, awake_ns=model.awake_ns, late_ns=model.late_ns, noise_ns=model.noise_ns
        )
        return cls(agenda, model, processor)
