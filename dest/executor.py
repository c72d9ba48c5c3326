"""Does what the destination's engine answers: memory, vCPUs, the clock and the way to the source.

Every call is: read the clock, tell the engine, do what it says.  Nothing is decided here.  A page
request's whole way is `hear_faults` and `say`: the kernel tells of a stopped vCPU, the engine
returns the request, the connection takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import trio
from numpy.typing import NDArray

from dest.engine import Engine
from dest.landing import Landing
from dest.placement import Placement
from dest.steps import Place, Release
from dest.trips import Urgent
from dest.words import Word
from guest import clock
from guest.memory import GuestMemory
from protocol.channels import Channel
from protocol.errors import ConnectionLost
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.runs import Flags, Runs, Stretch

# Requests that go as one: below a segment's length, and what a connection takes of them it takes
# whole.
SAID_AT_ONCE_MAX = 32


class ReturnPath(Protocol):
    """The way to the source over one connection."""

    @property
    def can_send_now(self) -> bool:
        """Whether nothing is before what is sent now."""

    def send_now(self, *words: Word) -> bool:
        """Send words as one without waiting; return False, and none has gone, if that cannot be.

        Raises:
            ConnectionLost: The connection broke.
        """

    async def send(self, word: Word, /) -> None:
        """Send in turn.

        Raises:
            ConnectionLost: The connection broke.
        """


class Executor:
    """Tells one engine what happens, and does what it answers.

    Attributes:
        engine: Decides.
        on_fault: Called with each vCPU of whose fault is heard.
    """

    def __init__(
        self,
        engine: Engine,
        memory: GuestMemory,
        placement: Placement,
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        """Prepare; nothing has happened.

        Args:
            engine: Decides.
            memory: Where bytes go.
            placement: Makes them touchable.
            now_ns: The time.
        """
        self.engine = engine
        self.on_fault: Callable[[int], None] = lambda _: None
        self._memory = memory
        self._placement = placement
        self._now_ns = now_ns
        self._path: ReturnPath | None = None
        self._failure: ConnectionLost | None = None
        # Of frames that have ended: what is to be placed, and when its last byte had come.
        self._due: list[tuple[Place, int]] = []
        self._is_unsettled = False
        self._unsaid = trio.lowlevel.ParkingLot()
        self._incomplete = trio.lowlevel.ParkingLot()
        # Of frames under way some of which may come otherwise, too.
        self._landings: dict[Channel, Landing] = {}

    # Bytes come.

    def begin(self, channel: Channel, span: Span, urgent: Urgent | None = None) -> memoryview:
        """Admit a frame of page bytes, as `Engine.begin`; return where they belong."""
        self.engine.begin(channel, span, self._now_ns(), urgent)
        return self._memory.views[span.block][span.offset : span.end]

    def begin_rest(self, channel: Channel, block: int, offset: int, length: int) -> memoryview:
        """Admit the rest of a target page, as `Engine.begin_rest`; return where it belongs."""
        self.engine.begin_rest(channel, block, offset, length)
        return self._memory.views[block][offset : offset + length]

    def begin_runs(
        self, channel: Channel, runs: Runs, is_zero: Flags, urgent: Urgent | None = None
    ) -> list[memoryview]:
        """Admit a frame of runs, as `Engine.begin`, and write its zeros.

        Returns:
            Where its bytes belong, in their order.
        """
        now_ns = self._now_ns()
        stale = self.engine.begin(channel, runs, now_ns, urgent, is_zero=is_zero)
        self._zero(runs.block, stale)
        data = runs.where(~is_zero)
        view = self._memory.views[runs.block]
        return [view[start:end] for start, end in data.edges()] if data is not None else []

    def take_zeros(self, channel: Channel, span: Span, urgent: Urgent | None = None) -> None:
        """Receive a frame that names zeros, from its beginning to its end.

        Raises:
            RemoteProtocolError: No correct source sends this now.
        """
        stale = self.engine.begin(channel, span, self._now_ns(), urgent, is_zero=True)
        self._zero(span.block, stale)
        if self.engine.assembly.is_waste(channel):
            self.end_copy(channel, b"")
        else:
            self.end(channel)

    def land(self, channel: Channel, data: Stretch | None, views: list[memoryview]) -> Landing:
        """Return where the payload of a frame that has begun goes, as long as it is under way.

        Args:
            channel: Where it comes.
            data: The target pages that it is of.
            views: Their places in memory.
        """
        self._landings[channel] = landing = Landing(views, data)
        for page in self.engine.assembly.late_pages(channel):
            landing.divert(page)
        return landing

    def progress(self, channel: Channel, count: int) -> None:
        """Count so many more bytes of the channel's frame as in memory."""
        if self.engine.progress(channel, count):
            self._hear()
            for place in self.engine.take_early(channel):
                self._place(place, self._now_ns())
            self.say()

    def end(self, channel: Channel) -> None:
        """End the channel's frame, which is whole: what it completed is placed, who waits wakes."""
        last_byte_ns = self._now_ns()
        # See `Engine`: first of all.
        self._hear()
        self._end(channel, last_byte_ns)
        self._settle()

    def end_small(self, channel: Channel) -> None:
        """End the channel's frame of a single target page, as `end` does, once `settle` is called.

        Of several that came together all are placed in a row, and what vCPUs ask for meanwhile goes
        as one.  Nobody may wait for anything before `settle`.
        """
        self._end(channel, self._now_ns())

    def settle(self) -> None:
        """Place what small frames have completed, and wake who waits for it."""
        if self._is_unsettled:
            self._hear()
            self._settle()

    def end_copy(self, channel: Channel, payload: memoryview | bytes) -> None:
        """End the channel's frame, whose bytes were read aside: they count if they came first.

        Args:
            channel: Where it came.
            payload: What it brought; nothing of zeros.
        """
        last_byte_ns = self._now_ns()
        self.settle()
        self._hear()
        for place in self.engine.end(channel):
            span = place.span
            for landing in self._landings.values():
                landing.divert(span.offset // TARGET_PAGE_BYTES)
            self._memory.views[span.block][span.offset : span.end] = payload or bytes(span.length)
            self._place(place, last_byte_ns)
        self._settle()

    def take_pages(self, channel: Channel, span: Span) -> None:
        """Place huge pages that came whole, in a frame of the background each, and are in memory.

        It is as `begin`, `progress` and `end` for each.
        """
        last_byte_ns = self._now_ns()
        self._hear()
        self._place(self.engine.take_pages(channel, span), last_byte_ns)
        self._settle()

    def refuse(self, channel: Channel) -> None:
        """Refuse the channel's frame, which came changed; `say_all` what is to come again."""
        last_byte_ns = self._now_ns()
        self.settle()
        self._hear()
        self._landings.pop(channel, None)
        for place in self.engine.refuse(channel, last_byte_ns):
            self._place(place, last_byte_ns)

    def interrupt(self, since_ns: int | None = None) -> None:
        """Note that the connections are gone; what they brought of whole units is placed.

        Args:
            since_ns: Since when; None for now.
        """
        self.settle()
        self._hear()
        self._landings.clear()
        for place in self.engine.interrupt():
            self._place(place, self._now_ns())
        self.engine.broke(self._now_ns() if since_ns is None else since_ns)

    async def wait_complete(self) -> None:
        """Return when nothing is missing, and no frame is under way."""
        while not self.engine.assembly.complete:
            await self._incomplete.park()

    def start_postcopy(self) -> None:
        """Make vCPUs fault on all that was discarded; the guest stands still."""
        for span in self.engine.start_postcopy():
            self._placement.discard(span)

    # vCPUs wait and wake.

    def hear_faults(self) -> None:
        """Hear of the vCPUs that the kernel has stopped, and ask for their pages."""
        self._hear()
        self.say()

    def fault(self, vcpu: int, flat: int, fault_ns: int) -> None:
        """Report a vCPU's fault, and do at once what can be; `say` what it asks for.

        Args:
            vcpu: Who.
            flat: The flat target page.
            fault_ns: When it touched that.
        """
        answer = self.engine.fault(vcpu, flat, fault_ns=fault_ns, now_ns=self._now_ns())
        if isinstance(answer, Place):
            self._place(answer, self._now_ns())
        elif answer is not None:
            self._release(answer)
        self.on_fault(vcpu)

    def release_overdue(self) -> int:
        """Wake vCPUs once more that should run since long, and return how many."""
        overdue = self.engine.overdue(self._now_ns())
        for release in overdue:
            self._release(release)
        return len(overdue)

    # The source is asked.

    def say(self) -> None:
        """Say to the source what goes at once; `converse` says the rest."""
        path, engine = self._path, self.engine
        while engine.words and path is not None and path.can_send_now:
            words = engine.words.take(SAID_AT_ONCE_MAX, self._now_ns())
            if not words:
                return
            try:
                have_gone = path.send_now(*words)
            except ConnectionLost as error:
                self._failure, self._path = error, None
                break
            if not have_gone:
                engine.words.put_back(words)
                break
            for word in words:
                engine.said(word)
        if engine.words or self._failure is not None:
            self._unsaid.unpark_all()

    async def say_all(self, path: ReturnPath) -> None:
        """Say to the source all that there is to say.

        Raises:
            ConnectionLost: The connection broke.
        """
        while (word := self.engine.words.next(self._now_ns())) is not None:
            await path.send(word)
            self.engine.said(word)

    def use(self, path: ReturnPath) -> None:
        """Say over a connection what goes at once, from now on."""
        self._failure, self._path = None, path

    async def converse(self, path: ReturnPath) -> None:
        """Say things over a connection, until cancelled.

        Raises:
            ConnectionLost: It broke.
        """
        self.use(path)
        try:
            while True:
                await self.say_all(path)
                if self._failure is not None:
                    raise self._failure
                await self._unsaid.park()
        finally:
            self._path = None

    def _hear(self) -> None:
        """Report the vCPUs that the kernel has stopped since the last call; cheap if none was."""
        for vcpu, flat in self._placement.take_faults():
            # When it touched the page it tells when it wakes.
            self.fault(vcpu, flat, self._now_ns())

    def _end(self, channel: Channel, last_byte_ns: int) -> None:
        self._landings.pop(channel, None)
        self._due += [(place, last_byte_ns) for place in self.engine.end(channel)]
        self._is_unsettled = True

    def _settle(self) -> None:
        due, self._due, self._is_unsettled = self._due, [], False
        for place, last_byte_ns in due:
            self._place(place, last_byte_ns)
        # What is here now is not asked for.
        self.say()
        if self._incomplete and self.engine.assembly.complete:
            self._incomplete.unpark_all()

    def _place(self, place: Place, last_byte_ns: int) -> None:
        self._placement.place(place.span)
        woken = self.engine.placed(place, last_byte_ns=last_byte_ns, now_ns=self._now_ns())
        for vcpu in woken:
            self._placement.wake(vcpu)
        whole = self.engine.completed(place)
        if whole is not None:
            self._placement.completed(whole)

    def _release(self, release: Release) -> None:
        self._placement.release(release.vcpu, release.span)

    def _zero(self, block: int, pages: NDArray[np.intp]) -> None:
        if len(pages):
            self._memory.words(block).reshape(-1, TARGET_PAGE_BYTES // 8)[pages] = 0
