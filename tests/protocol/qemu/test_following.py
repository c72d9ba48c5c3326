"""A source's stream as it passes: each byte in one piece, whatever comes, and found again."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.channels import Channel
from protocol.qemu.following import Follower
from protocol.qemu.known import Known, channel_of
from protocol.qemu.messages import (
    Blocks,
    Configuration,
    DiscardRanges,
    EndOfSection,
    Pages,
    QemuMessage,
    StreamEnd,
    Zeros,
)
from protocol.qemu.pieces import (
    Description,
    DeviceSection,
    Found,
    Lost,
    OtherCommand,
    PackageEnd,
    Part,
    Piece,
)
from protocol.qemu.ram import block_table
from protocol.qemu.stream import Decoder
from tests import qemu_streams as qemu
from tests.qemu_streams import MIB, TARGET
from tests.strategies import split_at

HUGE = 2 * MIB
BLOCKS = [(b"pc.ram", 2 * HUGE, HUGE), (b"vga.vram", 8 * TARGET, TARGET)]
NAMED = [(name.decode(), length, page_bytes) for name, length, page_bytes in BLOCKS]
DICE = random.Random(5)
# No two target pages are alike, and none looks like anything that frames one.
DATA = [bytes([0x91 + index]) + DICE.randbytes(TARGET - 1) for index in range(16)]

OPENING = b"".join(
    (
        qemu.head(more=qemu.capabilities(b"x-colo")),
        qemu.command(1),
        qemu.command(2, b"\0\0\0\1"),
        qemu.advise(HUGE | TARGET),
        qemu.start(BLOCKS),
    )
)
STREAM = b"".join(
    (
        OPENING,
        qemu.part(
            qemu.page(0, DATA[1], b"pc.ram"),
            *(qemu.page(number * TARGET, DATA[number]) for number in (1, 2, 4)),
            *(qemu.zero(number * TARGET) for number in (5, 6, 9)),
            *(qemu.compressed(number * TARGET, DATA[number]) for number in (1, 0)),
            qemu.page(HUGE - TARGET, DATA[3]),
            qemu.page(HUGE, DATA[3]),
            qemu.page(TARGET, DATA[7], b"vga.vram"),
        ),
        qemu.discard(b"pc.ram", (0, HUGE), (HUGE + TARGET, 2 * TARGET)),
        qemu.package(3, devices=bytes(range(256)) * 3),
        qemu.part(qemu.page(0, DATA[2], b"pc.ram"), last=True),
        b"\0",
    )
)


def followed(
    data: bytes, cuts: Iterable[int] = (), follower: Follower | None = None
) -> list[Piece]:
    """Return the pieces of a stream that comes in pieces; they are checked to be exactly it."""
    follower = follower or Follower(Channel.PRECOPY, Known())
    at, pieces = follower.position, []
    for part in split_at(data, list(cuts)):
        for piece in follower.feed(part):
            assert piece.start == at
            assert piece.stop >= at
            at = piece.stop
            pieces.append(piece)
        assert at == follower.position, "each byte that was fed is in a piece"
    return pieces


def said(pieces: Iterable[Piece]) -> list[tuple[int, QemuMessage]]:
    """Return what is said, each with the position with which it is."""
    return [(piece.stop, message) for piece in pieces for message in piece.says]


def messages(pieces: Iterable[Piece]) -> list[QemuMessage]:
    """Return what is said."""
    return [message for _, message in said(pieces)]


def memory(pieces: Iterable[Piece]) -> list[tuple[str, int]]:
    """Return the target pages that have passed as a whole, in order."""
    found: list[tuple[str, int]] = []
    for piece in pieces:
        end = piece.offset + piece.length
        # Of one that comes in pieces, the last piece completes it.
        found += [
            (piece.block, at - TARGET)
            for at in range(piece.offset // TARGET * TARGET + TARGET, end + 1, TARGET)
        ]
    return found


def decoded(data: bytes) -> list[tuple[str, int]]:
    """Return the target pages that the decoder of a destination has of a stream."""
    decoder, found = Decoder(), list[tuple[str, int]]()
    decoder.receive_data(data)
    while (message := decoder.next_message()) is not None:
        if isinstance(message, (Pages, Zeros)):
            length = message.payload_bytes or getattr(message, "length", 0)
            found += [
                (message.block, at) for at in range(message.offset, message.offset + length, TARGET)
            ]
        if message.payload_bytes:
            decoder.take_payload(memoryview(bytearray(message.payload_bytes)))
    return found


def test_a_whole_stream_is_followed() -> None:
    """What is said and which memory passes is what a destination's decoder finds in it."""
    plain = STREAM.replace(qemu.capabilities(b"x-colo"), b"")
    assert memory(followed(plain)) == decoded(plain)
    told = messages(followed(STREAM))
    assert [type(message).__name__ for message in told] == [
        "Configuration", "OpenReturnPath", "Ping", "Advise", "Blocks", "EndOfSection",
        "EndOfSection", "DiscardRanges", "Package", "PackageEnd", "EndOfSection", "StreamEnd",
    ]  # fmt: skip
    assert told[0] == Configuration(machine="pc-q35-7.2")
    assert told[4] == Blocks(blocks=tuple(NAMED))
    assert told[9] == PackageEnd(package_bytes=768 + 19, pings=(3,))


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=30))
@settings(deadline=None)
def test_any_split_is_followed_alike(cuts: list[int]) -> None:
    """However a stream comes, the same is said at the same bytes, and the same memory passes."""
    whole, split = followed(STREAM), followed(STREAM, cuts)
    assert messages(split) == messages(whole)
    assert memory(split) == memory(whole)
    for (at, message), (late, _) in zip(said(whole), said(split), strict=True):
        # Where the list of blocks ends is told by the word behind it.
        assert at <= late <= at + 8 * isinstance(message, Blocks)


def test_byte_by_byte() -> None:
    """A stream that comes a byte at a time is followed alike."""
    pieces = followed(STREAM, range(len(STREAM)))
    assert messages(pieces) == messages(followed(STREAM))
    assert memory(pieces) == memory(followed(STREAM))


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_a_byte_of_a_page_has_one_position(cuts: list[int], seed: int) -> None:
    """The position of a byte of memory is where that byte stands in the stream."""
    dice = random.Random(seed)
    for piece in followed(STREAM, cuts):
        if piece.part is not Part.PAGES or not piece.is_plain:
            continue
        end = piece.offset + dice.randint(1, piece.length)
        assert piece.start < piece.position(end) <= piece.stop
        (number,) = {
            number
            for number, data in enumerate(DATA)
            if data[(end - 1) % TARGET :][:1]
            and STREAM.startswith(data[(end - 1) % TARGET :], piece.position(end) - 1)
        }
        assert STREAM[piece.position(end) - 1] == DATA[number][(end - 1) % TARGET]


def test_zeros_pass_with_their_last_byte() -> None:
    """A target page that is zero passes with the byte that fills it."""
    (row,) = (
        piece for piece in followed(STREAM) if piece.record_bytes == 9 and piece.length > TARGET
    )
    assert [row.position(row.offset + byte) - row.start for byte in (1, TARGET, TARGET + 1)] == [
        9, 9, 18,
    ]  # fmt: skip


def section(number: int, name: bytes, body: bytes, *, instance: int = 0) -> bytes:
    """Return a device's state: it does not say how long it is."""
    head = struct.pack(">BIB", 4, number, len(name)) + name + struct.pack(">II", instance, 3)
    return head + body + struct.pack(">BI", 0x7E, number)


def precopy(devices: list[tuple[bytes, bytes]]) -> bytes:
    """Return a migration that ends in precopy, with these devices."""
    described = json.dumps({"devices": [name.decode() for name, _ in devices]}).encode()
    return (
        OPENING
        + qemu.part(qemu.page(0, DATA[0], b"pc.ram"), last=True)
        + b"".join(section(4 + number, *each) for number, each in enumerate(devices))
        + b"\0\x06" + struct.pack(">I", len(described)) + described
    )  # fmt: skip


DEVICES = [
    (b"timer", b""),
    (b"cpu_common", DICE.randbytes(40)),
    # What looks like its own footer, and is followed by nothing that can be.
    (b"cpu", b"\x7e\0\0\0\x06" * 4 + b"\x7e\0\0\0\x06\x04\0\0\0\0\x03ab\xff" + bytes(99)),
    (b"0000:00:02.0/virtio-net", DICE.randbytes(20_000)),
    # The footer of another, and a zero behind its own.
    (b"serial", b"\x7e\0\0\0\x05\x08\0\1\0\0" + b"\x7e\0\0\0\x08\0\0\0"),
]


@given(cuts=st.lists(st.integers(0, 30_000), max_size=20))
@settings(deadline=None)
def test_device_state_ends_at_its_footer(cuts: list[int]) -> None:
    """Devices outside a package are told apart by their footers, whatever their state holds."""
    data = precopy(DEVICES)
    pieces = followed(data, [cut for cut in cuts if cut <= len(data)])
    told = [message for message in messages(pieces) if isinstance(message, DeviceSection)]
    assert told == [
        DeviceSection(name=name.decode(), body_bytes=len(body)) for name, body in DEVICES
    ]
    assert isinstance(messages(pieces)[-2], StreamEnd)
    assert isinstance(messages(pieces)[-1], Description)
    opaque = sum(piece.stop - piece.start for piece in pieces if piece.part is Part.DEVICES)
    assert opaque >= sum(len(body) for _, body in DEVICES)


PRECOPY = precopy(DEVICES)


@given(
    at=st.integers(0, len(PRECOPY)), bad=st.binary(min_size=1, max_size=40), cut=st.integers(0, 9)
)
@settings(deadline=None)
def test_nothing_that_comes_is_refused(at: int, bad: bytes, cut: int) -> None:
    """Whatever is put into a stream or taken out of it, each byte passes and nothing is raised."""
    data = PRECOPY[:at] + bad + PRECOPY[at + cut * 7 :]
    followed(data, range(0, len(data), 1 + len(bad) * 50))


@pytest.mark.parametrize("channel", list(Channel))
@given(data=st.binary(max_size=2000), seed=st.integers(0, 99))
def test_garbage_passes(channel: Channel, data: bytes, seed: int) -> None:
    """A connection of garbage passes, byte for byte, also where the guest is known."""
    known = Known(blocks=block_table(NAMED), ram_id=2, sections={2: "ram"})
    dice = random.Random(seed)
    cuts = [dice.randint(0, len(data)) for _ in range(5)]
    followed(data, cuts, Follower(channel, known, resumed=True))


def rows(block: bytes, first: int, count: int) -> Iterator[bytes]:
    """Yield records of target pages that follow each other; the first names its block."""
    yield qemu.page(first * TARGET, DATA[first % 16], block)
    for number in range(first + 1, first + count):
        yield qemu.page(number * TARGET, DATA[number % 16])


def lost_and_found(pieces: Iterable[Piece]) -> list[Lost | Found]:
    """Return where reading ended and went on."""
    return [message for message in messages(pieces) if isinstance(message, (Lost, Found))]


@pytest.mark.parametrize("cuts", [[], range(0, 200_000, 1000), range(0, 200_000, 7777)])
def test_a_row_of_records_is_found(cuts: Iterable[int]) -> None:
    """Behind a head that was changed, reading goes on with the row of records that follows."""
    good = OPENING + qemu.part(*rows(b"pc.ram", 0, 3))
    bad = bytearray(b"".join(rows(b"pc.ram", 9, 8)))
    # The length of the block's name.
    bad[8] = 0xEE
    data = good + struct.pack(">BI", 2, qemu.SECTION_ID) + bytes(bad) + qemu.eos() + qemu.footer()
    data += qemu.package()
    pieces = followed(data, [cut for cut in cuts if cut <= len(data)])
    lost, found = lost_and_found(pieces)
    assert isinstance(lost, Lost)
    # Only one block is as long as these pages are far in it: that it is theirs is no guess.
    assert isinstance(found, Found)
    assert found.by == "record grid"
    assert memory(pieces) == [("pc.ram", number * TARGET) for number in (0, 1, 2, *range(10, 17))]
    assert isinstance(messages(pieces)[-1], PackageEnd)


def test_whose_records_they_are_is_not_guessed() -> None:
    """A row that may be of two blocks passes as nobody's, until a record names its block."""
    blocks = [(b"a", 2 * HUGE, HUGE), (b"b", 2 * HUGE, HUGE)]
    start = qemu.head() + qemu.advise(HUGE | TARGET) + qemu.start(blocks)
    bad = bytearray(b"".join([*rows(b"a", 0, 5), *rows(b"b", 2, 2)]))
    bad[8] = 0xEE
    pieces = followed(start + qemu.part(bytes(bad)))
    assert memory(pieces) == [
        *(("", number * TARGET) for number in (1, 2, 3, 4)), ("b", 2 * TARGET), ("b", 3 * TARGET),
    ]  # fmt: skip


def test_a_record_that_names_its_block_is_found() -> None:
    """On the preempt channel a record that names a known block, and what follows it, is a place."""
    known = Known(blocks=block_table(NAMED))
    data = b"\0\0\0\0\0\0\0\xf0 garbage" + b"".join(
        (qemu.page(0, DATA[1], b"vga.vram"), qemu.zero(TARGET), qemu.zero(0, b"pc.ram"), qemu.eos())
    )
    pieces = followed(data, range(0, len(data), 100), Follower(Channel.POSTCOPY, known))
    assert memory(pieces) == [("vga.vram", 0), ("vga.vram", TARGET), ("pc.ram", 0)]
    _, found = lost_and_found(pieces)
    assert found == Found(by="named record", skipped_bytes=16)
    assert isinstance(messages(pieces)[-1], EndOfSection)


def test_the_end_of_a_section_is_found() -> None:
    """Behind records that make no sense the section's end is found, and what follows is read."""
    bad = qemu.part(qemu.page(0, DATA[0], b"none"))
    pieces = followed(OPENING + bad + qemu.discard(b"pc.ram", (0, HUGE)))
    lost, found = lost_and_found(pieces)
    assert isinstance(lost, Lost)
    assert "none" in lost.reason
    assert isinstance(found, Found)
    assert found.by == "footer"
    assert isinstance(messages(pieces)[-1], DiscardRanges)


def test_what_cannot_be_read_is_not_kept() -> None:
    """However much comes that makes no sense, no more of it is held than a place may take."""
    follower = Follower(
        Channel.PRECOPY, Known(blocks=block_table(NAMED), ram_id=2, sections={2: "ram"})
    )
    dice = random.Random(1)
    for _ in range(100):
        list(follower.feed(dice.randbytes(1 << 16)))
        assert follower.held_bytes < 20_000


def test_another_connection_goes_on() -> None:
    """A main connection that begins with a command goes on with what was known before."""
    known = Known()
    followed(OPENING, follower=Follower(Channel.PRECOPY, known))
    data = (
        qemu.command(10, b"\x06pc.ram")
        + qemu.command(9)
        + qemu.part(qemu.page(0, DATA[0], b"pc.ram"))
    )
    pieces = followed(data, follower=Follower(Channel.PRECOPY, known, resumed=True))
    assert [type(message).__name__ for message in messages(pieces)] == [
        "AskReceived", "Resume", "EndOfSection",
    ]  # fmt: skip
    assert memory(pieces) == [("pc.ram", 0)]


def test_a_command_of_a_later_qemu_is_stepped_over() -> None:
    """A command that is not known says how long it is, so what follows can be read."""
    pieces = followed(OPENING + qemu.command(77, b"later") + qemu.command(1))
    assert messages(pieces)[-2] == OtherCommand(number=77, length=5)


@pytest.mark.parametrize(
    ("first", "channel"),
    [
        (b"", None),
        (b"QEV", None),
        (b"QEVM", Channel.PRECOPY),
        (b"\x08\0\x0a", Channel.PRECOPY),
        (b"\0", Channel.POSTCOPY),
        (b"\x16", None),
        (b"\x16\x03\x01\x02", "TLS"),
        (b"\x11\x22\x33\x44", "multifd"),
        (b"GET ", "unknown"),
        (b"\x16\x04\0\0", "unknown"),
    ],
)
def test_a_connection_is_told_by_its_beginning(first: bytes, channel: Channel | str | None) -> None:
    """Which connection it is stands in its first bytes; what cannot be followed is named."""
    assert channel_of(first) == channel
