"""What is missing is told in a bitmap at the switch-over, in words and a map when it is lost."""

import base64

import numpy as np
import pytest

from dest import missing as module
from dest.assembly import Assembly
from dest.missing import describe_lost, missing_to_plain, tell_missing
from protocol import events
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.pageset import PageSet
from protocol.policy import preset
from tests.guests import small_geometry
from tests.stories import Recorder

HUGE = 2 << 20
GEOMETRY = Geometry((RamBlock("ram", 4 * HUGE, HUGE), RamBlock("rom", 65536, 4096)))


def told(policy: str, target_pages: dict[int, list[int]]) -> dict[int, list[int]]:
    """Return the bits that are set, by block, when these target pages are discarded."""
    geometry = small_geometry()
    assembly = Assembly(geometry, preset(policy))
    stale = PageSet(geometry)
    for block, indices in target_pages.items():
        for index in indices:
            stale.add_flat(np.array([geometry.flat_target_page(block, index)]))
    for block, first, count, bits in stale.bitmaps(1 << 20):
        assembly.discard(block, first, count, bits)
    assembly.start_postcopy()
    recorder = Recorder()
    tell_missing(recorder, geometry, assembly)
    return {
        fields["block"]: np.flatnonzero(
            np.unpackbits(
                np.frombuffer(base64.b64decode(fields["bits"]), dtype=np.uint8), bitorder="little"
            )
        ).tolist()
        for fields in recorder.of(events.Missing)
    }


@pytest.mark.parametrize("policy", ["ordered", "critical-first"])
def test_a_page_of_which_anything_is_missing_is_missing(policy: str) -> None:
    """Bits are pages, also where target pages are placed by themselves."""
    assert told(policy, {0: [0, 513, 514, 2047], 1: [31]}) == {0: [0, 1, 3], 1: [31]}
    assert told(policy, {}) == {0: [], 1: []}


def test_a_bit_may_stand_for_several_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a block has more pages than bits, one that misses a page is set for its neighbours."""
    monkeypatch.setattr(module, "MISSING_BITS_MAX", 3)
    assert told("ordered", {0: [1024], 1: [10, 11]}) == {0: [1], 1: [0, 1]}


def pages(*runs: tuple[int, int, int]) -> PageSet:
    """Return a set of runs: block, first target page, count."""
    found = PageSet(GEOMETRY)
    for block, first, count in runs:
        found.add(Span(block, first * TARGET_PAGE_BYTES, count * TARGET_PAGE_BYTES))
    return found


def test_a_line() -> None:
    """The line has how much is lost, and where in each block."""
    actual = describe_lost(pages((0, 512, 512), (0, 1025, 1), (1, 3, 2)))
    assert actual == (
        "memory of the guest is lost: 515 target pages (2.012 MiB), ram 512-1023, ram 1025, rom 3-4"
    )


def test_a_long_list_is_cut() -> None:
    """Of many runs a line names the first ones and counts the others."""
    actual = describe_lost(pages(*((0, 3 * number, 1) for number in range(9))))
    assert actual.endswith("ram 0, ram 3, ram 6, ram 9 and 5 more runs")


def test_a_map() -> None:
    """The map has every block with its runs, those of which nothing is missing included."""
    actual = missing_to_plain(pages((0, 512, 512), (0, 1025, 1)))
    assert actual == {
        "schema": "midstream-missing/1",
        "target-page-bytes": 4096,
        "missing-bytes": 513 * 4096,
        "blocks": [
            {
                "name": "ram", "length-bytes": 4 * HUGE, "page-bytes": HUGE,
                "missing": [[512, 512], [1025, 1]],
            },
            {"name": "rom", "length-bytes": 65536, "page-bytes": 4096, "missing": []},
        ],
    }  # fmt: skip
