"""Waits that are over: what the source says of them, their stages, their figures.  Pure.

A wait ends when its vCPU runs, and is told when all is known of it: the source says how a request
was answered when nobody waits for bytes, which may be somewhat later.
"""

from __future__ import annotations

from typing import Any

from dest.faults import FaultTable, Wait
from dest.latency import Latencies, parts_of
from dest.offset import ClockOffset
from dest.trips import Said
from protocol import events
from protocol.answers import ANSWERS
from protocol.errors import RemoteProtocolError
from protocol.events import Emit
from protocol.geometry import Geometry, PageId
from protocol.messages import RequestAnswer, SourceTime
from protocol.report import STAGES

# As the stages of a wait are named in its event.
_STAGES_US = tuple(f"{name}_us" for name in STAGES)


class Waits:
    """Takes the source's words and the fault table's waits, and tells of those that are complete.

    Attributes:
        latencies: Their figures.
    """

    def __init__(
        self,
        geometry: Geometry,
        units: Geometry,
        faults: FaultTable,
        emit: Emit,
        vcpu_count: int,
    ) -> None:
        """Start with none.

        Args:
            geometry: The guest's blocks.
            units: The same in what is requested at once: pages, or target pages.
            faults: Who waits.
            emit: Takes events.
            vcpu_count: How many may wait.
        """
        self.latencies = Latencies(vcpu_count)
        self._geometry = geometry
        self._units = units
        self._faults = faults
        self._emit = emit
        self._offset = ClockOffset()

    def take_word(self, message: RequestAnswer | SourceTime, now_ns: int) -> None:
        """Take what the source says of its time, or of a request.

        Args:
            message: Its word.
            now_ns: The time here.

        Raises:
            RemoteProtocolError: Nobody agreed to it, or it makes no sense.
        """
        if not self._faults.is_told:
            raise RemoteProtocolError(f"{type(message).__name__} came though nobody agreed to it")
        if isinstance(message, SourceTime):
            self._offset.came(message.now_ns, now_ns)
        else:
            self._take_answer(message, now_ns)

    def tell(self, wait: Wait) -> None:
        """Count a wait of which all is known, and tell of it."""
        stages_ns = self.latencies.record(wait)
        lengths_us = [length_ns / 1000 for length_ns in stages_ns.values()]
        fields: dict[str, Any] = dict(zip(_STAGES_US, lengths_us, strict=True))
        trip = wait.trip
        if trip is not None and trip.said is not None:
            fields["answer"] = trip.said.answer
            if trip.said.behind_count:
                behind = (f"{page.block}:{page.index}" for page in trip.said.behind)
                fields |= {"behind": " ".join(behind), "behind_count": trip.said.behind_count}
        if trip is not None and trip.rounds:
            # What was asked for more than once went through its stages more than once.
            parts = (f"{stage} {length / 1000:.3f}" for stage, length in parts_of(wait) if length)
            fields["parts_us"] = ", ".join(parts)
        first = self._units.page_span(wait.page).target_pages.start
        self._emit(
            events.VcpuWake(
                vcpu=wait.vcpu, block=wait.page.block,
                page=self._geometry.page_of(wait.page.block, first).index,
                fault_ns=wait.fault_ns, latency_us=wait.latency_ns / 1000, **fields,
            )
        )  # fmt: skip

    def tell_rest(self) -> None:
        """Tell of the waits of which the source has not said all, and will not any more."""
        for wait in self._faults.take_untold():
            self.tell(wait)

    def _take_answer(self, message: RequestAnswer, now_ns: int) -> None:
        pages = [(message.block, message.page), *message.behind]
        if message.answer not in ANSWERS or not all(map(self._has_page, pages)):
            raise RemoteProtocolError("RequestAnswer: an answer, or a page, that there is not")
        per_page = self._geometry.blocks[message.block].target_pages_per_page
        if message.target_page >= per_page:
            raise RemoteProtocolError("RequestAnswer: its page has no such target page")
        target_page = message.page * per_page + message.target_page
        unit = self._units.page_of(message.block, target_page)
        self._offset.came(message.told_ns, now_ns)
        asked_ns = self._faults.asked_ns(unit)
        if asked_ns is not None and not message.interrupted:
            self._offset.went(asked_ns, message.came_ns, now_ns)
        said = Said(
            message.answer, self._offset.here(message.came_ns), message.queued_ns,
            message.postponed_ns, message.sending_ns,
            tuple(PageId(*page) for page in message.behind), message.behind_count,
        )  # fmt: skip
        for wait in self._faults.said(unit, said, interrupted=message.interrupted):
            self.tell(wait)

    def _has_page(self, page: tuple[int, int]) -> bool:
        blocks = self._geometry.blocks
        index, number = page
        if index >= len(blocks):
            return False
        return number < blocks[index].length_bytes // blocks[index].page_bytes
