"""Engine, memory and placement of a destination, with a guest that is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from dest.engine import Engine
from dest.executor import Executor
from dest.placement import SimulatedPlacement
from dest.trips import Urgent
from dest.words import Word
from guest.interface import Faulted, Woke
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.policy import preset
from tests.guests import HUGE, FakeGuest, fake_guest, small_geometry
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY


PER_PAGE = HUGE // TARGET_PAGE_BYTES


HALF = HUGE // 2


class Rig:
    """An engine, and what it is connected to."""

    def __init__(
        self, memory: GuestMemory, guest: FakeGuest, policy: str, *, checked: bool = False
    ) -> None:
        """Start in precopy."""
        self.guest = guest
        self.memory = memory
        self.events = Recorder()
        self.now_ns = 10
        placement = SimulatedPlacement(memory.geometry, guest.handle)
        self.engine = Engine(
            memory.geometry, preset(policy), self.events, vcpu_count=4, checked=checked
        )
        self.executor = Executor(self.engine, memory, placement, lambda: self.now_ns)

    def start_postcopy(self, *pages: PageId) -> None:
        """Discard pages, all of the guest if none is named, and switch over."""
        for block, shape in enumerate(self.memory.geometry.blocks):
            stale = np.full(shape.target_page_count, not pages)
            for page in pages:
                if page.block == block:
                    stale[self.memory.geometry.page_span(page).target_pages] = True
            bits = np.packbits(stale, bitorder="little").tobytes()
            self.engine.assembly.discard(block, 0, shape.target_page_count, bits)
        self.executor.start_postcopy()

    def bring(self, channel: Channel, page: PageId, *, urgent: bool = False) -> None:
        """Receive a whole page in one frame."""
        span = self.memory.geometry.page_span(page)
        self.begin(channel, page.block, span.offset, span.length, urgent=urgent)
        self.executor.progress(channel, span.length)
        self.executor.end(channel)

    def begin(
        self, channel: Channel, block: int, offset: int, length: int, *, urgent: bool = False
    ) -> memoryview:
        """Begin to receive a frame."""
        told = Urgent(queue_us=300, send_us=200) if urgent else None
        return self.executor.begin(channel, Span(block, offset, length), told)

    def bring_part(self, channel: Channel, first: int, count: int, *, urgent: bool = False) -> None:
        """Receive target pages of the first block in one frame."""
        length = count * TARGET_PAGE_BYTES
        self.begin(channel, 0, first * TARGET_PAGE_BYTES, length, urgent=urgent)
        self.executor.progress(channel, length)
        self.executor.end(channel)

    def fault(self, vcpu: int, flat: int, fault_ns: int = 5) -> Word | None:
        """Have a vCPU fault, and the engine hear of it; return the request that is sent."""
        self.guest.fault(vcpu, flat, fault_ns)
        event = self.guest.take()
        assert event == Faulted(vcpu, flat, fault_ns)
        self.executor.fault(vcpu, flat, fault_ns)
        request = self.engine.words.next(self.now_ns)
        assert not self.engine.words
        return request

    def hear_wakes(self) -> list[int]:
        """Have the engine hear of all vCPUs that woke; return them."""
        woke = []
        while (event := self.guest.take()) is not None:
            if isinstance(event, Woke):
                self.engine.woke(event.vcpu, 10**18)
                woke.append(event.vcpu)
        return woke


@contextmanager
def make_rig(policy: str = "ordered", *, checked: bool = False) -> Iterator[Rig]:
    """Make an engine over four huge pages, 32 base pages and four vCPUs."""
    geometry = small_geometry()
    with (
        GuestMemory.create(geometry, "base") as memory,
        fake_guest(geometry, ProgramSpec(vcpu_count=4)) as guest,
    ):
        yield Rig(memory, guest, policy, checked=checked)
