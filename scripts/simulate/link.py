"""The link between the sides: two connections' bytes, fluid, through one queue at one rate.  Pure.

Each connection is a *flow*: what its host's kernel was given, and what of that has left.  Which of
two flows goes, and how fast, the queue says: `pfifo_fast` lets the urgent one go first, `fq_codel`
gives each a half, and in a plain FIFO both wait for what lies there already and then share it: one
whose send buffer is bounded has what `Model.bounded_share` says.  Nothing happens between two
changes of that but a rate, so an event a change will do, however many bytes go.

All of it is whole numbers, parts of a byte too, and a byte that something is to be done at has left
at a whole nanosecond, the nearest one.  So a stream goes on from each such byte as from any other,
at whatever time and however far on in the stream: what has come about once comes about again.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Hashable
from typing import Any

from protocol.channels import Channel
from scripts.links.spec import FQ_CODEL, PFIFO_FAST, QUEUE_DEFAULT, LinkSpec
from scripts.simulate.agenda import Agenda, Handler, goes_on
from scripts.simulate.model import Model

# A byte has so many parts, as a power of two: a rate is a whole number of them a nanosecond.
_PART_BITS = 30

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
        window_bytes: What may be under way at once; `Link.bound` sets it.
        most: How fast that lets it go, in parts of a byte a nanosecond.
        written: What the kernel was given so far.
        drained: What of it has left.
        is_shut: The other end takes no more.
    """

    __slots__ = (
        "_had_parts",
        "_kept_ns",
        "_rates",
        "_times_ns",
        "_trim_at",
        "floor_ns",
        "has_priority",
        "held_until",
        "is_bounded",
        "is_shut",
        "looked_byte",
        "marks",
        "most",
        "name",
        "parts",
        "rate",
        "window_bytes",
        "written",
    )

    def __init__(self, name: Channel, now_ns: int, kept_ns: int) -> None:
        """Begin with nothing written.

        Args:
            name: Which.
            now_ns: The time.
            kept_ns: How long ago is still asked about.
        """
        self.name = name
        self.has_priority = self.is_bounded = False
        self.window_bytes = self.most = 0
        self.written = 0
        # What has left, and how much leaves in a nanosecond, in parts of a byte.
        self.parts = 0
        self.rate = 0
        self.is_shut = False
        # What is to be done when a byte has left: byte, number, how much later, what.
        self.marks: list[tuple[int, int, int, bool, Handler, tuple[Any, ...]]] = []
        # The other flow's byte that goes before all of this one.
        self.held_until: int | None = None
        # Where packets may be lost: up to which byte that was settled, and before when nothing
        # later can be handed over there.
        self.looked_byte = 0
        self.floor_ns = 0
        # Its past: from when on it went how fast, and what had left by then.
        self._times_ns, self._had_parts, self._rates = [now_ns], [0], [0]
        self._kept_ns = kept_ns
        self._trim_at = _HISTORY_MAX

    @property
    def drained(self) -> int:
        """How many bytes have left."""
        return self.parts >> _PART_BITS

    @property
    def bytes_per_second(self) -> int:
        """How fast it goes."""
        return self.rate * 1_000_000_000 >> _PART_BITS

    @property
    def left_parts(self) -> int:
        """The bytes that have not, in parts of a byte."""
        return (self.written << _PART_BITS) - self.parts

    def drained_at(self, time_ns: int) -> int:
        """Return how many bytes had left at a time, which was not long ago."""
        at = max(bisect_right(self._times_ns, time_ns) - 1, 0)
        passed_ns = max(0, time_ns - self._times_ns[at])
        return (self._had_parts[at] + passed_ns * self._rates[at]) >> _PART_BITS

    def when_drained(self, byte: int) -> int:
        """Return when a byte left that has."""
        wanted = byte << _PART_BITS
        at = max(bisect_right(self._had_parts, wanted) - 1, 0)
        since_ns, rate = self._times_ns[at], self._rates[at]
        return since_ns + -(-max(0, wanted - self._had_parts[at]) // rate) if rate else since_ns

    def go_on(self, passed_ns: int, now_ns: int) -> None:
        """Let leave what leaves in a time."""
        rate = self.rate
        parts = self.parts + rate * passed_ns
        nearest = self.written
        if self.marks:
            nearest = min(nearest, self.marks[0][0])
        nearest <<= _PART_BITS
        if -rate < 2 * (parts - nearest) <= rate:
            self.parts = nearest
            if parts != nearest:
                self.note(now_ns)
        else:
            self.parts = min(parts, self.written << _PART_BITS)

    def is_past(self, byte: int) -> bool:
        """Return whether a byte has left, to the nearest nanosecond."""
        lacks = (byte << _PART_BITS) - self.parts
        return lacks <= 0 or 2 * lacks < self.rate

    def note(self, now_ns: int) -> None:
        """Keep what has left by now, and how fast it goes from now on; forget what is long ago."""
        times_ns = self._times_ns
        if times_ns[-1] == now_ns:
            self._had_parts[-1], self._rates[-1] = self.parts, self.rate
            return
        times_ns.append(now_ns)
        self._had_parts.append(self.parts)
        self._rates.append(self.rate)
        if len(times_ns) > self._trim_at:
            kept = bisect_right(times_ns, now_ns - self._kept_ns) - 1
            if kept > 0:
                del times_ns[:kept], self._had_parts[:kept], self._rates[:kept]
            self._trim_at = max(_HISTORY_MAX, 2 * len(times_ns))

    def marks_in_order(self) -> list[tuple[int, int, int, bool, Handler, tuple[Any, ...]]]:
        """Return its marks, in the order in which they come."""
        # No two have the same number.
        return sorted(self.marks)

    def state(self, now_ns: int) -> Hashable:
        """Return all that matters of it but for its marks, as seen from now and its last byte."""
        long_ago_ns, written = now_ns - self._kept_ns, self.written << _PART_BITS
        kept = max(bisect_right(self._times_ns, long_ago_ns) - 1, 0)
        known = list(
            zip(self._times_ns[kept:], self._had_parts[kept:], self._rates[kept:], strict=True)
        )
        since_ns, parts, rate = known[0]
        if since_ns < long_ago_ns:
            known[0] = long_ago_ns, parts + rate * (long_ago_ns - since_ns), rate
        return (
            written - self.parts, self.rate, self.window_bytes, self.is_shut, self.has_priority,
            self.is_bounded, self.held_until is None,
            *((ns - now_ns, had - written, went) for ns, had, went in known),
        )  # fmt: skip

    def shift(self, passed_ns: int, count: int, moved: Callable[[Any], Any]) -> None:
        """Be so much later where so many more bytes have gone; see `Agenda.shift`."""
        parts = count << _PART_BITS
        self.written += count
        self.parts += parts
        self.marks = [
            (byte + count, number, later_ns, delivers, do, tuple(map(moved, arguments)))
            for byte, number, later_ns, delivers, do, arguments in self.marks
        ]
        self._times_ns = [ns + passed_ns for ns in self._times_ns]
        self._had_parts = [had + parts for had in self._had_parts]


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
        kept_ns = _ROUND_TRIPS_KEPT * self.rtt_ns
        self.flows = {name: Flow(name, agenda.now_ns, kept_ns) for name in Channel}
        self._agenda = agenda
        self._loss = spec.loss
        self.queue = spec.queue or QUEUE_DEFAULT
        self._ahead_bytes = model.fifo_bytes
        self._bounded_share = model.bounded_share
        self._overtaken_bytes = model.packet_bytes // 2
        self._last_ns = agenda.now_ns
        # When the next thing happens, and when somebody will look for it; None for never.
        self._next_ns: int | None = None
        self._due_ns: int | None = None
        self._mark_count = 0
        self._first, self._second = self.flows.values()
        self._most = self._rate_under_loss(model)

    @property
    def heeds_priority(self) -> bool:
        """Whether one of the flows can go first."""
        return self.queue == PFIFO_FAST

    @property
    def loses(self) -> bool:
        """Whether packets may be lost."""
        return bool(self._loss)

    def bound(self, flow: Flow, window_bytes: int) -> None:
        """Limit what of a flow may be under way at once; then `plan`."""
        flow.window_bytes = window_bytes
        flow.most = (window_bytes << _PART_BITS) // self.rtt_ns

    def write(self, flow: Flow, count: int) -> None:
        """Give a flow bytes, after `advance`; then `plan`."""
        if flow.left_parts < 1 << _PART_BITS:
            self._begin_behind(flow)
        flow.written += count

    def take_back(self, flow: Flow, count: int) -> None:
        """Withdraw the last bytes that a flow was given, which have not left."""
        flow.written -= count
        self.plan()

    def mark(self, flow: Flow, byte: int, later_ns: int, do: Handler, *arguments: object) -> None:
        """Call something so long after a flow's byte has left; then `plan`."""
        self._mark(flow, byte, later_ns, False, do, arguments)

    def deliver(self, flow: Flow, byte: int, do: Handler, *arguments: object) -> None:
        """Call something when a flow's byte is there, and all before it; then `plan`."""
        self._mark(flow, byte, self.way_ns, True, do, arguments)

    def advance(self) -> None:
        """Bring both flows to the present, and do what was to be done by then."""
        if self._do_due():
            self.plan()

    def _do_due(self) -> bool:
        """Do what was to be done by now; return whether there was anything."""
        now_ns = self._agenda.now_ns
        if passed_ns := now_ns - self._last_ns:
            self._last_ns = now_ns
            for flow in (self._first, self._second):
                if flow.rate:
                    flow.go_on(passed_ns, now_ns)
        again, has_fired = True, False
        while again:
            again = False
            for flow in (self._first, self._second):
                marks = flow.marks
                while marks:
                    byte = marks[0][0]
                    # As `Flow.is_past`.
                    lacks = (byte << _PART_BITS) - flow.parts
                    if lacks > 0 and 2 * lacks >= flow.rate:
                        break
                    _, _, later_ns, delivers, do, arguments = heapq.heappop(marks)
                    has_fired = True
                    if lacks > 0:
                        flow.parts += lacks
                        flow.note(now_ns)
                    if delivers and self._loss:
                        self._agenda.at(self._there_ns(flow, byte), do, *arguments)
                    elif later_ns:
                        self._agenda.at(now_ns + later_ns, do, *arguments)
                    else:
                        do(*arguments)
                        again = True
        return has_fired

    def plan(self) -> None:
        """Share the link anew, and be there when the next thing happens."""
        one, two = self._first, self._second
        has_one = one.written << _PART_BITS > one.parts and not one.is_shut
        has_two = two.written << _PART_BITS > two.parts and not two.is_shut
        goes_one = has_one and self._may_go(one, two, has_two)
        goes_two = has_two and self._may_go(two, one, has_one)
        if goes_one and goes_two:
            rates = self._shares()
        else:
            most = self._most
            rates = min(most, one.most) if goes_one else 0, min(most, two.most) if goes_two else 0
        now_ns, soonest_ns = self._agenda.now_ns, None
        for flow, other, rate in ((one, two, rates[0]), (two, one, rates[1])):
            if rate != flow.rate:
                flow.rate = rate
                flow.note(now_ns)
            if not rate:
                continue
            byte = flow.written
            if flow.marks and flow.marks[0][0] < byte:
                byte = flow.marks[0][0]
            # To the nearest nanosecond, as `Flow.is_past`.
            lacks = (byte << _PART_BITS) - flow.parts
            next_ns = now_ns + (2 * lacks + rate) // (2 * rate) if lacks > 0 else now_ns
            # One that the other end takes nothing of may be held by what has long gone.
            held_until = other.held_until
            if held_until is not None and not flow.is_past(held_until):
                lacks = (held_until << _PART_BITS) - flow.parts
                next_ns = min(next_ns, now_ns + max(1, -(-lacks // rate)))
            if soonest_ns is None or next_ns < soonest_ns:
                soonest_ns = next_ns
        self._next_ns = soonest_ns
        self._be_there()

    def _be_there(self) -> None:
        """Look again when the next thing happens, if nobody looks before that."""
        next_ns, due_ns = self._next_ns, self._due_ns
        if next_ns is not None and (due_ns is None or next_ns < due_ns):
            self._due_ns = next_ns
            self._agenda.at(next_ns, self._due)

    @goes_on
    def _due(self) -> None:
        if self._due_ns != self._agenda.now_ns:
            # Somebody looked before, and will again.
            return
        self._due_ns = None
        if self._next_ns is not None and self._next_ns > self._agenda.now_ns:
            self._be_there()
        else:
            self._do_due()
            self.plan()

    def state(self) -> Hashable:
        """Return all that matters of it but for marks, as seen from now and the flows' ends."""
        now_ns = self._agenda.now_ns
        times = (
            None if each is None else each - now_ns
            for each in (self._last_ns, self._next_ns, self._due_ns)
        )
        return (*times, *(flow.state(now_ns) for flow in self.flows.values()))

    def shift(self, passed_ns: int, flow: Flow, count: int, moved: Callable[[Any], Any]) -> None:
        """Be so much later where a flow has carried so many more bytes, and the other none."""
        self._last_ns += passed_ns
        if self._next_ns is not None:
            self._next_ns += passed_ns
        if self._due_ns is not None:
            self._due_ns += passed_ns
        flow.shift(passed_ns, count, moved)

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
        if other_has and not other.is_past(flow.held_until):
            return False
        flow.held_until = None
        return True

    def _shares(self) -> tuple[int, int]:
        """Return how fast each goes where both do: no faster than a window a round trip."""
        one, two, rate = self._first, self._second, self._most
        most_one, most_two = one.most, two.most
        if self.heeds_priority and one.has_priority is not two.has_priority:
            if one.has_priority:
                share_one = min(rate, most_one)
                return share_one, min(rate - share_one, most_two)
            share_two = min(rate, most_two)
            return min(rate - share_two, most_one), share_two
        weight = 0.5
        if self.queue != FQ_CODEL and one.is_bounded is not two.is_bounded:
            weight = self._bounded_share if one.is_bounded else 1 - self._bounded_share
        share_one = min(round(rate * weight), most_one)
        share_two = min(rate - share_one, most_two)
        return min(rate - share_two, most_one), share_two

    def _rate_under_loss(self, model: Model) -> int:
        most = self.bytes_per_ns
        if self._loss and model.congestion_control == "bbr":
            most *= 1 - self._loss
        elif self._loss:
            most = min(most, _MATHIS * _PACKET_BYTES / (self.rtt_ns * self._loss**0.5))
        return max(1, round(most * (1 << _PART_BITS)))

    def _mark(
        self,
        flow: Flow,
        byte: int,
        later_ns: int,
        delivers: bool,
        do: Handler,
        arguments: tuple[object, ...],
    ) -> None:
        self._mark_count += 1
        heapq.heappush(flow.marks, (byte, self._mark_count, later_ns, delivers, do, arguments))

    def _there_ns(self, flow: Flow, byte: int) -> int:
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
