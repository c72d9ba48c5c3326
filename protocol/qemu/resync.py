"""Where a stream can be read on behind bytes that have no length, or that could not be read.

Two things tell a place: a section's footer, behind which something begins that can stand on the
outer level, and the grid of RAM records, each at a record's length behind the one before.  What may
still prove right when more has come is waited for, so that no place is taken on less than that.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from protocol.geometry import TARGET_PAGE_BYTES, RamBlock
from protocol.qemu.constants import (
    CMD_BYTES,
    COMMAND_HEAD,
    FLAG_BITS,
    RECORD_BYTES,
    RECORD_HEAD_BYTES,
    Cmd,
    Ram,
    Section,
)

_WORD = struct.Struct(">Q")
_ID = struct.Struct(">I")
_END_OF_RECORDS = _WORD.pack(Ram.EOS)

# A machine's description is some 100 KiB of JSON.
_DESCRIPTION_BYTES_MAX = 64 << 20

# What a place may begin with and not be recognised for want of the rest: a head and a name.
TAIL_BYTES = 300

_IN_A_ROW = int(Ram.PAGE | Ram.CONTINUE)


class Place(NamedTuple):
    """Where to read on.

    Attributes:
        at: The index; what is before it is done with.
        by: What told it: "footer", "named record" or "record grid".
        block: Whose records follow, where these do not say; None where nobody can tell.
    """

    at: int
    by: str
    block: RamBlock | None = None


class Pending(NamedTuple):
    """A place that may prove right when more has come: all from `at` on is needed for that."""

    at: int


def find_footer(
    data: bytes | bytearray, start: int, section_id: int, sections: Collection[int]
) -> Place | Pending | None:
    """Find the end of a section.

    Args:
        data: What there is of the stream.
        start: Where the section's body begins in it, or goes on.
        section_id: Which section.
        sections: Those that have begun and may go on.
    """
    return _find_mark(bytes([Section.FOOTER]) + _ID.pack(section_id), data, start, sections)


def begins_outer(data: bytes | bytearray, at: int, sections: Collection[int]) -> bool | None:
    """Return whether something begins that can stand on the outer level; None if it is too early.

    Args:
        data: What there is of the stream.
        at: Where.
        sections: Those that have begun and may go on.
    """
    rest = bytes(data[at : at + TAIL_BYTES])
    if not rest:
        return None
    kind = rest[0]
    if kind in {Section.START, Section.FULL}:
        return _begins_section(rest)
    if kind in {Section.PART, Section.END}:
        return _ID.unpack_from(rest, 1)[0] in sections if len(rest) >= 5 else None
    if kind == Section.COMMAND:
        return _begins_command(rest)
    return _begins_end(rest) if kind == Section.EOF else False


def _begins_section(rest: bytes) -> bool | None:
    """Return whether this is a section's head: its number, a name, an instance, a version."""
    if len(rest) < 6:
        return None
    name_bytes = rest[5]
    name = rest[6 : 6 + name_bytes]
    if not (name_bytes and name.isascii() and (name.decode().isprintable() or not name)):
        return False
    return True if len(rest) >= 6 + name_bytes + 8 else None


def _begins_command(rest: bytes) -> bool | None:
    if len(rest) < COMMAND_HEAD.size:
        return None
    _, number, length = COMMAND_HEAD.unpack_from(rest)
    return number in set(Cmd) and CMD_BYTES.get(number, length) == length


def _begins_end(rest: bytes) -> bool | None:
    """Return whether this is the stream's end; by itself a zero says nothing.

    Behind the end stands the machine's description.
    """
    if len(rest) < 7:
        is_so_far = rest[1:2] in {b"", bytes([Section.VMDESCRIPTION])}
        return None if is_so_far else False
    length = _ID.unpack_from(rest, 2)[0]
    return (
        rest[1] == Section.VMDESCRIPTION and length <= _DESCRIPTION_BYTES_MAX and rest[6:7] == b"{"
    )


def find_record(
    data: bytes | bytearray, start: int, blocks: Mapping[str, RamBlock]
) -> Place | Pending | None:
    """Find a RAM record: one that names its block, or three of one page that follow each other."""
    found = [
        place
        for place in (_find_named(data, start, blocks), _find_row(data, start, blocks))
        if place is not None
    ]
    return min(found, key=lambda place: place.at, default=None)


def find_section_end(
    data: bytes | bytearray, start: int, ram_id: int, sections: Collection[int]
) -> Place | Pending | None:
    """Find the end of a RAM section: the end of its records, its footer, and what may follow."""
    mark = _END_OF_RECORDS + bytes([Section.FOOTER]) + _ID.pack(ram_id)
    return _find_mark(mark, data, start, sections)


def _find_mark(
    mark: bytes, data: bytes | bytearray, start: int, sections: Collection[int]
) -> Place | Pending | None:
    at = start
    while (at := data.find(mark, at)) >= 0:
        behind = at + len(mark)
        if (can_begin := begins_outer(data, behind, sections)) is not False:
            return Place(behind, "footer") if can_begin else Pending(at)
        at += 1
    return None


def _find_named(
    data: bytes | bytearray, start: int, blocks: Mapping[str, RamBlock]
) -> Place | Pending | None:
    if not blocks:
        return None
    names = {bytes([len(name)]) + name.encode(): block for name, block in blocks.items()}
    pattern = re.compile(b"|".join(re.escape(name) for name in sorted(names, key=len)[::-1]))
    for match in pattern.finditer(data, start + RECORD_HEAD_BYTES):
        at = match.start() - RECORD_HEAD_BYTES
        block = names[match[0]]
        (word,) = _WORD.unpack_from(data, at)
        flags, address = word & FLAG_BITS, word & ~FLAG_BITS
        if flags not in {Ram.PAGE, Ram.ZERO} or address >= block.length_bytes:
            continue
        body_bytes = TARGET_PAGE_BYTES if flags == Ram.PAGE else 1
        follows = _begins_record(data, match.end() + body_bytes, block)
        if follows is not False:
            return Place(at, "named record", block) if follows else Pending(at)
    return None


def _begins_record(data: bytes | bytearray, at: int, block: RamBlock) -> bool | None:
    """Return whether a record begins behind one of a block; None if it is too early."""
    if len(data) < at + RECORD_HEAD_BYTES:
        return None
    (word,) = _WORD.unpack_from(data, at)
    flags, address = Ram(word & FLAG_BITS), int(word & ~FLAG_BITS)
    if flags == Ram.EOS:
        return not address
    if flags & ~Ram.CONTINUE not in {Ram.PAGE, Ram.ZERO}:
        return False
    return not flags & Ram.CONTINUE or address < block.length_bytes


def _find_row(
    data: bytes | bytearray, start: int, blocks: Mapping[str, RamBlock]
) -> Place | Pending | None:
    longest = max((block.length_bytes for block in blocks.values()), default=0)
    octets = np.frombuffer(data, np.uint8)
    last = RECORD_HEAD_BYTES - 1
    is_end = (octets[start + last :] == _IN_A_ROW & 0xFF) & (
        octets[start + last - 1 : -1] & 15 == 0
    )
    places = [int(each) + start for each in np.flatnonzero(is_end)]
    # A view of a bytearray keeps it from being cut.
    del octets
    for at in places:
        (word,) = _WORD.unpack_from(data, at)
        address = word & ~FLAG_BITS
        if address + 2 * TARGET_PAGE_BYTES >= longest:
            continue
        for number in (1, 2):
            if len(data) < at + number * RECORD_BYTES + RECORD_HEAD_BYTES:
                return Pending(at)
            (other,) = _WORD.unpack_from(data, at + number * RECORD_BYTES)
            if other != word + number * TARGET_PAGE_BYTES:
                break
        else:
            fitting = [
                block
                for block in blocks.values()
                if address + 2 * TARGET_PAGE_BYTES < block.length_bytes
            ]
            return Place(at, "record grid", fitting[0] if len(fitting) == 1 else None)
    return None
