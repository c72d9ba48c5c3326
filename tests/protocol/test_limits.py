"""Tests of protocol/limits.py: the limits fit each other and what they limit."""

import os

import msgpack
import pytest

from protocol import limits
from protocol.fields import INTEGER_MAX, PackedRuns
from protocol.geometry import PAGE_BYTES_CHOICES, TARGET_PAGE_BYTES
from protocol.limits import (
    BLOCK_COUNT_MAX,
    BLOCK_NAME_CHARS_MAX,
    CAPABILITY_CHARS_MAX,
    CAPABILITY_COUNT_MAX,
    CHUNK_BYTES_MAX,
    CLOSING_BYTES_MAX,
    DEVICE_STATE_BYTES_MAX,
    DISCARD_BYTES_MAX,
    GUEST_BYTES_MAX,
    HEADER_ARRAY_ITEMS_MAX,
    HEADER_BYTES_MAX,
    REASON_CHARS_MAX,
    REPORT_BYTES_MAX,
    RUN_COUNT_MAX,
    SESSION_ID_BYTES,
)
from protocol.messages import (
    MESSAGE_TYPES,
    Abort,
    Discard,
    End,
    Hello,
    Message,
    PageData,
    PageRequest,
    RunData,
    Setup,
    Verdict,
    ZeroData,
)
from protocol.runs import PACKED_RUN_BYTES
from protocol.wire import encode

# Four bytes in UTF-8, the most that a character takes.
LONGEST_LINE = "\N{GRINNING FACE}" * REASON_CHARS_MAX
BLOCK = ("n" * BLOCK_NAME_CHARS_MAX, INTEGER_MAX, INTEGER_MAX)

LONGEST: list[Message] = [
    Hello(
        version=INTEGER_MAX,
        session=bytes(SESSION_ID_BYTES),
        role=LONGEST_LINE,
        capabilities=("c" * CAPABILITY_CHARS_MAX,) * CAPABILITY_COUNT_MAX,
    ),
    Abort(reason=LONGEST_LINE),
    Setup(
        payload_bytes=Setup.payload_bytes_max,
        blocks=(BLOCK,) * BLOCK_COUNT_MAX,
        policy=LONGEST_LINE,
        chunk_bytes=INTEGER_MAX,
        switches=("c" * CAPABILITY_CHARS_MAX,) * CAPABILITY_COUNT_MAX,
    ),
    RunData(
        payload_bytes=CHUNK_BYTES_MAX,
        block=INTEGER_MAX,
        offset=INTEGER_MAX,
        runs=PackedRuns(bytes(RUN_COUNT_MAX * PACKED_RUN_BYTES)),
        urgent=True,
        queue_us=INTEGER_MAX,
        send_us=INTEGER_MAX,
    ),
    Verdict(payload_bytes=Verdict.payload_bytes_max, equal=False, detail=LONGEST_LINE),
]
FREQUENT: list[Message] = [
    PageData(
        payload_bytes=CHUNK_BYTES_MAX,
        block=INTEGER_MAX,
        offset=INTEGER_MAX,
        urgent=True,
        queue_us=INTEGER_MAX,
        send_us=INTEGER_MAX,
    ),
    ZeroData(
        block=INTEGER_MAX,
        offset=INTEGER_MAX,
        length=INTEGER_MAX,
        urgent=True,
        queue_us=INTEGER_MAX,
        send_us=INTEGER_MAX,
    ),
    PageRequest(block=INTEGER_MAX, page=INTEGER_MAX, target_page=INTEGER_MAX),
    End(target_pages=INTEGER_MAX, data_bytes=INTEGER_MAX),
]


def by_name(message: Message) -> str:
    """Return a test's name for a message."""
    return type(message).__name__


@pytest.mark.parametrize("message", LONGEST, ids=by_name)
def test_the_longest_header_fits(message: Message) -> None:
    """The longest header that the fields' limits allow is within the limit of headers."""
    actual = len(encode(message))
    assert actual <= 4 + HEADER_BYTES_MAX


@pytest.mark.parametrize("message", FREQUENT, ids=by_name)
def test_the_head_of_a_frequent_frame_is_short(message: Message) -> None:
    """What comes by the thousand has a head below 60 bytes, whatever its numbers are."""
    actual = len(encode(message))
    assert actual < 60


def test_no_array_in_a_header_is_longer_than_allowed() -> None:
    """The longest array that a correct peer sends is one that a decoder lets through."""

    def longest_array(value: object) -> int:
        if not isinstance(value, list):
            return 0
        return max(len(value), *map(longest_array, value))

    actual = max(longest_array(msgpack.unpackb(encode(message)[4:])) for message in LONGEST)
    assert actual == HEADER_ARRAY_ITEMS_MAX


def test_a_chunk_is_whole_target_pages() -> None:
    """The longest frame of page bytes ends where a target page does, and holds a huge page."""
    assert CHUNK_BYTES_MAX % TARGET_PAGE_BYTES == 0
    assert PAGE_BYTES_CHOICES[1] <= CHUNK_BYTES_MAX


def test_the_runs_of_a_frame_fit_in_one_call() -> None:
    """All runs of a frame, its head and a scratch buffer are one sendmsg or recvmsg."""
    iov_max = os.sysconf("SC_IOV_MAX")
    assert iov_max >= RUN_COUNT_MAX + 2


def test_a_discard_covers_gigabytes() -> None:
    """One bitmap at its limit covers 32 GiB, and starts where a byte of bits does."""
    actual = Discard.payload_bytes_max * 8 * TARGET_PAGE_BYTES
    assert actual == 32 << 30
    assert Discard.payload_bytes_max == DISCARD_BYTES_MAX


def test_the_largest_guest_can_be_closed() -> None:
    """The account of the largest guest fits: digests, final states and statistics."""
    digests = GUEST_BYTES_MAX // (2 << 20) * 16
    assert digests + DEVICE_STATE_BYTES_MAX + REPORT_BYTES_MAX <= CLOSING_BYTES_MAX


def test_a_payload_length_is_a_number_of_the_wire() -> None:
    """No payload's limit is more than a frame can say, and none is without a reason to be."""
    for message_type in MESSAGE_TYPES:
        assert 0 <= message_type.payload_bytes_max <= CLOSING_BYTES_MAX < INTEGER_MAX


def test_every_limit_is_a_positive_number() -> None:
    """A limit of nothing would forbid what it is about."""
    values = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert values
    for name, value in values.items():
        assert value > 0, name
