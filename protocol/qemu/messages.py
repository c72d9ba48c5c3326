"""The pieces of a source's stream, as frozen dataclasses.

Blocks go by their names, as on the wire; who knows the geometry turns them into indices.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QemuMessage:
    """Base of all; `payload_bytes` is 0 for those that carry no page bytes."""

    payload_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Configuration(QemuMessage):
    """The stream's head: which machine the source is."""

    machine: str


@dataclass(frozen=True)
class OpenReturnPath(QemuMessage):
    """The source listens on the backward direction."""


@dataclass(frozen=True, kw_only=True)
class Ping(QemuMessage):
    """To be answered with a pong of the same value."""

    value: int


@dataclass(frozen=True, kw_only=True)
class Advise(QemuMessage):
    """Postcopy may come.

    Attributes:
        page_sizes: All page sizes of the source's blocks in bytes, or-ed together; 0 where only
            other things than RAM have a postcopy.
    """

    page_sizes: int


@dataclass(frozen=True, kw_only=True)
class Blocks(QemuMessage):
    """The source's RAMBlocks, in its order: (name, length in bytes, page size in bytes)."""

    blocks: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Pages(QemuMessage):
    """Consecutive target pages of one page, or of base pages; their bytes are the payload.

    Attributes:
        block: Name of the RAMBlock.
        offset: In bytes, in the block.
        packed_bytes: What the payload took on the wire where that is not its length, else 0.
    """

    block: str
    offset: int
    packed_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Zeros(QemuMessage):
    """Consecutive target pages that are all zero.

    Attributes:
        block: Name of the RAMBlock.
        offset: In bytes, in the block.
        length: In bytes.
    """

    block: str
    offset: int
    length: int


@dataclass(frozen=True)
class EndOfSection(QemuMessage):
    """The end of a RAM section, which tells nothing of pages; on the preempt channel, its end."""


@dataclass(frozen=True, kw_only=True)
class DiscardRanges(QemuMessage):
    """Stretches of a block whose copies here are stale: (offset, length), in bytes."""

    block: str
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Package(QemuMessage):
    """The switch-over to postcopy, its device state passed over: the guest runs here from now on.

    Attributes:
        package_bytes: How long it was.
        pings: To be answered with pongs: the source waits to hear that the devices are loaded.
    """

    package_bytes: int
    pings: tuple[int, ...]


@dataclass(frozen=True)
class SwitchoverStart(QemuMessage):
    """A notice for devices: nothing is to be done."""


@dataclass(frozen=True)
class Resume(QemuMessage):
    """A broken postcopy goes on, over these connections."""


@dataclass(frozen=True, kw_only=True)
class AskReceived(QemuMessage):
    """The source asks for the received map of a block."""

    block: str


@dataclass(frozen=True)
class StreamEnd(QemuMessage):
    """All that the source will say on its main channel has been said."""
