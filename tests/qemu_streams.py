"""A small encoder of QEMU's migration stream, for tests: what a source writes, piece by piece."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

KIB, MIB = 1 << 10, 1 << 20
TARGET = 4 * KIB

ZERO, MEM_SIZE, PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
COMPRESSED = 0x100

SECTION_ID = 2
LISTEN, RUN = 4, 5
RUN_COMMAND = struct.pack(">BHH", 8, RUN, 0)


def head(machine: bytes = b"pc-q35-7.2", more: bytes = b"") -> bytes:
    """Return magic, version and the configuration section."""
    return struct.pack(">IIBI", 0x5145564D, 3, 7, len(machine)) + machine + more


def capabilities(*names: bytes) -> bytes:
    """Return the subsection of capabilities that must be known."""
    name = b"configuration/capabilities"
    listed = b"".join(bytes([len(each)]) + each for each in names)
    return bytes([5, len(name)]) + name + struct.pack(">II", 1, len(names)) + listed


def command(number: int, data: bytes = b"") -> bytes:
    """Return a command."""
    return struct.pack(">BHH", 8, number, len(data)) + data


def advise(page_sizes: int = TARGET) -> bytes:
    """Return the advice that postcopy may come."""
    return command(3, struct.pack(">QQ", page_sizes, TARGET))


def start(blocks: Iterable[tuple[bytes, int, int]]) -> bytes:
    """Return the section that lists the blocks: (name, length, page size)."""
    blocks = list(blocks)
    data = struct.pack(">BIB", 1, SECTION_ID, 3) + b"ram" + struct.pack(">II", 0, 4)
    data += struct.pack(">Q", sum(length for _, length, _ in blocks) | MEM_SIZE)
    for name, length, page_bytes in blocks:
        data += bytes([len(name)]) + name + struct.pack(">Q", length)
        data += struct.pack(">Q", page_bytes) if page_bytes != TARGET else b""
    return data + eos() + footer()


def part(*records: bytes, last: bool = False) -> bytes:
    """Return a section with records of RAM."""
    return struct.pack(">BI", 3 if last else 2, SECTION_ID) + b"".join(records) + eos() + footer()


def eos() -> bytes:
    """Return the end of a section's records."""
    return struct.pack(">Q", EOS)


def footer() -> bytes:
    """Return what stands behind a section."""
    return struct.pack(">BI", 0x7E, SECTION_ID)


def page(offset: int, data: bytes, block: bytes = b"") -> bytes:
    """Return a record with a target page's bytes; without a block's name it is the last one's."""
    assert len(data) == TARGET
    return _word(offset, PAGE, block) + data


def compressed(offset: int, data: bytes, block: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a record of a target page that is deflated; perhaps with a wrong length.

    Args:
        offset: Of the page.
        data: What is deflated; as it is where a length is given.
        block: As of all records.
        length: What is said that it takes.
    """
    packed = zlib.compress(data) if length is None else data
    size = len(packed) if length is None else length
    return _word(offset, COMPRESSED, block) + struct.pack(">I", size) + packed


def zero(offset: int, block: bytes = b"", fill: int = 0) -> bytes:
    """Return a record of a target page that is all one byte."""
    return _word(offset, ZERO, block) + bytes([fill])


def discard(block: bytes, *ranges: tuple[int, int]) -> bytes:
    """Return the command that says what of a block is stale: (offset, length)."""
    stretches = b"".join(struct.pack(">QQ", *each) for each in ranges)
    return command(6, bytes([0, len(block)]) + block + b"\0" + stretches)


def package(*pings: int, devices: bytes = b"\x04 opaque") -> bytes:
    """Return the switch-over: LISTEN, devices, pings, RUN, in a package."""
    inside = command(LISTEN) + devices
    inside += b"".join(command(2, struct.pack(">I", value)) for value in pings) + command(RUN)
    return command(7, struct.pack(">I", len(inside))) + inside


def _word(offset: int, flag: int, block: bytes) -> bytes:
    word = struct.pack(">Q", offset | flag | (0 if block else CONTINUE))
    return word + (bytes([len(block)]) + block if block else b"")
