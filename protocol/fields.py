"""What every message is made of: a kind, and fields of a few types, each with what it may hold.

What a message carries beside its fields is its payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NewType, TypeVar, dataclass_transform

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


T = TypeVar("T")


@dataclass(frozen=True, repr=False, eq=False)
class Message:
    """Base of all messages; `payload_bytes` is 0 for those that carry no bulk.

    How they compare and what they look like is said once, here: a dataclass that has methods of its
    own for that has them compiled while it loads, and a side loads thirty of these.
    """

    kind: ClassVar[int]
    payload_bytes_max: ClassVar[int] = 0
    payload_bytes: int = 0

    def __eq__(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, other: object
    ) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:  # type: ignore[explicit-override] # typing.override: from 3.12
        return hash((type(self), frozenset(vars(self).items())))

    def __repr__(self) -> str:  # type: ignore[explicit-override] # typing.override: from 3.12
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


@dataclass_transform(frozen_default=True, kw_only_default=True)
def message(cls: type[T]) -> type[T]:
    """Make a dataclass of a kind of message: frozen, its fields given by name."""
    return dataclass(frozen=True, kw_only=True, repr=False, eq=False)(cls)
