"""The link between the sides: two connections' bytes, fluid, through one queue at one rate.  Pure.

Each connection is a *flow*: what its host's kernel was given, and what of that has left.  Which of
two flows goes, and how fast, the queue says: `pfifo_fast` lets the urgent one go first, `fq_codel`
gives each a half, and in a plain FIFO both wait for what lies there already and then share it: one
whose send buffer is bounded has what `Model.bounded_share` says.  Nothing happens between two
changes of that but a rate, so an event a change will do, however many bytes go.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

from protocol.channels import Channel
from scripts.links.spec import FQ_CODEL, PFIFO_FAST, QUEUE_DEFAULT, LinkSpec
from scripts.simulate.agenda import Agenda, Handler
from scripts.simulate.model import Model

# Bytes are told apart to a thousandth: rates are floating-point numbers.
_GRAIN = 1e-3
_NEVER = 1e30

# What is known of a flow's past reaches back at least so many round trips.
_ROUND_TRIPS_KEPT = 3
_HISTORY_MAX = 64

# What a packet carries of a stream.
_PACKET_BYTES = 1448
# TCP's answer to losses where it takes them for congestion (Mathis et al., 1997).
_MATHIS = 1.22


class Flow:
    """One connection on its way out of its host.

    Attributes:
        name: Which.
        has_priority: It has priority, where the queue heeds that.
        is_bounded: Its send buffer is.
        window_bytes: What may be under way at once.
        written: What the kernel was given so far.
        drained: What of it has left.
        is_shut: The other end takes no more.
    """

    __slots__ = (
        "_history",
        "_kept_from",
        "drained",
        "floor_ns",
        "has_priority",
        "held_until",
        "is_bounded",
        "is_shut",
        "looked_byte",
        "marks",
        "name",
        "rate",
        "window_bytes",
        "written",
    )

    def __init__(self, name: Channel, now_ns: int) -> None:
        """Begin with nothing written."""
        self.name = name
        self.has_priority = self.is_bounded = False
        self.window_bytes = 0
        self.written = 0
        self.drained = 0.0
        self.rate = 0.0
        self.is_shut = False
        # What is to be done when a byte has left: byte, number, how much later, what.
        self.marks: list[tuple[float, int, int, bool, Handler, tuple[Any, ...]]] = []
        # The other flow's byte that goes before all of this one.
        self.held_until: float | None = None
        # Where packets may be lost: up to which byte that was settled, and before when nothing
        # later can be handed over there.
        self.looked_byte = 0.0
        self.floor_ns = 0
        # When the rate changed: the time, what had left by then, and the rate from then on.
        self._history: deque[tuple[int, float, float]] = deque([(now_ns, 0.0, 0.0)])
        self._kept_from = now_ns

    def drained_at(self, time_ns: int) -> float:
        """Return how many bytes had left at a time, which is later at each call but by a trip."""
        history = self._history
        while len(history) > 1 and history[1][0] <= time_ns:
            history.popleft()
        since_ns, drained, rate = history[0]
        return drained + max(0, time_ns - since_ns) * rate

    def when_drained(self, byte: float) -> int:
        """Return when a byte left that has."""
        for since_ns, drained, rate in reversed(self._history):
            if drained <= byte:
                return int(since_ns + (byte - drained) / rate) if rate else since_ns
        return self._history[0][0]

    def change_rate(self, rate: float, now_ns: int, kept_ns: int) -> None:
        """Set its rate from now on; forget what was so long ago."""
        self.rate = rate
        self._history.append((now_ns, self.drained, rate))
        if len(self._history) > _HISTORY_MAX:
            self.drained_at(now_ns - kept_ns)


class Link:
    """Both flows of a run in one queue.

    Attributes:
        way_ns: From one host to the other.
        rtt_ns: There and back.
        queue: Which it has, one of `scripts.links.spec.QUEUES`.
        bytes_per_ns: What it carries of both streams together.
    """

    def __init__(self, agenda: Agenda, model: Model, spec: LinkSpec) -> None:
        """Make the link that `--link` says, with both flows idle.

        Args:
            agenda: The run's.
            model: What the kernel does.
            spec: The rate (0 for plain loopback), the queue, the round trip and the loss.
        """
        rate = spec.bytes_per_second or model.loopback_bytes_per_second
        self.rtt_ns = model.round_trip_ns + spec.rtt_us * 1000
        self.way_ns = self.rtt_ns // 2
        self.bytes_per_ns = rate * model.efficiency / 1e9
        self.flows = {name: Flow(name, agenda.now_ns) for name in Channel}
        self._agenda = agenda
        self._loss = spec.loss
        self.queue = spec.queue or QUEUE_DEFAULT
        self._ahead_bytes = model.fifo_bytes
        self._bounded_share = model.bounded_share
        self._overtaken_bytes = model.packet_bytes // 2
        self._last_ns = agenda.now_ns
        self._version = 0
        self._mark_count = 0
        self._first, self._second = self.flows.values()
        self._most = self._rate_under_loss(model)

    @property
    def heeds_priority(self) -> bool:
        """Whether one of the flows can go first."""
        return self.queue == PFIFO_FAST

    def write(self, flow: Flow, count: int) -> None:
        """Give a flow bytes."""
        self.advance()
        if flow.written - flow.drained < 1:
            self._begin_behind(flow)
        flow.written += count
        self.plan()

    def take_back(self, flow: Flow, count: int) -> None:
        """Withdraw the last bytes that a flow was given, which have not left."""
        flow.written -= count
        self.plan()

    def mark(self, flow: Flow, byte: float, later_ns: int, do: Handler, *arguments: object) -> None:
        """Call something so long after a flow's byte has left; then `plan`."""
        self._mark(flow, byte, later_ns, False, do, arguments)

    def deliver(self, flow: Flow, byte: float, do: Handler, *arguments: object) -> None:
        """Call something when a flow's byte is there, and all before it; then `plan`."""
        self._mark(flow, byte, self.way_ns, True, do, arguments)

    def advance(self) -> None:
        """Bring both flows to the present, and do what was to be done by then."""
        now_ns = self._agenda.now_ns
        if passed_ns := now_ns - self._last_ns:
            self._last_ns = now_ns
            for flow in (self._first, self._second):
                if flow.rate:
                    flow.drained = min(flow.written, flow.drained + flow.rate * passed_ns)
        again, has_fired = True, False
        while again:
            again = False
            for flow in (self._first, self._second):
                marks = flow.marks
                while marks and marks[0][0] <= flow.drained + _GRAIN:
                    byte, _, later_ns, delivers, do, arguments = heapq.heappop(marks)
                    has_fired = True
                    if delivers and self._loss:
                        self._agenda.at(self._there_ns(flow, byte), do, *arguments)
                    elif later_ns:
                        self._agenda.at(now_ns + later_ns, do, *arguments)
                    else:
                        do(*arguments)
                        again = True
        if has_fired:
            self.plan()

    def plan(self) -> None:
        """Share the link anew, and be there when the next thing happens."""
        one, two = self._first, self._second
        left_one, left_two = one.written - one.drained, two.written - two.drained
        goes_one = left_one > _GRAIN and not one.is_shut
        goes_two = left_two > _GRAIN and not two.is_shut
        goes_one = goes_one and self._may_go(one, two, left_two > _GRAIN and not two.is_shut)
        goes_two = goes_two and self._may_go(two, one, left_one > _GRAIN and not one.is_shut)
        rates = self._shares(goes_one, goes_two)
        now_ns, soonest_ns = self._agenda.now_ns, _NEVER
        for flow, other, rate, all_left in (
            (one, two, rates[0], left_one),
            (two, one, rates[1], left_two),
        ):
            if rate != flow.rate:
                flow.change_rate(rate, now_ns, _ROUND_TRIPS_KEPT * self.rtt_ns)
            if not rate:
                continue
            left = all_left
            if flow.marks:
                left = min(left, flow.marks[0][0] - flow.drained)
            if other.held_until is not None:
                left = min(left, other.held_until - flow.drained)
            soonest_ns = min(soonest_ns, left / rate)
        self._version += 1
        if soonest_ns < _NEVER:
            self._agenda.at(now_ns + max(1, int(soonest_ns) + 1), self._due, self._version)

    def _due(self, version: int) -> None:
        if version == self._version:
            self.advance()
            self.plan()

    def _begin_behind(self, flow: Flow) -> None:
        """Delay a flow that was idle by what lies in its way."""
        other = self._second if flow is self._first else self._first
        # Nothing of this one is in front of the other any more.
        other.held_until = None
        flow.held_until = None
        if self.queue == FQ_CODEL:
            return
        overtakes = self.heeds_priority and flow.has_priority and not other.has_priority
        most = self._overtaken_bytes if overtakes else self._ahead_bytes
        ahead = min(other.written - other.drained, most)
        if ahead > 1:
            flow.held_until = other.drained + ahead

    @staticmethod
    def _may_go(flow: Flow, other: Flow, other_has: bool) -> bool:
        if flow.held_until is None:
            return True
        if other_has and other.drained + _GRAIN < flow.held_until:
            return False
        flow.held_until = None
        return True

    def _shares(self, goes_one: bool, goes_two: bool) -> tuple[float, float]:
        """Return how fast each goes: no faster than a window a round trip."""
        one, two, rate = self._first, self._second, self._most
        most_one, most_two = one.window_bytes / self.rtt_ns, two.window_bytes / self.rtt_ns
        if not (goes_one and goes_two):
            return min(rate, most_one) if goes_one else 0.0, min(
                rate, most_two
            ) if goes_two else 0.0
        if self.heeds_priority and one.has_priority is not two.has_priority:
            if one.has_priority:
                share_one = min(rate, most_one)
                return share_one, min(rate - share_one, most_two)
            share_two = min(rate, most_two)
            return min(rate - share_two, most_one), share_two
        weight = 0.5
        if self.queue != FQ_CODEL and one.is_bounded is not two.is_bounded:
            weight = self._bounded_share if one.is_bounded else 1 - self._bounded_share
        share_one = min(rate * weight, most_one)
        share_two = min(rate - share_one, most_two)
        return min(rate - share_two, most_one), share_two

    def _rate_under_loss(self, model: Model) -> float:
        if not self._loss:
            return self.bytes_per_ns
        if model.congestion_control == "bbr":
            return self.bytes_per_ns * (1 - self._loss)
        most: float = _MATHIS * _PACKET_BYTES / (self.rtt_ns * self._loss**0.5)
        return min(self.bytes_per_ns, most)

    def _mark(
        self,
        flow: Flow,
        byte: float,
        later_ns: int,
        delivers: bool,
        do: Handler,
        arguments: tuple[object, ...],
    ) -> None:
        self._mark_count += 1
        heapq.heappush(flow.marks, (byte, self._mark_count, later_ns, delivers, do, arguments))

    def _there_ns(self, flow: Flow, byte: float) -> int:
        """Return when a byte that leaves now is handed over where packets are lost.

        What is lost goes again when its absence was heard of, and all behind it waits.
        """
        there_ns = self._agenda.now_ns + self.way_ns
        packets = (byte - flow.looked_byte) / _PACKET_BYTES
        flow.looked_byte = byte
        if packets > 0 and self._agenda.rng.random() < 1 - (1 - self._loss) ** packets:
            flow.floor_ns = max(flow.floor_ns, there_ns + self.rtt_ns)
        there_ns = flow.floor_ns = max(flow.floor_ns, there_ns)
        return there_ns
