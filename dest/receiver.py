"""Reads one channel to its end: page bytes into guest memory, the rest to whom it concerns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np

from dest.channel import InChannel
from dest.engine import Engine
from dest.setup import Plan
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.messages import (
    Discard,
    End,
    PageData,
    PassAck,
    PassEnd,
    SwitchOver,
    SwitchOverAck,
    SwitchOverAhead,
    ZeroData,
)
from protocol.policy import HalfSent
from protocol.states import Event, Lifecycle, check_receivable

SwitchOverHandler = Callable[[SwitchOver, bytes], Awaitable[None]]


class Receiver:
    """The receiving task of one channel."""

    def __init__(
        self,
        channel: InChannel,
        plan: Plan,
        engine: Engine,
        lifecycle: Lifecycle,
        on_switch_over: SwitchOverHandler,
    ) -> None:
        """Prepare; `run` reads.

        Args:
            channel: Where from; it has its name.
            plan: What the source said that it would send.
            engine: What knows what to do with pages.
            lifecycle: For which messages may come when.
            on_switch_over: Awaited with the message and the device state.
        """
        assert channel.name is not None
        self._channel = channel
        self._name: Channel = channel.name
        self._plan = plan
        self._engine = engine
        self._lifecycle = lifecycle
        self._on_switch_over = on_switch_over

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
            match message:
                case PageData():
                    await self._receive_page(message)
                case ZeroData():
                    self._receive_zero(message)
                case PassEnd():
                    await self._channel.send(PassAck(index=message.index))
                case Discard():
                    bits = await self._receive_bytes(message.payload_bytes)
                    self._engine.assembly.discard(message.block, message.first, message.count, bits)
                case SwitchOverAhead():
                    self._lifecycle.fire(Event.GUEST_STOPPED)
                    await self._channel.send(SwitchOverAck())
                case SwitchOver():
                    state = await self._receive_bytes(message.payload_bytes)
                    await self._on_switch_over(message, state)
                case End():
                    self._check_counts(message)
                    return

    async def _receive_page(self, message: PageData) -> None:
        self._check_length(message.payload_bytes)
        view = self._engine.begin(self._name, message)
        page = self._plan.geometry.page_of(message.block, message.offset // TARGET_PAGE_BYTES)
        await self._channel.receive_payload(
            view,
            lambda count: self._engine.progress(self._name, page, count),
            self._is_waste if self._plan.policy.half_sent is HalfSent.RESEND else None,
            # In precopy no vCPU waits here, and no script looks.
            gathered=not self._engine.assembly.in_postcopy,
        )
        self._engine.end(self._name)

    def _is_waste(self) -> bool:
        return self._engine.assembly.is_waste(self._name)

    def _receive_zero(self, message: ZeroData) -> None:
        self._check_length(message.length)
        view = self._engine.begin(self._name, message)
        if not self._is_waste():
            np.frombuffer(view, dtype=np.uint8)[:] = 0
        self._engine.end(self._name)

    def _check_length(self, length: int) -> None:
        """Check that a frame is no longer than was agreed: zeros are written in one go."""
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
