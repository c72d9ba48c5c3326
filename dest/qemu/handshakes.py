"""Handshakes of QEMU and the destination before pages come: at first, and after a break."""

from __future__ import annotations

import numpy as np

from dest.channel import InChannel
from guest.streams.exchange import patience
from guest.streams.stream import Stream
from protocol.channels import Channel
from protocol.errors import ConnectionLost, MidstreamError, RemoteProtocolError
from protocol.geometry import Geometry, RamBlock
from protocol.limits import HELLO_SECONDS_MAX, SETUP_SECONDS_MAX
from protocol.pageset import PageSet
from protocol.qemu.decoder import PreemptDecoder
from protocol.qemu.messages import (
    Advise,
    AskReceived,
    Blocks,
    Configuration,
    OpenReturnPath,
    Ping,
    QemuMessage,
    Resume,
)
from protocol.qemu.returns import encode_pong, encode_received
from protocol.qemu.stream import Decoder

# What is read at once: a run of 64 target pages is one message, and costs no more than one page.
_READ_BYTES = 256 * 1024

# As QEMU calls its connections.
_LABELS = {Channel.PRECOPY: "main", Channel.POSTCOPY: "preempt"}


class Line:
    """A connection from QEMU, and the decoder of what comes over it.

    Attributes:
        channel: The connection.
        decoder: Of the main connection, or of the other; set in `expect`.
    """

    def __init__(self, stream: Stream, name: Channel, first: bytes = b"") -> None:
        """Own a new connection; `expect` something, then `receive`.

        Args:
            stream: The connection.
            name: Which of the two it is.
            first: What was read of it already.
        """
        self.channel = InChannel(stream)
        self.channel.name = name
        self.channel.label = _LABELS[name]
        self.channel.peer = "QEMU"
        self.channel.copy_at_once(_READ_BYTES)
        self.channel.bytes_received = len(first)
        self.decoder: Decoder | PreemptDecoder
        self._first = first

    def expect(self, decoder: Decoder | PreemptDecoder) -> None:
        """Decode all that comes, from the connection's first byte on."""
        self.decoder = decoder
        decoder.receive_data(self._first)

    async def receive(self) -> QemuMessage:
        """Return the next message; if it has a payload, the decoder has all of it.

        Raises:
            ConnectionLost: QEMU closed the connection, or it broke.
            RemoteProtocolError: This is no stream that can be taken.
        """
        return await self.channel.hear(self.decoder)

    async def send(self, data: bytes) -> None:
        """Send a message backward, whole.

        Raises:
            ConnectionLost: The connection broke.
        """
        await self.channel.send_bytes(data)


class Silent(RemoteProtocolError):
    """A connection says nothing more, though it has to."""


async def hear_opening(main: Line) -> tuple[str, Geometry] | MidstreamError:
    """Read up to the list of blocks, which proves that a new main connection is a QEMU's.

    Returns:
        The machine and the guest's blocks.  Where it is a QEMU, and its migration cannot be taken,
        that is what its user has to hear: why not.

    Raises:
        ConnectionLost: It is gone, before it could be known for one.
        RemoteProtocolError: It is none, or says nothing more.
    """
    machine, returns, advised = "", False, False
    main.expect(Decoder())
    try:
        while True:
            # Between the advice and the blocks QEMU makes what a large guest's migration takes.
            seconds = SETUP_SECONDS_MAX if advised else HELLO_SECONDS_MAX
            match message := await _receive(main, seconds):
                case Configuration():
                    machine = message.machine
                case OpenReturnPath():
                    returns = True
                case Ping(value=value) if returns:
                    await main.send(encode_pong(value))
                case Advise(page_sizes=page_sizes):
                    advised = bool(page_sizes)
                case Blocks() if returns and advised:
                    return machine, Geometry(tuple(RamBlock(*block) for block in message.blocks))
                case _:
                    raise out_of_place(message)
    except Silent:
        raise
    except (ConnectionLost, RemoteProtocolError) as error:
        if not machine:
            raise
        return error


async def hear_resumption(main: Line, geometry: Geometry, missing: PageSet) -> None:
    """Hear how a new connection resumes this migration, and say what is here as it asks.

    A QEMU asks for each block before it says that it goes on.  It waits for `encode_resume_ack`
    then, which only the first of several may have.

    Args:
        main: A new main connection of a migration that broke.
        geometry: The guest's blocks.
        missing: What of them is not here.

    Raises:
        ConnectionLost: It is gone again.
        RemoteProtocolError: It says something else, or nothing in time.
    """
    unasked = {block.name for block in geometry.blocks}
    with patience(SETUP_SECONDS_MAX, "QEMU did not resume", RemoteProtocolError):
        while True:
            match message := await _receive(main, HELLO_SECONDS_MAX):
                case AskReceived(block=name):
                    await main.send(encode_received(name, _received_bits(name, geometry, missing)))
                    unasked.discard(name)
                case Ping(value=value):
                    await main.send(encode_pong(value))
                case OpenReturnPath():
                    pass
                case Resume():
                    if unasked:
                        raise RemoteProtocolError("it goes on without asking what is here")
                    return
                case _:
                    raise out_of_place(message)


async def _receive(main: Line, seconds: float) -> QemuMessage:
    """Return the next message.

    Raises:
        Silent: None came in time.
    """
    with patience(seconds, "it said nothing more", Silent):
        return await main.receive()


def _received_bits(name: str, geometry: Geometry, missing: PageSet) -> bytes:
    for index, block in enumerate(geometry.blocks):
        if block.name == name:
            here = np.ones(block.target_page_count, np.bool_)
            for first, count in missing.runs(index):
                here[first : first + count] = False
            return np.packbits(here, bitorder="little").tobytes()
    raise RemoteProtocolError(f"the source asks for RAMBlock {name[:60]!r}, unknown here")


def out_of_place(message: QemuMessage) -> RemoteProtocolError:
    """Return what is wrong with a message that may be right at another time."""
    if isinstance(message, Blocks):
        # Only with the advice are page sizes on the wire, and only then can pages be asked for.
        return RemoteProtocolError(
            "the source has no postcopy; switch its capability postcopy-ram on"
        )
    if isinstance(message, (Resume, AskReceived)):
        return RemoteProtocolError(
            "the source wants to resume a migration, which is not known here"
        )
    return RemoteProtocolError(f"{type(message).__name__} came where it cannot be")
