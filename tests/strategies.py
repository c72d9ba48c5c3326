"""What several tests draw: values of the wire's types, messages, records, guests and spans."""

from __future__ import annotations

import dataclasses
import types
import typing
from itertools import pairwise
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from protocol.fields import INTEGER_MAX, Digest, PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.limits import (
    BEHIND_COUNT_MAX,
    BLOCK_COUNT_MAX,
    BLOCK_NAME_CHARS_MAX,
    CAPABILITY_CHARS_MAX,
    CAPABILITY_COUNT_MAX,
    CHECKSUM_BYTES,
    REASON_CHARS_MAX,
    SESSION_ID_BYTES,
)
from protocol.messages import FIELD_TYPES, MESSAGE_TYPES, Message
from protocol.runs import PACKED_RUN_BYTES

R = TypeVar("R")

HUGE_PAGE_BYTES = 2 << 20

counts = st.integers(0, INTEGER_MAX)
names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64)

# All that is printable, and the space.
_printable = st.characters(exclude_categories=["C", "Z"]) | st.just(" ")
lines = st.text(_printable, max_size=REASON_CHARS_MAX)

_message_fields: dict[object, SearchStrategy[object]] = {
    int: counts,
    bool: st.booleans(),
    str: lines,
    bytes: st.binary(min_size=SESSION_ID_BYTES, max_size=SESSION_ID_BYTES),
    Digest: st.binary(min_size=CHECKSUM_BYTES, max_size=CHECKSUM_BYTES),
    PackedRuns: st.binary(min_size=1, max_size=60).map(lambda data: data * PACKED_RUN_BYTES),
    tuple[str, ...]: st.lists(
        names.filter(lambda name: len(name) <= CAPABILITY_CHARS_MAX), max_size=CAPABILITY_COUNT_MAX
    ).map(tuple),
    tuple[tuple[str, int, int], ...]: st.lists(
        st.tuples(
            names.filter(lambda name: len(name) <= BLOCK_NAME_CHARS_MAX), counts, counts
        ),
        min_size=1,
        max_size=BLOCK_COUNT_MAX,
    ).map(tuple),
    tuple[tuple[int, int], ...]: st.lists(
        st.tuples(counts, counts), max_size=BEHIND_COUNT_MAX
    ).map(tuple),
}  # fmt: skip


_least_fields: dict[object, object] = {
    int: 0,
    bool: False,
    str: "",
    bytes: bytes(SESSION_ID_BYTES),
    Digest: bytes(CHECKSUM_BYTES),
    PackedRuns: bytes(PACKED_RUN_BYTES),
    tuple[str, ...]: (),
    tuple[tuple[str, int, int], ...]: (("r", 0, 0),),
    tuple[tuple[int, int], ...]: (),
}


def least_fields(message_type: type[Message]) -> dict[str, Any]:
    """Return for each field of a message, in their order, the least that it may hold."""
    return {name: _least_fields[hint] for name, hint in FIELD_TYPES[message_type].items()}


def messages_of(message_type: type[Message]) -> SearchStrategy[Message]:
    """Return a strategy for messages of one type, every field within its bounds."""
    fields = {name: _message_fields[hint] for name, hint in FIELD_TYPES[message_type].items()}
    fields["payload_bytes"] = st.integers(0, message_type.payload_bytes_max)
    return st.builds(message_type, **fields)


messages = st.one_of([messages_of(message_type) for message_type in MESSAGE_TYPES])

_record_fields: dict[object, SearchStrategy[object]] = {
    int: st.integers(-(1 << 63), (1 << 64) - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: lines,
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
}


def records_of(record_type: type[R]) -> SearchStrategy[R]:
    """Return a strategy for the instances of a record, as `protocol.records` carries them."""
    hints = typing.get_type_hints(record_type)
    return st.builds(record_type, **{name: _values_of(hint) for name, hint in hints.items()})


def _values_of(hint: object) -> SearchStrategy[Any]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return records_of(hint)
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is types.UnionType:
        inner, none = arguments
        assert none is type(None)
        return st.none() | _values_of(inner)
    if arguments:
        return st.lists(_values_of(arguments[0]), max_size=3).map(tuple)
    return _record_fields[hint]


# What msgpack can carry, nested a little.
plain_values: SearchStrategy[object] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@st.composite
def geometries(draw: DrawFn, block_count_max: int = 4) -> Geometry:
    """Draw a small guest: blocks of base pages of odd lengths, and of a huge page or two."""
    blocks = []
    for index in range(draw(st.integers(1, block_count_max))):
        page_bytes = draw(st.sampled_from([TARGET_PAGE_BYTES, HUGE_PAGE_BYTES]))
        page_count_max = 70 if page_bytes == TARGET_PAGE_BYTES else 2
        page_count = draw(st.integers(1, page_count_max))
        blocks.append(RamBlock(f"block{index}", page_count * page_bytes, page_bytes))
    return Geometry(tuple(blocks))


@st.composite
def spans(draw: DrawFn, geometry: Geometry) -> Span:
    """Draw a run of whole target pages of a guest, at least one."""
    block = draw(st.integers(0, len(geometry.blocks) - 1))
    count = geometry.blocks[block].target_page_count
    first = draw(st.integers(0, count - 1))
    stop = draw(st.integers(first + 1, count))
    return Span(block, first * TARGET_PAGE_BYTES, (stop - first) * TARGET_PAGE_BYTES)


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return data in pieces: cut at these places, in whatever order they are given."""
    edges = [0, *sorted(cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]
