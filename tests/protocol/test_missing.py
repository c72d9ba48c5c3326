"""What is missing crosses whole, in little room, and nothing else is taken for it."""

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.limits import DISCARD_BYTES_MAX, HELD_COUNT_MAX, MISSING_MAP_BYTES_MAX
from protocol.messages import HeldPart, MissingMap, Standing
from protocol.missing import MissingReader, held_parts, missing_maps
from protocol.pageset import PageSet
from tests.strategies import geometries, spans

GEOMETRY = Geometry((RamBlock("ram", 64 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES),))


def standing(target_pages: int) -> Standing:
    """Return a destination's word with so many target pages missing."""
    return Standing(running=True, target_pages=target_pages, dropped_bytes=0)


def message(payload: bytes, **fields: int) -> MissingMap:
    """Return a map of the small guest with a payload."""
    return MissingMap(
        payload_bytes=len(payload), **({"block": 0, "first": 0, "count": 64} | fields)
    )


@given(st.data())
def test_there_and_back(data: DataObject) -> None:
    """Whatever is missing, the source puts the same set together."""
    geometry = data.draw(geometries())
    missing = PageSet(geometry)
    for span in data.draw(st.lists(spans(geometry), max_size=4)):
        missing.add(span)
    reader = MissingReader(geometry)
    for each, payload in missing_maps(missing):
        reader.add(each, payload)
    heard = reader.finish(standing(len(missing)))
    assert len(heard) == len(missing)
    assert heard.count_beyond(missing) == missing.count_beyond(heard) == 0


def test_long_runs_cost_next_to_nothing() -> None:
    """A map of 8 GiB, half of them missing, fits in a few KiB; what is all there is not told."""
    block = RamBlock("ram", 8 << 30, 2 << 20)
    geometry = Geometry((block, RamBlock("rom", 2 << 20, 2 << 20)))
    missing = PageSet(geometry)
    missing.add(Span(0, 1 << 30, 4 << 30))
    maps = list(missing_maps(missing))
    assert {each.block for each, _ in maps} == {0}
    assert sum(len(payload) for _, payload in maps) < 4096


def test_what_cannot_be_deflated_fits() -> None:
    """A map of the greatest length with nothing regular in it is within its limit."""
    bits = random.Random(1).randbytes(DISCARD_BYTES_MAX)
    assert len(zlib.compress(bits, 1)) <= MISSING_MAP_BYTES_MAX


BITS = b"\xff" * 8


@pytest.mark.parametrize(
    ("fields", "payload", "reason"),
    [
        ({}, b"no deflated bytes", "not deflated"),
        ({}, zlib.compress(BITS)[:-3], "not 8 bytes long"),
        ({}, zlib.compress(BITS + b"\0"), "not 8 bytes long"),
        ({}, zlib.compress(BITS) + b"more", "not 8 bytes long"),
        ({}, zlib.compress(bytes(1 << 26)), "not 8 bytes long"),
        ({"count": 0}, zlib.compress(b""), "0 target pages is not allowed"),
        ({"count": 1 << 40}, zlib.compress(BITS), "is not allowed"),
        ({"block": 1}, zlib.compress(BITS), "outside the guest"),
        ({"first": 8}, zlib.compress(BITS), "outside the guest"),
        ({"count": 60}, zlib.compress(BITS), "bits after its end"),
    ],
)
def test_no_map(fields: dict[str, int], payload: bytes, reason: str) -> None:
    """A map that is none of this guest is the destination's fault, and costs no memory."""
    reader = MissingReader(GEOMETRY)
    with pytest.raises(RemoteProtocolError, match=reason):
        reader.add(message(payload, **fields), payload)


def test_a_map_too_many() -> None:
    """More maps than a guest has stretches are refused."""
    reader = MissingReader(GEOMETRY)
    payload = zlib.compress(BITS)
    reader.add(message(payload), payload)
    with pytest.raises(RemoteProtocolError, match="more maps"):
        reader.add(message(payload), payload)


def test_a_map_too_few() -> None:
    """As much must be named as the destination says is missing."""
    with pytest.raises(RemoteProtocolError, match="0 target pages, 5 are said"):
        MissingReader(GEOMETRY).finish(standing(5))


def reader_of_all() -> MissingReader:
    """Return a reader that has heard that everything is missing."""
    reader = MissingReader(GEOMETRY)
    payload = zlib.compress(BITS)
    reader.add(message(payload), payload)
    return reader


def test_parts_cross() -> None:
    """What is here of half-received target pages is heard as it was said."""
    held = {(0, 3): 1, (0, 60): TARGET_PAGE_BYTES - 1}
    reader = reader_of_all()
    for part in held_parts(held):
        reader.add_part(part)
    assert reader.held == held


@pytest.mark.parametrize(
    ("block", "target_page", "held_bytes"),
    [(1, 0, 5), (0, 64, 5), (0, 1 << 60, 5), (0, 3, 0), (0, 3, TARGET_PAGE_BYTES), (0, 7, 5)],
)
def test_no_part(block: int, target_page: int, held_bytes: int) -> None:
    """What the guest has not, is none or all of a target page, or was said, cannot be held."""
    reader = reader_of_all()
    reader.add_part(HeldPart(block=0, target_page=7, held_bytes=5))
    with pytest.raises(RemoteProtocolError, match=f"^{held_bytes} bytes of target page"):
        reader.add_part(HeldPart(block=block, target_page=target_page, held_bytes=held_bytes))


def test_a_part_of_what_is_not_missing() -> None:
    """Of what is here whole no part can be held."""
    with pytest.raises(RemoteProtocolError, match="cannot be held"):
        MissingReader(GEOMETRY).add_part(HeldPart(block=0, target_page=0, held_bytes=5))


def test_a_part_too_many() -> None:
    """More parts than breaks leave are refused."""
    reader = reader_of_all()
    reader.held = {(9, index): 1 for index in range(HELD_COUNT_MAX)}
    with pytest.raises(RemoteProtocolError, match=f"more than {HELD_COUNT_MAX} target pages"):
        reader.add_part(HeldPart(block=0, target_page=0, held_bytes=5))
