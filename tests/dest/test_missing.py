"""What is missing is told page by page, or, of large blocks, several pages together."""

import base64

import numpy as np
import pytest

from dest import missing as module
from dest.assembly import Assembly
from dest.missing import tell_missing
from protocol import events
from protocol.pageset import PageSet
from protocol.policy import preset
from tests.guests import small_geometry
from tests.stories import Recorder


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
