"""The guest as those who follow a migration's connections know it, and which each of these is."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.channels import Channel
from protocol.qemu.constants import FILE_MAGIC, MULTIFD_MAGIC, TLS_HANDSHAKE, Section
from protocol.qemu.ram import BlockTable


@dataclass
class Known:
    """The guest as it has been described, on whichever connection; the main one's follower writes.

    Attributes:
        blocks: By name; empty until they are listed.
        ram_id: The number of the RAM's section, None before it began.
        sections: The names of all sections that have begun, by number.
        page_sizes: What was advised, or-ed together.
    """

    blocks: BlockTable = field(default_factory=dict)
    ram_id: int | None = None
    sections: dict[int, str] = field(default_factory=dict)
    page_sizes: int = 0


def channel_of(first: bytes) -> Channel | str | None:
    """Return which connection begins with these bytes; what it is called if it is none to follow.

    Args:
        first: Four bytes; fewer if no more have come.

    Returns:
        The channel, the name of what cannot be followed, or None if it is too early to tell.
    """
    if not first:
        return None
    if first.startswith(TLS_HANDSHAKE[:1]):
        return (
            "TLS" if first.startswith(TLS_HANDSHAKE) else (None if len(first) == 1 else "unknown")
        )
    for magic, answer in ((FILE_MAGIC, Channel.PRECOPY), (MULTIFD_MAGIC, "multifd")):
        head = magic.to_bytes(4, "big")
        if head.startswith(first[:4]):
            return answer if len(first) >= 4 else None
    if first[0] == Section.COMMAND:
        # A main connection over which a broken migration goes on.
        return Channel.PRECOPY
    # The preempt channel begins with a record, whose highest byte is zero for any guest.
    return Channel.POSTCOPY if not first[0] else "unknown"
