"""The parts of every message: a kind, and fields of a few types, each with its bounds.

msgspec makes the messages, reads and writes them, in C.  A message is an array: its kind, the
length of its payload, which is what it carries beside its fields, and the fields in their order.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, NewType

from msgspec import Meta, Struct

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

# What numpy, msgpack and a C `int64_t` can all hold.
INTEGER_MAX = (1 << 63) - 1

# Runs of target pages as `protocol.runs` packs them.
PackedRuns = NewType("PackedRuns", bytes)

# What `protocol.checksums` makes of bytes.
Digest = NewType("Digest", bytes)


def _bytes(count: int) -> Meta:
    return Meta(min_length=count, max_length=count)


def _name(chars_max: int) -> Meta:
    """Return what a short text of printable ASCII is."""
    return Meta(pattern=rf"\A[ -~]{{1,{chars_max}}}\Z")


Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
# Printable, too, which no pattern can say: whoever reads a message looks at that.
Line = Annotated[str, Meta(max_length=REASON_CHARS_MAX)]
SessionId = Annotated[bytes, _bytes(SESSION_ID_BYTES)]
DigestField = Annotated[Digest, _bytes(CHECKSUM_BYTES)]
# Whole runs, likewise.
RunsField = Annotated[
    PackedRuns, Meta(min_length=PACKED_RUN_BYTES, max_length=RUN_COUNT_MAX * PACKED_RUN_BYTES)
]
Names = Annotated[
    tuple[Annotated[str, _name(CAPABILITY_CHARS_MAX)], ...], Meta(max_length=CAPABILITY_COUNT_MAX)
]
Blocks = Annotated[
    tuple[tuple[Annotated[str, _name(BLOCK_NAME_CHARS_MAX)], Count, Count], ...],
    Meta(min_length=1, max_length=BLOCK_COUNT_MAX),
]
Pages = Annotated[tuple[tuple[Count, Count], ...], Meta(max_length=BEHIND_COUNT_MAX)]

# By its plain type, what a field is not where it is refused.
WORDS: dict[object, str] = {
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


class Message(
    Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """Base of all messages; `payload_bytes` is 0 for those that carry no bulk.

    Attributes:
        kind: The number of each: its tag.
    """

    kind: ClassVar[int]
    payload_bytes_max: ClassVar[int] = 0
    payload_bytes: Count = 0
