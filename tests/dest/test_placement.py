"""Simulated placement: the map that vCPUs look at follows what is discarded and placed."""

import numpy as np

from dest.placement import SimulatedPlacement
from protocol.geometry import TARGET_PAGE_BYTES, Span
from tests.helpers import HUGE, fake_guest, small_geometry

PER_PAGE = HUGE // TARGET_PAGE_BYTES


def test_every_page_can_be_touched_at_first() -> None:
    """In precopy nothing is missing."""
    with fake_guest(small_geometry()) as guest:
        placement = SimulatedPlacement(small_geometry(), guest.handle)
        assert placement.name == "simulated"
        assert guest.board.present.all()


def test_what_is_discarded_is_absent_until_it_is_placed() -> None:
    """Exactly the target pages of a stretch change, in its own block."""
    geometry = small_geometry()
    with fake_guest(geometry) as guest:
        placement = SimulatedPlacement(geometry, guest.handle)
        placement.discard(Span(0, HUGE, 2 * HUGE))
        placement.discard(Span(1, 3 * TARGET_PAGE_BYTES, 5 * TARGET_PAGE_BYTES))
        rom = geometry.target_page_bases[1]
        absent = [*range(PER_PAGE, 3 * PER_PAGE), *range(rom + 3, rom + 8)]
        assert np.flatnonzero(guest.board.present == 0).tolist() == absent
        placement.place(Span(0, HUGE, HUGE))
        placement.place(Span(1, 4 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
        absent = [*range(2 * PER_PAGE, 3 * PER_PAGE), rom + 3, *range(rom + 5, rom + 8)]
        assert np.flatnonzero(guest.board.present == 0).tolist() == absent
