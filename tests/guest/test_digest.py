"""The digest tells equal guests from different ones, and where they differ."""

import pytest

from guest.digest import HASH_BYTES, STRETCH_BYTES, differing_stretches, digest
from guest.memory import GuestMemory
from guest.slices import finish
from protocol.errors import RemoteProtocolError
from protocol.geometry import Geometry, RamBlock, Span

# The second block is shorter than a stretch, the third ends with a short one.
GUEST = Geometry(
    (
        RamBlock("ram", 6 << 20, 2 << 20),
        RamBlock("rom", 4096, 4096),
        RamBlock("more", (2 << 20) + 4096, 4096),
    )
)


def test_the_digest_has_a_hash_for_each_stretch() -> None:
    """Three, one and two of them here, in slices of a stretch."""
    with GuestMemory.create(GUEST) as memory:
        assert [len(own) for own in finish(digest(memory))] == [
            3 * HASH_BYTES,
            HASH_BYTES,
            2 * HASH_BYTES,
        ]
        assert list(digest(memory)) == [STRETCH_BYTES] * 3 + [4096, STRETCH_BYTES, 4096]


def test_equal_guests_do_not_differ() -> None:
    """The same bytes in other memory give the same digest."""
    with GuestMemory.create(GUEST) as one, GuestMemory.create(GUEST) as other:
        for memory in (one, other):
            memory.views[0][5] = 1
        assert differing_stretches(GUEST, finish(digest(one)), finish(digest(other))) == []


@pytest.mark.parametrize(
    ("block", "offset", "stretch"),
    [
        (0, 0, Span(0, 0, 2 << 20)),
        (0, (2 << 20) - 1, Span(0, 0, 2 << 20)),
        (0, 2 << 20, Span(0, 2 << 20, 2 << 20)),
        (1, 4095, Span(1, 0, 4096)),
        (2, (2 << 20) + 1, Span(2, 2 << 20, 4096)),
    ],
)
def test_one_changed_byte_is_found(block: int, offset: int, stretch: Span) -> None:
    """The stretch of a changed byte differs, and no other."""
    with GuestMemory.create(GUEST) as memory:
        before = finish(digest(memory))
        memory.views[block][offset] = 1
        assert differing_stretches(GUEST, before, finish(digest(memory))) == [stretch]


@pytest.mark.parametrize("counts", [[], [3, 1], [3, 1, 2, 1], [3, 1, 1], [3, 1, 3], [3.5, 1, 2]])
def test_what_is_no_digest_of_this_guest_is_refused(counts: list[float]) -> None:
    """A peer's digest must have a hash for each stretch."""
    ours = [bytes(HASH_BYTES * count) for count in (3, 1, 2)]
    theirs = [bytes(int(HASH_BYTES * count)) for count in counts]
    with pytest.raises(RemoteProtocolError):
        differing_stretches(GUEST, ours, theirs)
