"""The return path as QEMU reads it."""

import pytest

from protocol.errors import LocalProtocolError
from protocol.qemu.returns import (
    PageRequests,
    encode_pong,
    encode_received,
    encode_resume_ack,
    encode_shut,
)


def test_the_end_and_the_pong_are_a_number_each() -> None:
    """Both have a kind, a length and one 32-bit number."""
    assert encode_shut(failed=False) == bytes.fromhex("0001 0004 00000000")
    assert encode_shut(failed=True) == bytes.fromhex("0001 0004 00000001")
    assert encode_pong(0x42) == bytes.fromhex("0002 0004 00000042")


def test_a_request_names_its_block_when_that_changes() -> None:
    """The block's name goes with the first request, and with the first for another block."""
    requests = PageRequests()
    stretch = bytes.fromhex("0000000000200000 00200000")
    named = bytes.fromhex("0003 0013") + stretch + b"\6pc.ram"
    assert requests.encode("pc.ram", 2 << 20, 2 << 20) == named
    assert requests.encode("pc.ram", 2 << 20, 2 << 20) == bytes.fromhex("0004 000c") + stretch
    assert requests.encode("rom", 2 << 20, 2 << 20)[:4] == bytes.fromhex("0003 0010")
    assert requests.encode("pc.ram", 2 << 20, 2 << 20) == named


def test_a_request_that_has_no_form_is_refused() -> None:
    """Lengths and names that do not fit are this side's fault."""
    for block, length in (("", 4096), ("x" * 256, 4096), ("pc.ram", 0), ("pc.ram", 1 << 32)):
        with pytest.raises(LocalProtocolError):
            PageRequests().encode(block, 0, length)


def test_what_is_here_is_a_bitmap_behind_its_message() -> None:
    """The bitmap's length is a multiple of 8 bytes, and QEMU's mark stands behind it."""
    told = encode_received("rom", b"\xff\x01")
    assert told == bytes.fromhex(
        "0005 0004 03 726f6d 0000000000000008 ff01000000000000 0123456789abcdef"
    )
    assert encode_resume_ack() == bytes.fromhex("0006 0004 00000001")
    with pytest.raises(LocalProtocolError):
        encode_received("", b"")
