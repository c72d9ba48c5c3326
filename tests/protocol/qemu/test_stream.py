"""QEMU's stream: whole, byte by byte, with more behind it, and everything that is refused."""

from __future__ import annotations

import random
import re
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.qemu.decoder import PreemptDecoder
from protocol.qemu.messages import (
    Advise,
    AskReceived,
    Blocks,
    Configuration,
    DiscardRanges,
    EndOfSection,
    OpenReturnPath,
    Package,
    Pages,
    Ping,
    QemuMessage,
    Resume,
    StreamEnd,
    SwitchoverStart,
    Zeros,
)
from protocol.qemu.ram import block_table
from protocol.qemu.stream import Decoder
from tests import qemu_streams as qemu
from tests.qemu_streams import MIB, TARGET

HUGE = 2 * MIB
BLOCKS = [(b"pc.ram", 2 * HUGE, HUGE), (b"0000:00:02.0/vga.vram", 8 * TARGET, TARGET)]
NAMED = tuple((name.decode(), length, page_bytes) for name, length, page_bytes in BLOCKS)
DATA = [bytes([index]) * TARGET for index in range(8)]

Said = list[tuple[QemuMessage, bytes]]


def whole_stream() -> bytes:
    """Return a whole migration: precopy with several shapes of runs, the switch-over, the rest."""
    return b"".join(
        (
            qemu.head(),
            qemu.command(1),
            qemu.command(2, b"\0\0\0\1"),
            qemu.advise(HUGE | TARGET),
            qemu.start(BLOCKS),
            qemu.part(
                qemu.page(0, DATA[1], b"pc.ram"),
                *(qemu.page(number * TARGET, DATA[number]) for number in (1, 2, 4)),
                *(qemu.zero(number * TARGET) for number in (5, 6)),
                *(qemu.compressed(number * TARGET, DATA[number]) for number in (1, 0)),
                qemu.page(HUGE - TARGET, DATA[3]),
                qemu.page(HUGE, DATA[4]),
                qemu.zero(0, b"0000:00:02.0/vga.vram"),
            ),
            qemu.discard(b"pc.ram", (0, HUGE), (HUGE, HUGE)),
            qemu.command(11),
            qemu.package(3, devices=bytes(1000)),
            qemu.part(qemu.page(0, DATA[5], b"pc.ram"), last=True),
            b"\0",
        )
    )


def expected() -> Said:
    """Return what it says."""
    return [
        (Configuration(machine="pc-q35-7.2"), b""),
        (OpenReturnPath(), b""),
        (Ping(value=1), b""),
        (Advise(page_sizes=HUGE | TARGET), b""),
        (Blocks(blocks=NAMED), b""),
        (EndOfSection(), b""),
        (Pages(3 * TARGET, block="pc.ram", offset=0), DATA[1] + DATA[1] + DATA[2]),
        (Pages(TARGET, block="pc.ram", offset=4 * TARGET), DATA[4]),
        (Zeros(block="pc.ram", offset=5 * TARGET, length=2 * TARGET), b""),
        *(
            (
                Pages(
                    TARGET,
                    block="pc.ram",
                    offset=number * TARGET,
                    packed_bytes=4 + len(zlib.compress(DATA[number])),
                ),
                DATA[number],
            )
            for number in (1, 0)
        ),
        # The next page begins a message of its own.
        (Pages(TARGET, block="pc.ram", offset=HUGE - TARGET), DATA[3]),
        (Pages(TARGET, block="pc.ram", offset=HUGE), DATA[4]),
        (Zeros(block="0000:00:02.0/vga.vram", offset=0, length=TARGET), b""),
        (EndOfSection(), b""),
        (DiscardRanges(block="pc.ram", ranges=((0, HUGE), (HUGE, HUGE))), b""),
        (SwitchoverStart(), b""),
        (Package(package_bytes=5 + 1000 + 9 + 5, pings=(3,)), b""),
        (Pages(TARGET, block="pc.ram", offset=0), DATA[5]),
        (EndOfSection(), b""),
        (StreamEnd(), b""),
    ]


def hear(decoder: Decoder | PreemptDecoder) -> Said:
    """Return all that a decoder has to say."""
    said = []
    while (message := decoder.next_message()) is not None:
        payload = bytearray(message.payload_bytes)
        if payload:
            decoder.take_payload(memoryview(payload))
        said.append((message, bytes(payload)))
    return said


def joined(said: Said) -> Said:
    """Return the messages with runs joined: how they are cut depends on what has come."""
    whole: Said = []
    for message, payload in said:
        last = whole[-1] if whole else None
        match last, message:
            case (Pages() as before, data), Pages() if (
                before.block == message.block
                and before.offset + len(data) == message.offset
                and message.offset % HUGE
            ):
                longer = Pages(len(data + payload), block=before.block, offset=before.offset)
                whole[-1] = (longer, data + payload)
            case (Zeros() as before, _), Zeros() if before.block == message.block:
                length = before.length + message.length
                longer_zeros = Zeros(block=before.block, offset=before.offset, length=length)
                whole[-1] = (longer_zeros, b"")
            case _:
                whole.append((message, payload))
    return whole


def refusal(*pieces: bytes) -> str:
    """Return why a stream is refused; it must be, and once more when it is asked again."""
    decoder = Decoder()
    decoder.receive_data(b"".join(pieces))
    with pytest.raises(RemoteProtocolError) as caught:
        hear(decoder)
    with pytest.raises(RemoteProtocolError) as again:
        decoder.next_message()
    assert again.value is caught.value
    assert not decoder.at_boundary
    assert decoder.buffered_bytes == 0
    return str(caught.value)


def begun(*more: bytes, page_sizes: int = HUGE | TARGET) -> bytes:
    """Return a stream up to behind its blocks, and what is to follow."""
    return b"".join((qemu.head(), qemu.advise(page_sizes), qemu.start(BLOCKS), *more))


def test_a_whole_stream_says_what_was_sent() -> None:
    """Fed in one piece, a migration comes out message by message, runs of pages as one each."""
    decoder = Decoder()
    decoder.receive_data(whole_stream())
    assert hear(decoder) == expected()
    assert decoder.at_boundary


def test_a_stream_byte_by_byte_says_the_same() -> None:
    """However little comes at once, the same pages come out, and the end is no end before it."""
    decoder, said = Decoder(), Said()
    for byte in whole_stream():
        assert not decoder.at_boundary
        decoder.receive_data(bytes([byte]))
        said += hear(decoder)
    assert joined(said) == expected()
    assert decoder.at_boundary


@given(st.lists(st.integers(0, len(whole_stream())), max_size=6))
def test_a_stream_in_any_pieces_says_the_same(cuts: list[int]) -> None:
    """Wherever the stream is cut, the same pages come out."""
    data, decoder, said = whole_stream(), Decoder(), Said()
    places = [0, *sorted(cuts), len(data)]
    for first, last in pairwise(places):
        decoder.receive_data(data[first:last])
        said += hear(decoder)
    assert joined(said) == expected()


def test_a_stream_does_not_end_at_any_other_place() -> None:
    """Whatever is cut off a migration, what is left is no whole one."""
    data = whole_stream()
    for length in random.Random(0).sample(range(len(data)), 100):
        decoder = Decoder()
        decoder.receive_data(data[:length])
        hear(decoder)
        assert not decoder.at_boundary


def test_what_comes_behind_the_end_is_refused() -> None:
    """A byte after the end is nobody's."""
    assert "after the end of the stream" in refusal(whole_stream(), b"\0")


@given(st.binary(min_size=8, max_size=200))
def test_garbage_is_refused_or_awaits_more(data: bytes) -> None:
    """Bytes that are no stream raise nothing but a protocol error."""
    for prefix in (b"", qemu.head(), begun(), begun(b"\x02\0\0\0\x02")):
        decoder = Decoder()
        try:
            decoder.receive_data(prefix + data)
            hear(decoder)
        except RemoteProtocolError:
            continue
        assert decoder.buffered_bytes <= len(data)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"GET / HT", "not the beginning of a QEMU stream"),
        (b"\x16\x03\x01\0\xa0\x01\0\0", "TLS"),
        (b"QEVM\0\0\0\2", "version 2"),
        (b"QEVM\0\0\0\3\1", "no configuration"),
        (b"QEVM\0\0\0\3\7\xff\xff\xff\xff", "out of bounds"),
        (qemu.head(more=qemu.capabilities(b"mapped-ram")), "the capability mapped-ram"),
        (qemu.head(more=qemu.capabilities(b"x-ignore-shared")), "x-ignore-shared"),
        (qemu.head(more=b"\x05\x05other\0\0\0\1"), "unknown subsection"),
        (qemu.head() + qemu.command(8), "COLO"),
        (qemu.head() + qemu.command(99), "command 99"),
        (qemu.head() + qemu.command(4), "POSTCOPY_LISTEN came outside a package"),
        (qemu.head() + qemu.command(2, b"1"), "PING has 1 bytes"),
        (qemu.head() + qemu.command(3, bytes(15)), "POSTCOPY_ADVISE has 15"),
        (qemu.head() + qemu.command(3, bytes(7) + b"\x10" + bytes(8)), "target pages of 0"),
        (qemu.head() + qemu.package(), "before the RAMBlocks"),
        (qemu.head() + b"\x01\0\0\0\3\x0cdirty-bitmap\0\0\0\0\0\0\0\1", "'dirty-bitmap' came out"),
        (qemu.head() + b"\x06", "type 0x06"),
        (qemu.head() + b"\x00", "without a switch to postcopy"),
        (begun(b"\x04\0\0\0\3\x05timer\0\0\0\0\0\0\0\2"), "start postcopy before"),
        (begun(b"\x02\0\0\0\x09"), "section 9 goes on"),
        (begun(qemu.part()[:-5], bytes(5)), "no footer"),
        (begun(qemu.part(qemu.page(0, DATA[0]))), "names no RAMBlock"),
        (begun(qemu.part(qemu.page(0, DATA[0], b"rom"))), "'rom', which was not announced"),
        (begun(qemu.part(qemu.page(2 * HUGE, DATA[0], b"pc.ram"))), "outside RAMBlock"),
        (begun(qemu.part(qemu.zero(0, b"pc.ram", fill=7))), "another byte than 0"),
        (begun(b"\x02\0\0\0\x02", (0x40).to_bytes(8, "big")), "xbzrle"),
        (begun(b"\x02\0\0\0\x02", (0x200).to_bytes(8, "big")), "multifd"),
        (begun(b"\x02\0\0\0\x02", (0x80).to_bytes(8, "big")), "RDMA"),
        (begun(b"\x02\0\0\0\x02", (0x0A).to_bytes(8, "big")), "the flags 0xa"),
        (begun(qemu.part(TARGET.to_bytes(6, "big") + b"\0\x04")), "a second time"),
        (begun(qemu.command(7, b"\0\0\0\0")), "a package of 0 bytes"),
        (begun(qemu.command(7, b"\xff\xff\xff\xff")), "a package of 4294967295 bytes"),
        (begun(qemu.command(7, b"\0\0\0\x04"), b"abcd"), "POSTCOPY_RUN"),
        (begun(qemu.package(), qemu.package()), "a package came twice"),
        (begun(qemu.command(6, b"\1\6pc.ram\0")), "version"),
        (begun(qemu.command(6, b"")), "version"),
        (begun(qemu.command(6, b"\0\6pc.ram\0")), "no stretch"),
        (begun(qemu.discard(b"pc.ram", (1, TARGET))), "no target pages"),
        (begun(qemu.discard(b"pc.ram", (0, 0))), "no target pages"),
        (begun(qemu.command(10, b"\3a")), "name is cut short"),
    ],
)  # fmt: skip
def test_what_is_not_spoken_is_refused_by_name(stream: bytes, reason: str) -> None:
    """Each thing that a source may send and that is not taken here is told by its name."""
    assert reason in refusal(stream)


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([(b"r", 1 << 60, TARGET)], "over"),
        ([(b"r", TARGET + 1, TARGET)], "outside|no|not"),
        ([(b"r", TARGET, TARGET)] * 2, "r"),
        ([(b"r%d" % index, TARGET, TARGET) for index in range(65)], "more than 64"),
        ([(b"r", 0, TARGET), (b"s", TARGET, TARGET)], "out of bounds"),
        ([(b"n" * 65, TARGET, TARGET)], "longer than 64"),
        ([(b"r", 3 * TARGET, HUGE)], "pages of 2097152"),
        ([], "no RAMBlock"),
    ],
)
def test_blocks_that_no_guest_has_are_refused(
    blocks: list[tuple[bytes, int, int]], reason: str
) -> None:
    """Blocks that are too many, too large, of odd length or named twice are refused."""
    stream = qemu.head() + qemu.advise(HUGE | TARGET) + qemu.start(blocks)
    assert re.search(reason, refusal(stream))


def test_page_sizes_are_told_from_names() -> None:
    """Where some blocks have huge pages, each block's page size is the one that was sent."""
    blocks = [(b"a", HUGE, TARGET), (b"b", HUGE, HUGE), (b"c", TARGET, TARGET)]
    for order in (blocks, blocks[::-1], [blocks[1], *blocks[::2]]):
        decoder = Decoder()
        decoder.receive_data(qemu.head() + qemu.advise(HUGE | TARGET) + qemu.start(order))
        (message,) = [each for each, _ in hear(decoder) if isinstance(each, Blocks)]
        assert [page_bytes for _, _, page_bytes in message.blocks] == [each[2] for each in order]


def test_a_recovery_is_understood() -> None:
    """The commands with which a source resumes come out as such."""
    decoder = Decoder()
    decoder.receive_data(qemu.head() + qemu.command(10, b"\6pc.ram") + qemu.command(9))
    assert [message for message, _ in hear(decoder)][1:] == [AskReceived(block="pc.ram"), Resume()]


def test_a_payload_is_taken_first_and_whole() -> None:
    """Neither the next message nor more bytes are to be had before a payload is taken."""
    decoder = Decoder()
    decoder.receive_data(begun(qemu.part(qemu.page(0, DATA[1], b"pc.ram"))))
    while not isinstance(decoder.next_message(), Pages):
        pass
    with pytest.raises(LocalProtocolError):
        decoder.next_message()
    with pytest.raises(LocalProtocolError):
        decoder.receive_data(b"x")
    with pytest.raises(LocalProtocolError):
        decoder.take_payload(memoryview(bytearray(TARGET + 1)))
    payload = bytearray(TARGET)
    decoder.take_payload(memoryview(payload))
    assert payload == DATA[1]
    with pytest.raises(LocalProtocolError):
        decoder.take_payload(memoryview(payload))


def test_the_preempt_channel_has_records_alone() -> None:
    """The preempt channel's pages come out, its end does, and nothing may follow."""
    decoder = PreemptDecoder(block_table(list(NAMED)))
    assert decoder.at_boundary
    decoder.receive_data(qemu.page(HUGE, DATA[1], b"pc.ram") + qemu.page(HUGE + TARGET, DATA[2]))
    assert hear(decoder) == [(Pages(2 * TARGET, block="pc.ram", offset=HUGE), DATA[1] + DATA[2])]
    assert decoder.at_boundary
    decoder.receive_data(qemu.zero(0)[:4])
    assert hear(decoder) == []
    assert decoder.buffered_bytes == 4
    decoder.receive_data(qemu.zero(0)[4:] + qemu.eos())
    zeros = Zeros(block="pc.ram", offset=0, length=TARGET)
    assert hear(decoder) == [(zeros, b""), (EndOfSection(), b"")]
    decoder.receive_data(b"\0")
    with pytest.raises(RemoteProtocolError, match="after the end"):
        decoder.next_message()


def test_the_preempt_channel_lists_no_blocks() -> None:
    """A list of blocks belongs to the main channel."""
    decoder = PreemptDecoder(block_table(list(NAMED)))
    decoder.receive_data((TARGET | qemu.MEM_SIZE).to_bytes(8, "big"))
    with pytest.raises(RemoteProtocolError, match="second time, or without setup"):
        decoder.next_message()


def compressed_part(data: bytes, length: int | None = None) -> bytes:
    """Return a stream whose first page is deflated, perhaps wrongly."""
    return begun(qemu.part(qemu.compressed(0, data, b"pc.ram", length=length)))


@given(st.binary(max_size=64))
def test_compressed_pages_come_as_they_were(seed: bytes) -> None:
    """A page is inflated, in any block and place, whether it can be made smaller or not."""
    noise = random.Random(seed).randbytes(TARGET)
    pages = [seed[:1].ljust(1, b"x") * TARGET, noise, noise[: TARGET // 2].ljust(TARGET, b"\0")]
    records = [
        qemu.compressed(2 * HUGE - (index + 1) * TARGET, data, b"" if index else b"pc.ram")
        for index, data in enumerate(pages)
    ]
    decoder = Decoder()
    decoder.receive_data(begun(qemu.part(*records)))
    assert [data for message, data in hear(decoder) if isinstance(message, Pages)] == pages


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (compressed_part(bytes(TARGET - 1)), "does not inflate to 4096"),
        (compressed_part(bytes(TARGET + 1)), "does not inflate to 4096"),
        # A bomb: 4000 bytes that would be four million.
        (compressed_part(bytes(4_000_000)), "does not inflate to 4096"),
        (compressed_part(zlib.compress(DATA[1]) + b"x", 21 + 1), "does not inflate"),
        (compressed_part(zlib.compress(DATA[1])[:-1], 20), "does not inflate"),
        (compressed_part(bytes(100), 100), "does not inflate: "),
        (compressed_part(b"", 0), "a compressed page of 0 bytes is not 1 to 4110"),
        (compressed_part(b"", 4111), "a compressed page of 4111 bytes"),
        (compressed_part(b"", 0xFFFFFFFF), "a compressed page of 4294967295 bytes"),
    ],
)
def test_what_inflates_to_no_page_is_refused(stream: bytes, reason: str) -> None:
    """No more than a page is made of a page's record, and no less is taken."""
    assert reason in refusal(stream)
