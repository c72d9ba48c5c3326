"""What must be zeroed is what bytes came for, once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dest.arrival import NonZero
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.runs import Runs, Stretch

BASE = TARGET_PAGE_BYTES
GUEST = Geometry((RamBlock("one", 40 * BASE, BASE), RamBlock("two", 40 * BASE, BASE)))


PAGES = st.sets(st.integers(0, 39), min_size=1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1), PAGES)))
def test_it_is_what_was_written_and_not_zeroed_since(
    steps: list[tuple[bool, int, set[int]]],
) -> None:
    """Beside a set of what bytes came for, whatever is marked and taken as spans or as runs."""
    nonzero, model = NonZero(GUEST), set[tuple[int, int]]()
    for is_mark, block, chosen in steps:
        pages = sorted(chosen)
        stretch: Stretch = Runs.of_target_pages(block, np.array(pages))
        if len(pages) == 1 + pages[-1] - pages[0]:
            stretch = Span(block, pages[0] * BASE, len(pages) * BASE)
        members = {(block, page) for page in pages}
        if is_mark:
            nonzero.mark(stretch)
            model |= members
        else:
            assert nonzero.take(stretch).tolist() == [page for _, page in sorted(members & model)]
            model -= members
