"""What QEMU and the destination say before pages come: at first, and after a break."""

from __future__ import annotations

import numpy as np
import trio

from dest.qemu.channel import QemuChannel
from protocol.errors import RemoteProtocolError
from protocol.geometry import Geometry, RamBlock
from protocol.limits import SETUP_SECONDS_MAX
from protocol.pageset import PageSet
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
from protocol.qemu.returns import encode_pong, encode_received, encode_resume_ack


async def receive_opening(main: QemuChannel) -> tuple[str, Geometry]:
    """Read up to the list of blocks; return the machine and the guest's blocks.

    Raises:
        ConnectionLost: QEMU is gone.
        RemoteProtocolError: Not a stream that can be taken, or nothing in time.
    """
    machine, returns, advised = "", False, False
    with trio.move_on_after(SETUP_SECONDS_MAX):
        while True:
            match message := await main.receive():
                case Configuration():
                    machine = message.machine
                case OpenReturnPath():
                    returns = True
                case Ping(value=value) if returns:
                    await main.send(encode_pong(value))
                case Advise(page_sizes=page_sizes):
                    advised = bool(page_sizes)
                case Blocks():
                    # Only with the advice are page sizes on the wire, and only then can pages be
                    # asked for.
                    if not (returns and advised):
                        raise RemoteProtocolError(
                            "the source has no postcopy; switch its capability postcopy-ram on"
                        )
                    return machine, Geometry(tuple(RamBlock(*block) for block in message.blocks))
                case _:
                    raise out_of_place(message)
    raise RemoteProtocolError(f"no RAMBlocks came in {SETUP_SECONDS_MAX:g} s")


async def shake_hands(main: QemuChannel, geometry: Geometry, missing: PageSet) -> None:
    """Say what is here, block by block as QEMU asks, and that this side is ready to go on.

    Args:
        main: A new main connection of a migration that broke.
        geometry: The guest's blocks.
        missing: What of them is not here.

    Raises:
        ConnectionLost: QEMU is gone again.
        RemoteProtocolError: It says something else, or nothing in time.
    """
    with trio.move_on_after(SETUP_SECONDS_MAX):
        while True:
            match message := await main.receive():
                case AskReceived(block=name):
                    await main.send(encode_received(name, _received_bits(name, geometry, missing)))
                case Ping(value=value):
                    await main.send(encode_pong(value))
                case OpenReturnPath():
                    pass
                case Resume():
                    await main.send(encode_resume_ack())
                    return
                case _:
                    raise out_of_place(message)
    raise RemoteProtocolError(f"QEMU did not resume in {SETUP_SECONDS_MAX:g} s")


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
    if isinstance(message, (Resume, AskReceived)):
        return RemoteProtocolError(
            "the source wants to resume a migration, which is not known here"
        )
    return RemoteProtocolError(f"{type(message).__name__} came where it cannot be")
