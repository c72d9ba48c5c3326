"""A line of a trace tells by its words alone what each of them is, and is written as it is read."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.access_line import (
    LINE_CHARS_MAX,
    TIME_NS_MAX,
    Access,
    WrongLineError,
    format_access,
    locate,
    parse_access,
)
from protocol.units import parse_geometry

GUEST = parse_geometry("ram=4MiB@2MiB,7 zip=64KiB@4KiB", "2MiB")
BLOCKS = {"ram": 0, "7 zip": 1}


@pytest.mark.parametrize(
    ("line", "access"),
    [
        ("5", Access(page=5)),
        ("5 r", Access(page=5)),
        ("3 5 w", Access(vcpu=3, page=5, is_write=True)),
        ("ram 5+3", Access(block="ram", page=5, target_page=3)),
        ("0 7 zip 5", Access(block="7 zip", page=5)),
        ("7 zip 5", Access(vcpu=7, block="zip", page=5)),
        ("r 5", Access(block="r", page=5)),
        ("@1.5 0x1F w # a remark", Access(time_ns=1_500_000_000, address=31, is_write=True)),
        ("\t@0 63  pc.ram  0x0 r\n", Access(time_ns=0, vcpu=63, block="pc.ram", address=0)),
        ("@999999999.999999999 0", Access(time_ns=TIME_NS_MAX)),
    ],
)
def test_words_tell_what_they_are(line: str, access: Access) -> None:
    """A number before the place is a vCPU, what is between them a block."""
    assert parse_access(line) == access


@pytest.mark.parametrize("line", ["", "\n", "# all", "   #", "\t# 0 ram 5 r"])
def test_what_says_nothing_is_no_access(line: str) -> None:
    """Empty lines and remarks are passed over."""
    assert parse_access(line) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("@ 5", "is not a time"),
        ("@-1 5", "is not a time"),
        ("@1000000000 5", "is not a time"),
        ("w", "an access is"),
        ("0 ram 5 x", "'x' is neither r nor w"),
        ("0 ram x", "'x' is not PAGE"),
        ("0x", "'0x' is not PAGE"),
        ("0x10000000000000000", "is not PAGE"),
        ("-5", "'-5' is not PAGE"),
        ("5" * LINE_CHARS_MAX, "longer than"),
    ],
)
def test_a_wrong_line_is_refused(line: str, reason: str) -> None:
    """The reason names the word."""
    with pytest.raises(WrongLineError, match=reason):
        parse_access(line)


@given(line=st.text(max_size=60) | st.text("@.0x19+ rw#-ram", max_size=30))
def test_whatever_a_line_holds_it_is_read_or_refused(line: str) -> None:
    """What is read can be written, and is read again as the same."""
    with suppress(WrongLineError):
        access = parse_access(line)
        assert access is None or parse_access(format_access(access)) == access


PLACES = st.one_of(
    st.builds(lambda page, target_page: {"page": page, "target_page": target_page},
              st.integers(0, 10**18 - 1), st.integers(0, 511)),
    st.builds(lambda address: {"address": address}, st.integers(0, 2**64 - 1)),
)  # fmt: skip
ACCESSES = st.builds(
    lambda time_ns, vcpu, block, is_write, place: Access(
        time_ns=time_ns, vcpu=vcpu, block=block, is_write=is_write, **place
    ),
    st.none() | st.integers(0, TIME_NS_MAX),
    st.integers(0, 63),
    st.sampled_from(["", "ram", "pc.bios", "7 zip", "video ram#2", "w", "0x5"]),
    st.booleans(),
    PLACES,
)


@given(access=ACCESSES)
def test_what_is_written_is_read_as_it_was(access: Access) -> None:
    """Whatever an access is, its line says the same."""
    assert parse_access(format_access(access)) == access


@pytest.mark.parametrize(
    ("access", "flat_page"),
    [
        (Access(page=1, target_page=5), 517),
        (Access(page=2), 1024),
        (Access(page=17), 1039),
        (Access(block="7 zip", page=15), 1039),
        (Access(block="7 zip", address=0xFFFF), 1039),
        (Access(block="ram", address=0x1FFFFF), 511),
        (Access(address=0x400000), 1024),
    ],
)
def test_a_place_is_found_in_its_guest(access: Access, flat_page: int) -> None:
    """In a block, or in all of them in their order."""
    assert locate(access, GUEST, BLOCKS, 1) == flat_page


@pytest.mark.parametrize(
    ("access", "reason"),
    [
        (Access(vcpu=2, page=1), "'2' is not a vCPU from 0 to 1"),
        (Access(block="x ram"), "'x' is not a vCPU from 0 to 1"),
        (Access(block="rom"), "no RAMBlock is named 'rom'; there is ram, 7 zip"),
        (Access(page=18), "page 18 is outside a guest of 18 pages"),
        (Access(block="ram", page=2), "page 2 is outside RAMBlock 'ram' of 2 pages"),
        (Access(page=2, target_page=1), "target page 1 is outside a page of 1"),
        (Access(block="7 zip", address=0x10000), "0x10000 is outside RAMBlock '7 zip'"),
        (Access(address=0x410000), "0x410000 is outside a guest of 0x410000 bytes"),
    ],
)
def test_what_a_guest_has_not_is_refused(access: Access, reason: str) -> None:
    """The reason says what there is."""
    with pytest.raises(WrongLineError, match=reason):
        locate(access, GUEST, BLOCKS, 2)
