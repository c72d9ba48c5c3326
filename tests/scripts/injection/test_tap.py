"""Tests of scripts/injection/tap.py."""

import numpy as np
import pytest

from protocol.channels import Channel
from protocol.fields import PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock
from protocol.messages import (
    Hello,
    PageData,
    PageRequest,
    RunData,
    SwitchOver,
    ZeroData,
)
from protocol.proof import DestProof, SourceProof
from protocol.runs import Runs, pack_runs
from protocol.wire import encode
from scripts.injection.marks import BytesMark, Direction, Mark, Marks, ShareMark
from scripts.injection.tap import Part, Tap

PAGE_BYTES = 2 << 20
GEOMETRY = Geometry((RamBlock("ram", 4 * PAGE_BYTES, PAGE_BYTES), RamBlock("rom", 16384, 4096)))


def hello(role: str = "precopy") -> bytes:
    """Return the head of a Hello."""
    return encode(Hello(version=1, session=b"s" * 16, role=role))


def data(offset: int, length: int, block: int = 0) -> bytes:
    """Return a frame of page bytes."""
    return encode(PageData(payload_bytes=length, block=block, offset=offset)) + b"\x5a" * length


def reach(tap: Tap, stream: bytes, size: int) -> list[tuple[int, Mark]]:
    """Feed a stream in pieces of a size; return each mark and the bytes that had gone then."""
    found = []
    for at in range(0, len(stream), size):
        piece_end = at
        for piece in tap.feed(memoryview(stream)[at : at + size]):
            assert piece.start == piece_end - at
            piece_end = at + piece.stop
            found += [(piece_end, mark) for mark in piece.reached]
        assert piece_end == min(at + size, len(stream))
    return found


SHARE = ShareMark(PageId(0, 1), 0.0030)
SHARE_BYTES = 6292


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_marks_are_found_at_their_very_byte(size: int) -> None:
    """However a stream is cut, each mark is reached by the byte that reaches it."""
    count = BytesMark(100, Channel.PRECOPY, Direction.FORWARD)
    stream = hello() + data(0, 4096) + data(PAGE_BYTES, 4096) + data(PAGE_BYTES + 4096, 4096)
    before = len(hello() + data(0, 4096) + data(PAGE_BYTES, 4096))
    head = len(data(PAGE_BYTES + 4096, 4096)) - 4096
    tap = Tap(Direction.FORWARD, Marks(GEOMETRY, [count, SHARE]))
    assert reach(tap, stream, size) == [
        (100, count),
        (before + head + SHARE_BYTES - 4096, SHARE),
    ]


def test_bytes_that_come_again_count_once() -> None:
    """A share is of different bytes of the page, over both channels."""
    marks = Marks(GEOMETRY, [ShareMark(PageId(1, 0), 1.0), ShareMark(PageId(1, 1), 0.5)])
    first, second = Tap(Direction.FORWARD, marks), Tap(Direction.FORWARD, marks)
    assert not reach(first, hello(), 99)
    assert not reach(second, hello("postcopy"), 99)
    frame = data(0, 4096, block=1)
    assert not reach(first, frame[:-96], 99999)
    assert [mark for _, mark in reach(second, frame[:-1], 99999)] == []
    assert [mark for _, mark in reach(second, frame[-1:], 1)] == [ShareMark(PageId(1, 0), 1.0)]
    run = data(0, 8192, block=1)
    assert not reach(first, frame[-96:], 99)
    assert reach(first, run, 99999) == [(len(run) - 2048, ShareMark(PageId(1, 1), 0.5))]


def test_zeros_hold_a_page_without_its_bytes() -> None:
    """A frame of zeros counts for its whole stretch when its head is there."""
    mark = ShareMark(PageId(0, 2), 0.5)
    tap = Tap(Direction.FORWARD, Marks(GEOMETRY, [mark]))
    zero = encode(ZeroData(block=0, offset=2 * PAGE_BYTES, length=PAGE_BYTES))
    stream = hello() + zero + data(0, 4096)
    assert reach(tap, stream, 5) == [(len(hello() + zero), mark)]


def runs(first: int, *parts: tuple[int, int, bool], short: int = 0) -> bytes:
    """Return a frame of runs, each given as (target page behind the first, count, zero)."""
    firsts, counts, zeros = (np.array(column) for column in zip(*parts, strict=True))
    packed = pack_runs(Runs.of_parts(0, firsts + first, counts), zeros)
    length = int(counts[~zeros].sum()) * TARGET_PAGE_BYTES - short
    message = RunData(
        payload_bytes=length, block=0, offset=first * TARGET_PAGE_BYTES, runs=PackedRuns(packed)
    )
    return encode(message) + b"\x5a" * length


@pytest.mark.parametrize("size", [1, 4096, 1 << 20])
def test_scattered_runs_are_followed_from_one_to_the_next(size: int) -> None:
    """In a frame of runs each byte counts for the page where it belongs, and zeros at once."""
    # The second run reaches over the border of the first two pages.
    first, last = ShareMark(PageId(0, 0), 1.5 / 512), ShareMark(PageId(0, 1), 3 / 512)
    zero = ShareMark(PageId(0, 3), 4 / 512)
    frame = runs(
        510, (0, 1, False), (1, 2, False), (7, 2, False), (1530, 4, True), (1540, 1, False)
    )
    head = len(frame) - 6 * 4096
    tap = Tap(Direction.FORWARD, Marks(GEOMETRY, [last, first, zero]))
    before = len(hello())
    assert reach(tap, hello() + frame + data(0, 4096), size) == [
        (before + head, zero),
        (before + head + 6144, first),
        (before + head + 5 * 4096, last),
    ]


@pytest.mark.parametrize(
    "frame",
    [
        runs(5, (0, 1, False), (3, 1, True), short=1),
        encode(RunData(block=0, offset=1, runs=PackedRuns(bytes(8)))),
    ],
)
def test_runs_that_are_none_pass_uncut(frame: bytes) -> None:
    """Runs that no destination takes are only counted, and all behind them."""
    tap = Tap(Direction.FORWARD, Marks(GEOMETRY, [SHARE]))
    assert reach(tap, hello() + frame + data(PAGE_BYTES, 8192), 999) == []


def test_parts_are_told_apart() -> None:
    """Heads, page bytes and other payloads are known as what they are."""
    tap = Tap(Direction.FORWARD, Marks(GEOMETRY, []))
    state = encode(SwitchOver(payload_bytes=10, postcopy=True)) + b"0123456789"
    stream = hello() + data(0, TARGET_PAGE_BYTES) + state
    sizes = dict.fromkeys(Part, 0)
    for piece in tap.feed(memoryview(stream)):
        sizes[piece.part] += piece.stop - piece.start
    assert sizes[Part.PAGE] == TARGET_PAGE_BYTES
    assert sizes[Part.OTHER] == 10
    assert sizes[Part.HEADER] == len(stream) - TARGET_PAGE_BYTES - 10


def test_carriers_are_those_since_the_switch_over() -> None:
    """Which channels brought a page is told in order, and what precopy brought is forgotten."""
    page = PageId(0, 0)
    marks = Marks(GEOMETRY, [], watched=[page])
    precopy, postcopy = Tap(Direction.FORWARD, marks), Tap(Direction.FORWARD, marks)
    reach(precopy, hello() + data(0, 4096), 64)
    assert marks.carriers[page] == [Channel.PRECOPY]
    reach(precopy, encode(SwitchOver(postcopy=True)), 64)
    reach(postcopy, hello("postcopy") + data(0, 4096), 64)
    reach(precopy, data(4096, 4096) + data(PAGE_BYTES, 4096), 64)
    assert marks.carriers[page] == [Channel.POSTCOPY, Channel.PRECOPY]


def test_the_way_back_is_counted_once_its_channel_is_known() -> None:
    """A backward tap is told its channel, and finds frames as a forward one does."""
    mark = BytesMark(3, Channel.PRECOPY, Direction.BACKWARD)
    tap = Tap(Direction.BACKWARD, Marks(GEOMETRY, [mark]))
    tap.channel = Channel.PRECOPY
    assert reach(tap, encode(PageRequest(block=0, page=1, target_page=2)), 2) == [(3, mark)]


@pytest.mark.parametrize("size", [1, 3, 57, 1000])
def test_frames_are_found_behind_a_proof(size: int) -> None:
    """Where a secret is proved the frames begin later, in both directions, and all bytes count."""
    proof = SourceProof(b"s" * 16, Channel.PRECOPY, bytes(16), bytes(32))
    answers = DestProof(b"s" * 16, proof.opening, bytes(32))
    said = proof.opening + proof.prove(answers.challenge)
    stream = hello() + data(PAGE_BYTES, 8192)
    mark = BytesMark(len(said) + 5, Channel.PRECOPY, Direction.FORWARD)
    plain = Tap(Direction.FORWARD, Marks(GEOMETRY, [SHARE]))
    tap = Tap(Direction.FORWARD, Marks(GEOMETRY, [SHARE]))
    ((place, _),) = reach(plain, stream, size)
    assert reach(tap, said + stream, size) == [(place + len(said), SHARE)]
    tap = Tap(Direction.FORWARD, Marks(GEOMETRY, [mark]))
    assert reach(tap, said + stream, size)
    answered = answers.challenge + answers.answer
    page = BytesMark(len(answered) + 3, Channel.PRECOPY, Direction.BACKWARD)
    back = Tap(Direction.BACKWARD, Marks(GEOMETRY, [page]))
    back.channel = Channel.PRECOPY
    request = encode(PageRequest(block=0, page=1, target_page=2))
    assert reach(back, answered + request, size) == [(len(answered) + 3, page)]
    assert not back._blind


@pytest.mark.parametrize("size", [1, 4096, 1 << 20])
def test_a_held_page_stops_what_carries_it(size: int) -> None:
    """At its byte a tap says that the page is held, and so often as it is asked, until it goes."""
    page = PageId(0, 1)
    marks = Marks(GEOMETRY, [], watched=[page])
    marks.hold(page, 0.0010, tuple(Channel))
    tap = Tap(Direction.FORWARD, marks)
    stream = hello() + data(PAGE_BYTES, 4096) + data(2 * PAGE_BYTES, 4096)
    passed, held = 0, 0
    for at in range(0, len(stream), size):
        for piece in tap.feed(memoryview(stream)[at : at + size]):
            passed += piece.stop - piece.start
            if piece.held:
                assert passed == len(hello() + data(PAGE_BYTES, 4096)) - 4096 + 2098
                assert piece.start == piece.stop
                held += 1
            if held == 3:
                marks.release(page)
    assert (passed, held) == (len(stream), 3)


@pytest.mark.parametrize("is_runs", [False, True])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_zeros_of_a_held_page_are_held_with_their_head(size: int, *, is_runs: bool) -> None:
    """A page that is nowhere but in a head stops the head, even if a part of it might pass."""
    page = PageId(0, 1)
    marks = Marks(GEOMETRY, [], watched=[page])
    marks.hold(page, 0.5, tuple(Channel))
    tap = Tap(Direction.FORWARD, marks)
    zero = encode(ZeroData(block=0, offset=PAGE_BYTES, length=PAGE_BYTES))
    frame = runs(512, (0, 400, True), (500, 1, False)) if is_runs else zero
    head = len(frame) - 4096 * is_runs
    stream = hello() + frame
    passed, held = 0, False
    for at in range(0, len(stream), size):
        for piece in tap.feed(memoryview(stream)[at : at + size]):
            passed += piece.stop - piece.start
            if piece.held:
                held = True
                assert len(hello()) <= passed < len(hello()) + head
                assert page not in marks.passings
                marks.release(page)
    assert held
    assert passed == len(stream)
    assert marks.passings[page].is_whole != is_runs


def test_page_requests_are_told() -> None:
    """A tap of the way back tells of each page that is asked for."""
    seen: list[PageId] = []
    tap = Tap(Direction.BACKWARD, Marks(GEOMETRY, []), seen.append)
    requests = [encode(PageRequest(block=1, page=index, target_page=0)) for index in (3, 1)]
    reach(tap, b"".join(requests), 5)
    assert seen == [PageId(1, 3), PageId(1, 1)]


@pytest.mark.parametrize("junk", [b"\0\0\0\0", b"\xff" * 8, b"\0\0\0\2\xc1\xc1", b"\0\0\0\1\x90"])
def test_what_is_no_frame_passes_uncut(junk: bytes) -> None:
    """Behind bytes that are no frame nothing is looked for any more, but bytes still count."""
    mark = BytesMark(150, Channel.PRECOPY, Direction.FORWARD)
    tap = Tap(Direction.FORWARD, Marks(GEOMETRY, [mark, SHARE]))
    stream = hello() + junk + data(PAGE_BYTES, 8192)
    assert reach(tap, stream, 11) == [(150, mark)]
