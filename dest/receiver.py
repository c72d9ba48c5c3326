"""Reads one channel to its end: page bytes into guest memory, the rest to whom it concerns."""

from __future__ import annotations

from dest.channel import InChannel
from dest.executor import Executor
from dest.landing import Landing
from dest.peer import Plan, Turns
from dest.trips import Urgent
from guest import clock
from protocol.channels import Channel
from protocol.checksums import FrameCheck
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.messages import (
    Checksum,
    Discard,
    End,
    Message,
    PageData,
    PageRest,
    PassAck,
    PassEnd,
    RequestAnswer,
    RunData,
    SourceTime,
    SwitchOver,
    SwitchOverAhead,
    ZeroData,
)
from protocol.runs import Stretch, unpack_runs
from protocol.states import Lifecycle, check_receivable

# So many urgent target pages are read and placed together: who waits for the first of them does not
# wait for long.
_SMALL_FRAMES_MAX = 8


class Receiver:
    """The receiving task of one channel."""

    def __init__(
        self,
        channel: InChannel,
        returns: InChannel,
        plan: Plan,
        executor: Executor,
        lifecycle: Lifecycle,
        turns: Turns,
    ) -> None:
        """Prepare; `run` reads.

        Args:
            channel: Where from; it has its name.
            returns: Where answers go.
            plan: What the source said that it would send.
            executor: What pages are told to.
            lifecycle: For which messages may come when.
            turns: What the source says of the guest.
        """
        assert channel.name is not None
        self._channel = channel
        self._returns = returns
        self._name: Channel = channel.name
        if self._name is Channel.POSTCOPY:
            is_small = plan.policy.critical or any(plan.geometry.has_base_pages)
            channel.expect_small_frames(_SMALL_FRAMES_MAX if is_small else 1)
        self._check = FrameCheck(channel.name, agreed=plan.checked)
        self._plan = plan
        self._executor = executor
        self._engine = executor.engine
        self._lifecycle = lifecycle
        self._turns = turns
        # What the source has said of requests since bytes were last waited for, and when that came.
        self._told: list[tuple[RequestAnswer | SourceTime, int]] = []
        channel.on_idle = self._settle

    async def run(self) -> None:
        """Read until the channel's End.

        Raises:
            ConnectionLost: The connection ended before its End.
            PeerAborted: The source ended the session.
            RemoteProtocolError: The source broke the protocol.
        """
        while True:
            message = await self._channel.receive()
            check_receivable(self._lifecycle.state, self._name, message)
            if isinstance(message, Checksum):
                self._check.announce(message)
                continue
            self._check.begin(message)
            match message:
                case PageData():
                    await self._receive_page(message)
                case ZeroData():
                    self._check_length(message.length)
                    span = Span(message.block, message.offset, message.length)
                    self._executor.take_zeros(self._name, span, _urgent(message))
                    self._check.is_right()
                case RunData():
                    await self._receive_runs(message)
                case PageRest():
                    await self._receive_rest(message)
                case End():
                    self._settle()
                    self._check_counts(message)
                    return
                case RequestAnswer() | SourceTime():
                    self._told.append((message, clock.now_ns()))
                case _:
                    self._settle()
                    await self._take_word(message)

    async def _take_word(self, message: Message) -> None:
        """Handle a message that brings no pages."""
        match message:
            case PassEnd():
                await self._returns.send(PassAck(index=message.index))
            case Discard():
                bits = await self._receive_bytes(message.payload_bytes)
                self._engine.assembly.discard(message.block, message.first, message.count, bits)
            case SwitchOverAhead():
                await self._turns.stopping()
            case SwitchOver():
                state = await self._receive_bytes(message.payload_bytes)
                await self._turns.switch_over(state, postcopy=message.postcopy)

    def _settle(self) -> None:
        """Do what all that has come leads to: first for whom somebody waits.

        Raises:
            RemoteProtocolError: What the source says of requests makes no sense.
        """
        self._executor.settle()
        if self._told:
            told, self._told = self._told, []
            for message, came_ns in told:
                self._engine.waits.take_word(message, came_ns)

    async def _receive_page(self, message: PageData) -> None:
        self._check_length(message.payload_bytes)
        span = Span(message.block, message.offset, message.payload_bytes)
        view = self._executor.begin(self._name, span, _urgent(message))
        if self._may_be_late():
            await self._receive_beside(span, [view])
            return
        await self._channel.receive_payload(
            view,
            self._progress,
            self._is_waste if self._plan.policy.sends_again else None,
            gathered=self._gathers(),
        )
        await self._end([view])

    async def _receive_rest(self, message: PageRest) -> None:
        view = self._executor.begin_rest(
            self._name, message.block, message.offset, message.payload_bytes
        )
        await self._channel.receive_payload(view, self._progress)
        self._executor.end(self._name)

    async def _receive_runs(self, message: RunData) -> None:
        runs, is_zero = unpack_runs(message.block, message.offset, message.runs)
        self._check_length(runs.length)
        data_bytes = int(runs.counts[~is_zero].sum()) * TARGET_PAGE_BYTES
        if data_bytes != message.payload_bytes:
            raise RemoteProtocolError(
                f"runs of {data_bytes} bytes came with a payload of {message.payload_bytes}"
            )
        views = self._executor.begin_runs(self._name, runs, is_zero, _urgent(message))
        if self._may_be_late():
            await self._receive_beside(runs.where(~is_zero), views)
            return
        if self._plan.policy.sends_again:
            await self._receive_aside(views)
        elif views:
            landing = Landing(views)
            await self._channel.receive_scattered(landing, self._progress, gathered=self._gathers())
        await self._end(views)

    async def _receive_beside(self, data: Stretch | None, views: list[memoryview]) -> None:
        """Receive what may have come over the other channel, or may come over it meanwhile.

        Args:
            data: Which target pages the payload is of.
            views: Their places in memory.
        """
        if not self._is_waste():
            landing = self._executor.land(self._name, data, views)
            await self._channel.receive_scattered(landing, self._progress, gathered=self._gathers())
            await self._end(landing.pieces)
            return
        copy = memoryview(bytearray(sum(map(len, views))))
        await self._channel.receive_payload(copy, self._progress)
        if self._check.is_right([copy]):
            self._executor.end_copy(self._name, copy)
        else:
            self._executor.refuse(self._name)

    async def _end(self, views: list[memoryview]) -> None:
        """End a frame that has come; ask for its bytes again if they changed."""
        # What is not wanted was not put where it would be looked for.
        if self._check.is_right(views) or self._is_waste():
            if (
                len(views) == 1
                and len(views[0]) == TARGET_PAGE_BYTES
                and not self._engine.is_watched
            ):
                self._executor.end_small(self._name)
            else:
                self._executor.end(self._name)
            return
        self._executor.refuse(self._name)
        await self._executor.say_all(self._returns)

    def _progress(self, count: int) -> None:
        self._executor.progress(self._name, count)

    async def _receive_aside(self, views: list[memoryview]) -> None:
        """Receive runs that may turn out not to be wanted, and copy them if they are wanted yet."""
        aside = memoryview(bytearray(sum(map(len, views))))
        await self._channel.receive_payload(aside, self._progress)
        if self._is_waste():
            return
        for view in views:
            view[:], aside = aside[: len(view)], aside[len(view) :]

    def _gathers(self) -> bool:
        """Return whether nothing is lost when bytes are looked at in a few large pieces."""
        in_postcopy = self._engine.assembly.in_postcopy
        # No vCPU runs here yet, and no script looks.
        self._channel.unhurried = not in_postcopy
        if not in_postcopy:
            return True
        return not (self._engine.is_watched or self._plan.policy.sends_again)

    def _may_be_late(self) -> bool:
        """Return whether a part of the frame came over the other channel, or may before its end.

        What comes over the postcopy channel is late as a whole, or not at all.
        """
        if not self._plan.policy.overtakes:
            return False
        return self._name is Channel.PRECOPY or self._is_waste()

    def _is_waste(self) -> bool:
        return self._engine.assembly.is_waste(self._name)

    def _check_length(self, length: int) -> None:
        """Check that a frame names no more than was agreed: zeros are written in one go."""
        if length > self._plan.chunk_bytes:
            raise RemoteProtocolError(
                f"a frame of {length} bytes is over the agreed {self._plan.chunk_bytes}"
            )

    async def _receive_bytes(self, length: int) -> bytes:
        """Read a payload that is not for guest memory; its bound was checked with its message."""
        data = bytearray(length)
        await self._channel.receive_payload(memoryview(data), lambda _: None)
        return bytes(data)

    def _check_counts(self, end: End) -> None:
        counts = self._engine.assembly.counts[self._name]
        if (end.target_pages, end.data_bytes) != (counts.target_pages, counts.data_bytes):
            raise RemoteProtocolError(
                f"the source counts {end.target_pages} target pages and {end.data_bytes} bytes on "
                f"the {self._name.value} channel, {counts.target_pages} and "
                f"{counts.data_bytes} came"
            )


def _urgent(message: PageData | RunData | ZeroData) -> Urgent | None:
    return Urgent(message.queue_us, message.send_us) if message.urgent else None
