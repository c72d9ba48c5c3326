"""Puts on the channels what the scheduler decides, and breaks off what it wants broken off.

One task sends, or one a lane; `request` may be called by another at any time.  A background send is
broken off even while it waits for the socket or for its bandwidth limit; an urgent one runs to its
end.  While the background waits requests are served by whoever brings them, and the sending task
need not be woken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import trio

from guest.memory import GuestMemory
from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from source.answers import Answer
from source.buffering import wait_seconds
from source.channel import Frame, OutChannel
from source.framing import frame_of
from source.jobs import Chunk, Lane
from source.pacing import Pacer
from source.scheduler import Scheduler
from source.tracking import RequestTracker

# How long the background leaves the link to urgent bytes: what has not been delivered by then is
# held up by something else, and may be for ever.
YIELD_SECONDS_MAX = 2.0

# The destination is told of requests when nobody waits for bytes, or those wait for room.  Where
# neither is ever so, one page in so many waits until it is told of those before.
UNTOLD_COUNT_MAX = 16
# So many are told before a frame of the background; one by one they took both ends' time from the
# next request (1 Gbit/s, `critical-first`, 1 vCPU, 9 rounds: 99 of 100 faults within 3.3 instead of
# 2.3 ms).
TOLD_TOGETHER = 8
# After so long it is told though the background, before whose frames that is done, does not go on.
_TELL_SECONDS = 0.005


class Sender:
    """Sends what a scheduler has, over the channels of one migration."""

    def __init__(
        self,
        scheduler: Scheduler,
        memory: GuestMemory,
        channels: Mapping[Channel, OutChannel],
        emit: Emit,
        *,
        pacer: Pacer | None = None,
        checked: bool = False,
        yields: bool = False,
    ) -> None:
        """Send nothing yet; `drain` does.

        Args:
            scheduler: What is to be sent, and in which order.
            memory: Where it is.
            channels: Where it goes.
            emit: Takes events.
            pacer: Holds the background to a bandwidth, over all connections of a migration; no
                limit if not given.
            checked: Checksums go with frames.
            yields: The background waits until urgent bytes that the kernel has taken are on their
                way, and does not share the link with them.
        """
        self.pacer = pacer or Pacer(0)
        self._scheduler = scheduler
        self._memory = memory
        self._channels = channels
        self._emit = emit
        self._checked = checked
        self._yields = yields
        # Keeps account of the requests, where the destination wants to be told of them.
        self.tracker: RequestTracker | None = None
        self._untold = trio.lowlevel.ParkingLot()
        # Where somebody waits until the socket takes urgent bytes.
        self._urgent_on: OutChannel | None = None
        # Until when the background waits at most for urgent bytes that went; 0 for none.
        self._yields_until = 0.0
        # Where the background waits, for its socket or for its limit, and with which channel.
        self._waiting: trio.CancelScope | None = None
        self._waiting_on: OutChannel | None = None
        # What was decided while the background waited, and is not sent whole.
        self._given: Chunk | None = None
        # What the background waits with was broken off meanwhile.
        self._is_broken_off = False
        self._requested = trio.Event()
        self._background_done = False
        # When the request being served came, and when its first urgent frame was made.
        self._urgent_since_ns = (0, 0)

    @property
    def remaining_bytes(self) -> int:
        """Bytes of guest memory that no socket has taken yet, to the byte."""
        begun = [each.begun_memory_bytes for each in self._channels.values()]
        return self._scheduler.unsent_bytes - sum(begun)

    def pace(self, bytes_per_second: int) -> None:
        """Hold the background to a bandwidth from now on, also what waits for its turn already."""
        self.pacer.set_rate(bytes_per_second, int(trio.current_time() * 1e9))
        if self._waiting is not None:
            self._waiting.cancel()

    async def drain(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Send until the scheduler has nothing left.

        Cancelling may leave a half-sent frame as a channel's `open_frame`.

        Args:
            until: Asked before each frame of the background: true to leave the rest.

        Raises:
            ConnectionLost: A connection is broken; in a group where the policy has two lanes.
        """
        if self._scheduler.lanes == (Lane.ALL,):
            await self._drain(Lane.ALL, until)
            return
        self._background_done = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain_background, until)
            # Begins first: what is requested already is not left to the background.
            await self._drain_urgent()

    def request(self, page: PageId, target_page: int) -> Answer:
        """Take a page request of the destination; when all that have come are taken, `serve`.

        Args:
            page: The page that a vCPU waits for.
            target_page: Which target page of it was touched, from 0.

        Raises:
            RemoteProtocolError: The guest has no such page.
        """
        now_ns = time.monotonic_ns()
        answer = self._scheduler.request(page, target_page, now_ns)
        if self.tracker is not None:
            breaks_off = self._scheduler.wants_preemption
            self.tracker.asked(page, target_page, answer, now_ns, breaks_off=breaks_off)
            if self.tracker.untold_count:
                self._untold.unpark_all()
        self._requested.set()
        self._emit(events.PageRequest(block=page.block, page=page.index, answer=answer.value))
        if self._waiting is not None and answer is Answer.URGENT_IN_PLACE:
            self._waiting.cancel()
        return answer

    def serve(self) -> None:
        """Send what is asked for, as far as the sockets take it, if the background waits.

        Else the sending task does, when it comes to that.

        Raises:
            ConnectionLost: The connection is broken.
        """
        if self._waiting is None or self._given is not None:
            return
        if self._is_broken_off or self._scheduler.wants_preemption:
            self._serve(self._waiting)

    async def tell(self) -> None:
        """Tell the destination of requests that the sending task does not come to, until cancelled.

        Raises:
            ConnectionLost: The connection is broken.
        """
        tracker = self.tracker
        if tracker is None:
            return
        while True:
            await self._untold.park()
            # Mostly the background has gone on by then, and told.
            await trio.sleep(_TELL_SECONDS)
            # There is no event for that nobody waits any more.
            while tracker.untold_count and not self._tell(tracker):  # noqa: ASYNC110
                await trio.sleep(_TELL_SECONDS)

    async def tell_all(self) -> None:
        """Tell of all requests now; then of no more, for the last frames go.

        Raises:
            ConnectionLost: The connection is broken.
        """
        tracker, self.tracker = self.tracker, None
        if tracker is not None:
            for answer in tracker.take(time.monotonic_ns()):
                await self._channels[Channel.PRECOPY].send(answer)

    def _tell(self, tracker: RequestTracker, *, must: bool = False) -> bool:
        """Tell of requests unless that is in the way of urgent bytes; tell whether it was done.

        Where it can, it goes over the background's connection, between two of its frames.

        Args:
            tracker: Knows what there is to tell.
            must: Enough is untold to be in somebody's way for once.
        """
        if self.tracker is None:
            return True
        # Bytes that wait for room are not held up by what goes over the other connection.
        is_full = self._urgent_on is not None and self._urgent_on.open_frame is not None
        if not (must or is_full) and (
            self._scheduler.queued_requests
            or any(self._scheduler.urgent(lane) for lane in self._scheduler.lanes)
        ):
            return False
        answers = tracker.take(time.monotonic_ns())
        for channel in self._channels.values():
            if channel is not self._urgent_on and channel.send_short(*answers):
                return True
        tracker.put_back(answers)
        return False

    async def _drain(self, lane: Lane, until: Callable[[], bool] = lambda: False) -> None:
        while not until() and (chunk := self._next_chunk(lane)) is not None:
            await self._send(chunk, lane)
        # With nothing to send there was no checkpoint, and a caller's loop must have one.
        await trio.lowlevel.checkpoint()

    def _next_chunk(self, lane: Lane) -> Chunk | None:
        """Return what a lane is to send now, which may have been decided already."""
        if self._given is not None:
            chunk, self._given = self._given, None
            return chunk
        given = self._scheduler.next_chunk(lane)
        if self.tracker is not None and given is not None:
            self.tracker.begun(given, lane, time.monotonic_ns())
        self._tell_notices()
        return given

    def _serve(self, waiting: trio.CancelScope) -> None:
        assert self._waiting_on is not None
        if not self._is_broken_off:
            self._break_off(self._waiting_on)
            self._is_broken_off = True
        while self._scheduler.queued_requests or self._scheduler.urgent():
            chunk = self._next_chunk(Lane.ALL)
            if chunk is None:
                return
            if not (self._scheduler.urgent() and self._send_whole(chunk)):
                self._given = chunk
                # It waits for something else, now.
                waiting.cancel()
                return

    def _send_whole(self, chunk: Chunk) -> bool:
        """Send what is left of an urgent chunk; return False where that would have to wait."""
        channel = self._channels[chunk.channel]
        frame = self._frame_of(channel, chunk)
        while not frame.done:
            if not channel.send_now(frame, frame.length):
                return False
        self._sent(chunk, channel, frame, Lane.ALL)
        return True

    async def _drain_background(self, until: Callable[[], bool]) -> None:
        await self._drain(Lane.BACKGROUND, until)
        self._background_done = True
        self._requested.set()

    async def _drain_urgent(self) -> None:
        """Serve requests as they come, until the background has sent all else."""
        while True:
            self._requested = trio.Event()
            await self._drain(Lane.URGENT)
            if self._background_done:
                return
            await self._requested.wait()

    async def _send(self, chunk: Chunk, lane: Lane) -> None:
        channel = self._channels[chunk.channel]
        if (
            not chunk.urgent
            and self.tracker is not None
            and self.tracker.untold_count >= TOLD_TOGETHER
        ):
            self._tell(self.tracker)
        frame = self._frame_of(channel, chunk)
        while not frame.done:
            if self._scheduler.urgent(lane):
                self._urgent_on = channel
                try:
                    await channel.send_some(frame, frame.length)
                finally:
                    self._urgent_on = None
            elif self._scheduler.wants_preemption:
                self._break_off(channel)
                return
            else:
                await self._send_background(channel, frame)
                if self._is_broken_off:
                    self._is_broken_off = False
                    # What was asked for while others were served comes before what was left.
                    await trio.lowlevel.checkpoint()
                    return
        was_urgent = self._scheduler.urgent(lane)
        self._sent(chunk, channel, frame, lane)
        if was_urgent and not self._scheduler.queued_requests:
            # Likewise.  One turn was had behind the bytes: in it requests were noticed, not read.
            await trio.lowlevel.checkpoint()

    def _frame_of(self, channel: OutChannel, chunk: Chunk) -> Frame:
        """Return the frame of a chunk: that which its channel is in the middle of, or a new one."""
        if chunk.urgent and (background := self._channels[Channel.PRECOPY]) is not channel:
            background.pause()
        if channel.open_frame is None:
            channel.open_frame = frame_of(
                self._memory, chunk, *self._waited_us(chunk), checked=self._checked
            )
        return channel.open_frame

    def _break_off(self, channel: OutChannel) -> None:
        """Leave the background's frame for a request."""
        assert channel.open_frame is not None
        begun = channel.open_frame.sent > 0
        if self.tracker is not None:
            self.tracker.interrupted(Lane.ALL, time.monotonic_ns())
        self._scheduler.chunk_interrupted(begun=begun)
        if not begun:
            channel.open_frame = None

    def _sent(self, chunk: Chunk, channel: OutChannel, frame: Frame, lane: Lane) -> None:
        """Count and tell what is whole with the socket."""
        channel.open_frame = None
        if self._yields and chunk.channel is Channel.POSTCOPY:
            self._yields_until = trio.current_time() + YIELD_SECONDS_MAX
        channel.target_pages_sent += chunk.span.length // TARGET_PAGE_BYTES
        channel.data_bytes_sent += frame.payload_bytes
        urgent = self._scheduler.urgent(lane)
        page_count = self._scheduler.chunk_sent(lane)
        if self.tracker is not None:
            self.tracker.sent(
                chunk, lane, time.monotonic_ns(),
                goes_on=self._scheduler.is_sending(lane), lacks=self._scheduler.lacks,
            )  # fmt: skip
            if self.tracker.untold_count >= UNTOLD_COUNT_MAX:
                self._tell(self.tracker, must=True)
            elif self.tracker.untold_count:
                self._untold.unpark_all()
        if page_count:
            # Of scattered pages the first is named, and how many they are.
            self._emit(
                events.PageSent(
                    block=chunk.page.block, page=chunk.page.index,
                    channel=chunk.channel.value, urgent=urgent, boosted=chunk.boosted,
                    pages=page_count,
                    channel_bytes=channel.bytes_carried,
                    remaining_bytes=self.remaining_bytes,
                )
            )  # fmt: skip

    async def _send_background(self, channel: OutChannel, frame: Frame) -> None:
        """Send of a frame what the socket and the limit allow, or wait until they allow some."""
        if self._yields_until:
            seconds = wait_seconds(self._channels[Channel.POSTCOPY].delivery())
            if seconds and trio.current_time() < self._yields_until:
                await self._wait(channel, seconds)
                return
            self._yields_until = 0.0
        wanted_bytes = frame.length - frame.sent
        # The clock that the sleep goes by.
        now_ns = int(trio.current_time() * 1e9)
        allowed_bytes = self.pacer.allowance(wanted_bytes, now_ns)
        if allowed_bytes and (count := channel.send_in_a_row(frame, allowed_bytes)):
            self.pacer.spend(count)
            # Requests that have come are heard before more is sent.
            await trio.lowlevel.checkpoint()
            return
        # What is allowed and did not go waits for room.
        pause = None if allowed_bytes else self.pacer.wait_seconds(wanted_bytes, now_ns)
        await self._wait(channel, pause)

    async def _wait(self, channel: OutChannel, seconds: float | None) -> None:
        """Wait with the background's frame: for its socket, or so long; a request may end it."""
        # A scope is made to wait in, and not for each piece that goes at once: it costs as much as
        # copying a tenth of a huge page.
        self._waiting_on = channel
        try:
            with trio.CancelScope() as self._waiting:
                if seconds is None:
                    await channel.wait_room()
                    if channel.run_bytes is not None:
                        self._scheduler.keep_runs(channel.run_bytes)
                else:
                    channel.pause()
                    await trio.sleep(seconds)
        finally:
            self._waiting = self._waiting_on = None

    def _waited_us(self, chunk: Chunk) -> tuple[int, int]:
        """Return how long a request waited until its send began, and how long ago that was."""
        if chunk.requested_ns is None:
            return 0, 0
        now_ns = time.monotonic_ns()
        if self._urgent_since_ns[0] != chunk.requested_ns:
            self._urgent_since_ns = (chunk.requested_ns, now_ns)
        began_ns = self._urgent_since_ns[1]
        return (began_ns - chunk.requested_ns) // 1000, (now_ns - began_ns) // 1000

    def _tell_notices(self) -> None:
        for notice in self._scheduler.take_notices():
            self._emit(
                notice.event(
                    block=notice.page.block, page=notice.page.index,
                    channel=notice.channel.value, urgent=notice.urgent, boosted=notice.boosted,
                    channel_bytes=self._channels[notice.channel].bytes_carried,
                    remaining_bytes=self.remaining_bytes,
                )
            )  # fmt: skip
