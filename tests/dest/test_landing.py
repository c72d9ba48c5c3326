"""Where a payload goes: in pieces, however it comes, and aside what may not be written any more."""

from __future__ import annotations

import numpy as np
import pytest

from dest.landing import PIECES_MAX, Landing
from protocol.geometry import TARGET_PAGE_BYTES, Span
from protocol.runs import Runs, Stretch

BASE = TARGET_PAGE_BYTES
# Four target pages of a block: 2, 3, 7 and 9.
PAGES = (2, 3, 7, 9)
DATA = Runs.of_target_pages(0, np.array(PAGES))
PAYLOAD = b"".join(bytes([page]) * BASE for page in PAGES)


def landing_in(memory: bytearray, data: Stretch = DATA) -> Landing:
    """Return a landing of a payload that belongs into a block."""
    edges = data.edges() if isinstance(data, Runs) else [(data.offset, data.end)]
    return Landing([memoryview(memory)[start:end] for start, end in edges], data)


@pytest.mark.parametrize("piece", [1000, BASE, BASE + 1, len(PAYLOAD)])
@pytest.mark.parametrize("after", range(0, len(PAYLOAD) + 1, BASE // 2))
@pytest.mark.parametrize("page", PAGES)
def test_not_a_byte_is_written_of_what_was_diverted(page: int, after: int, piece: int) -> None:
    """What had come of it stays as it was, and the rest goes by; all the others are there."""
    memory = bytearray(16 * BASE)
    landing = landing_in(memory)
    landing.put(PAYLOAD[:after])
    landing.divert(page)
    # From now on somebody else writes there.
    memory[page * BASE : (page + 1) * BASE] = b"\xee" * BASE
    for start in range(after, len(PAYLOAD), piece):
        landing.put(PAYLOAD[start : start + piece])
    assert landing.left == 0
    expected = bytearray(16 * BASE)
    for each in PAGES:
        expected[each * BASE : (each + 1) * BASE] = bytes([0xEE if each == page else each]) * BASE
    assert memory == expected
    # Together they are what came, for a checksum.
    assert b"".join(landing.pieces) == PAYLOAD


def test_all_of_it_may_be_diverted() -> None:
    """One after the other, one of them twice; nothing reaches memory."""
    memory = bytearray(16 * BASE)
    landing = landing_in(memory)
    for page in (*PAGES, 3):
        landing.divert(page)
    landing.put(PAYLOAD)
    assert not any(memory)
    assert b"".join(landing.pieces) == PAYLOAD


@pytest.mark.parametrize("page", [0, 4, 8, 15])
def test_what_is_not_the_frames_is_not_diverted(page: int) -> None:
    """Nor what lies between its runs."""
    memory = bytearray(16 * BASE)
    landing = landing_in(memory)
    before = list(landing.pieces)
    landing.divert(page)
    assert landing.pieces == before
    unknown = Landing(before)
    unknown.divert(2)
    assert unknown.pieces == before


def test_one_read_is_given_what_it_takes_and_the_next_head_only_behind_all() -> None:
    """Where there are more pieces than one call takes the payload goes on with the next one."""
    count = PIECES_MAX + 10
    memory = bytearray(count * BASE)
    landing = landing_in(memory, Span(0, 0, count * BASE))
    scratch = memoryview(bytearray(64))
    assert landing.rest(scratch)[-1] is scratch
    for page in range(0, count, 2):
        landing.divert(page)
    places = landing.rest(scratch)
    assert len(places) == PIECES_MAX
    assert places[-1] is not scratch
    landing.took(sum(map(len, places)))
    assert landing.rest(scratch)[-1] is scratch
    assert sum(map(len, landing.rest(scratch))) == landing.left + len(scratch)
