"""Tests of source/framing.py: what goes as bytes, what as zeros, beside a look at every byte."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from guest.memory import GuestMemory
from protocol.channels import Channel
from protocol.checksums import checksum_of
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, RamBlock, Span
from protocol.limits import RUN_COUNT_MAX
from protocol.messages import Message, PageData, RunData, ZeroData
from protocol.runs import Runs, Stretch, unpack_runs
from protocol.wire import Decoder
from source.framing import frame_of
from source.jobs import Chunk
from source.outlet import Frame

BASE, HUGE = TARGET_PAGE_BYTES, 2 << 20
PAGE_COUNT = 4 * 512


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Four huge pages without a zero."""
    geometry = Geometry((RamBlock("ram", 4 * HUGE, HUGE),))
    with GuestMemory.create(geometry, "base") as made:
        made.views[0][:] = b"\x01" * (4 * HUGE)
        yield made


def frame(memory: GuestMemory, stretch: Stretch, *, urgent: bool = False) -> Frame:
    """Return the frame of a stretch."""
    chunk = Chunk(stretch, PageId(0, 0), Channel.PRECOPY, urgent, False, 5 if urgent else None)
    return frame_of(memory, chunk, 70 * urgent, 80 * urgent)


def opened(made: Frame) -> tuple[PageData | ZeroData | RunData, bytes]:
    """Return the message and payload of a frame, as the other side reads them."""
    decoder = Decoder()
    decoder.receive_data(b"".join(made.rest(made.length)))
    message = decoder.next_message()
    assert isinstance(message, PageData | ZeroData | RunData)
    payload = bytearray(message.payload_bytes)
    assert decoder.take_payload(memoryview(payload)) == len(payload)
    assert decoder.at_boundary
    return message, bytes(payload)


def contents(made: Frame) -> dict[int, bytes]:
    """Return the target pages that a frame names, with their bytes."""
    message, payload = opened(made)
    if isinstance(message, PageData):
        named = [(Span(0, message.offset, message.payload_bytes), False)]
    elif isinstance(message, ZeroData):
        named = [(Span(0, message.offset, message.length), True)]
    else:
        runs, is_zero = unpack_runs(message.block, message.offset, message.runs)
        named = list(zip(runs.spans(), is_zero.tolist(), strict=True))
    found, at = {}, 0
    for span, zero in named:
        for page in range(span.offset // BASE, span.end // BASE):
            assert page not in found
            found[page] = bytes(BASE) if zero else payload[at : at + BASE]
            at += 0 if zero else BASE
    assert at == len(payload)
    return found


def zero(memory: GuestMemory, *pages: int) -> None:
    """Make target pages zero."""
    for page in pages:
        memory.views[0][page * BASE : (page + 1) * BASE] = bytes(BASE)


@pytest.mark.parametrize("seed", range(12))
def test_a_frame_says_what_is_in_memory(memory: GuestMemory, seed: int) -> None:
    """Spans and runs, with any pages zero or nearly so, come out as they are."""
    chance = Random(seed)
    share = chance.choice([0.02, 0.5, 0.98, 1])
    blank = [page for page in range(PAGE_COUNT) if chance.random() < share]
    zero(memory, *blank)
    nearly = set(chance.sample(blank, len(blank) // 4))
    for page in nearly:
        memory.views[0][page * BASE + chance.choice([0, 1, 8, 2000, BASE - 1])] = 1
    first = chance.randrange(PAGE_COUNT // 2)
    count = chance.choice([1, 2, 200, PAGE_COUNT // 2])
    stretch: Stretch = Span(0, first * BASE, count * BASE)
    wanted = list(range(first, first + count))
    if chance.random() < 0.6:
        wanted = sorted(chance.sample(range(PAGE_COUNT), chance.choice([2, 30, 300])))
        stretch = Runs.of_target_pages(0, np.array(wanted))
    made = frame(memory, stretch)
    view = memory.views[0]
    assert contents(made) == {page: bytes(view[page * BASE :][:BASE]) for page in wanted}
    full = [page for page in wanted if page not in blank or page in nearly]
    assert made.payload_bytes >= len(full) * BASE
    cuts = [one + 1 != other or (one in full) != (other in full) for one, other in pairwise(wanted)]
    if sum(cuts) < RUN_COUNT_MAX:
        assert made.payload_bytes == len(full) * BASE


def test_each_kind_has_its_frame(memory: GuestMemory) -> None:
    """One stretch of bytes or of zeros has a frame without runs, and urgency is told in each."""
    zero(memory, 3, 4)
    for stretch, kind in (
        (Span(0, 0, 3 * BASE), PageData),
        (Span(0, 3 * BASE, 2 * BASE), ZeroData),
        (Span(0, 2 * BASE, 2 * BASE), RunData),
        (Runs.of_target_pages(0, np.array([0, 2])), RunData),
        (Runs.of_target_pages(0, np.array([3, 4])), RunData),
    ):
        for urgent in (False, True):
            message, _ = opened(frame(memory, stretch, urgent=urgent))
            assert type(message) is kind
            told = (message.urgent, message.queue_us, message.send_us)
            assert told == ((True, 70, 80) if urgent else (False, 0, 0))


def test_a_frame_names_no_more_runs_than_it_may(memory: GuestMemory) -> None:
    """Where zeros alternate with bytes too often, the longest stretches of zeros are left out."""
    zero(memory, *range(0, 1200, 2), *range(1300, 1400))
    made = frame(memory, Span(0, 0, PAGE_COUNT * BASE))
    message, _ = opened(made)
    assert isinstance(message, RunData)
    runs, is_zero = unpack_runs(0, 0, message.runs)
    assert len(runs) <= RUN_COUNT_MAX
    assert is_zero.sum() == RUN_COUNT_MAX // 2 - 1
    assert 100 in runs.counts[is_zero]
    view = memory.views[0]
    assert contents(made) == {page: bytes(view[page * BASE :][:BASE]) for page in range(PAGE_COUNT)}


def test_bytes_are_read_when_they_are_sent(memory: GuestMemory) -> None:
    """Runs are not copied when their frame is made."""
    made = frame(memory, Runs.of_target_pages(0, np.array([5, 9])))
    memory.views[0][9 * BASE] = 77
    assert contents(made)[9][0] == 77


def test_a_long_stretch_of_a_huge_page_is_sampled(memory: GuestMemory) -> None:
    """A zero page alone is not looked for in a whole huge page, a run of sixteen is found."""
    zero(memory, 5)
    message, _ = opened(frame(memory, Span(0, 0, HUGE)))
    assert type(message) is PageData
    zero(memory, *range(520, 536))
    message, payload = opened(frame(memory, Span(0, HUGE, HUGE)))
    assert type(message) is RunData
    assert len(payload) == HUGE - 16 * BASE


def test_a_checked_frame_is_announced_and_carries_what_it_announces() -> None:
    """Its checksum is of what goes, whatever is written to memory meanwhile."""
    geometry = Geometry((RamBlock("ram", HUGE, HUGE),))
    runs = Runs.of_target_pages(0, np.array([5, 7, 9]))
    stretches: list[Stretch] = [Span(0, 0, 4 * BASE), runs, Span(0, HUGE // 2, BASE)]
    with GuestMemory.create(geometry, "base") as memory:
        memory.views[0][: HUGE // 2] = b"\x01" * (HUGE // 2)
        kinds: list[type[Message]] = [PageData, RunData, ZeroData]
        for stretch, kind in zip(stretches, kinds, strict=True):
            chunk = Chunk(stretch, PageId(0, 0), Channel.PRECOPY, False, False, None)
            made = frame_of(memory, chunk, 0, 0, checked=True)
            memory.views[0][: HUGE // 2] = b"\x02" * (HUGE // 2)
            sent = b"".join(made.rest(made.length))
            memory.views[0][: HUGE // 2] = b"\x01" * (HUGE // 2)
            decoder = Decoder()
            decoder.receive_data(sent)
            checksum, message = decoder.next_message(), decoder.next_message()
            assert message is not None
            assert type(message) is kind
            payload = sent[len(sent) - message.payload_bytes :]
            assert set(payload) <= {1}
            assert checksum == checksum_of(message, [payload])
            assert made.payload_bytes == message.payload_bytes
