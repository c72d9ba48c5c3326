"""What each type of a header's fields may hold, and how that is said to a person."""

from __future__ import annotations

from typing import NewType

from protocol.limits import (
    BEHIND_COUNT_MAX,
    BLOCK_COUNT_MAX,
    BLOCK_NAME_CHARS_MAX,
    CAPABILITY_CHARS_MAX,
    CAPABILITY_COUNT_MAX,
    CHECKSUM_BYTES,
    REASON_CHARS_MAX,
    RUN_COUNT_MAX,
    SESSION_ID_BYTES,
)
from protocol.runs import PACKED_RUN_BYTES
from protocol.text import is_one_line

# What numpy, msgpack and a C `int64_t` can all hold.
INTEGER_MAX = (1 << 63) - 1

# Runs of target pages as `protocol.runs` packs them.
PackedRuns = NewType("PackedRuns", bytes)

# What `protocol.checksums` makes of bytes.
Digest = NewType("Digest", bytes)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= INTEGER_MAX


def _is_capabilities(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) <= CAPABILITY_COUNT_MAX
        and all(_is_name(item, CAPABILITY_CHARS_MAX) for item in value)
    )


def _is_blocks(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and 0 < len(value) <= BLOCK_COUNT_MAX
        and all(map(_is_block, value))
    )


def _is_block(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and _is_name(value[0], BLOCK_NAME_CHARS_MAX)
        and _is_count(value[1])
        and _is_count(value[2])
    )


def _is_pages(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= BEHIND_COUNT_MAX and all(map(_is_page, value))


def _is_page(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_count, value))


def _is_packed_runs(value: object) -> bool:
    return (
        isinstance(value, bytes)
        and 0 < len(value) <= RUN_COUNT_MAX * PACKED_RUN_BYTES
        and not len(value) % PACKED_RUN_BYTES
    )


def _is_name(value: object, chars_max: int) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= chars_max
        and value.isascii()
        and value.isprintable()
    )


CHECKS = {
    int: _is_count,
    bool: lambda value: type(value) is bool,
    str: lambda value: isinstance(value, str) and is_one_line(value),
    bytes: lambda value: isinstance(value, bytes) and len(value) == SESSION_ID_BYTES,
    PackedRuns: _is_packed_runs,
    Digest: lambda value: isinstance(value, bytes) and len(value) == CHECKSUM_BYTES,
    tuple[str, ...]: _is_capabilities,
    tuple[tuple[str, int, int], ...]: _is_blocks,
    tuple[tuple[int, int], ...]: _is_pages,
}
WORDS = {
    int: "a whole number from 0",
    bool: "true or false",
    str: f"a line of at most {REASON_CHARS_MAX} printable characters",
    bytes: f"{SESSION_ID_BYTES} bytes",
    PackedRuns: f"1 to {RUN_COUNT_MAX} packed runs",
    Digest: f"a digest of {CHECKSUM_BYTES} bytes",
    tuple[str, ...]: "a short array of short names",
    tuple[tuple[str, int, int], ...]: "an array of RAMBlocks",
    tuple[tuple[int, int], ...]: f"an array of at most {BEHIND_COUNT_MAX} pages",
}
