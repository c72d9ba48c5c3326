"""The default fill is known everywhere, and no target page equals another."""

import numpy as np

from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.slices import finish


def test_fill_is_what_initial_values_say(memory: GuestMemory) -> None:
    """Every word of every block holds what `initial_values` computes for it."""
    pages, words = np.divmod(np.arange(1040 * 512, dtype=np.uint64), np.uint64(512))
    expected = Pattern(7).initial_values(pages, words)
    held = np.concatenate([memory.words(0), memory.words(1)])
    assert np.array_equal(held, expected)


def test_no_two_target_pages_share_a_word_in_the_same_place(memory: GuestMemory) -> None:
    """A page in the wrong place shows in every word."""
    held = np.concatenate([memory.words(0), memory.words(1)]).reshape(1040, 512)
    for word in (0, 1, 511):
        assert len(np.unique(held[:, word])) == 1040


def test_seeds_give_different_guests(memory: GuestMemory) -> None:
    """Another seed changes every word."""
    before = memory.words(0).copy()
    finish(Pattern(8).fill(memory))
    assert not np.any(before == memory.words(0))


def test_fill_yields_what_it_did(memory: GuestMemory) -> None:
    """The slices add up to the guest."""
    assert sum(Pattern(7).fill(memory)) == memory.geometry.length_bytes
