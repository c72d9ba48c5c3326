"""The default fill is known everywhere, and no target page equals another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.memory import GuestMemory
from guest.pattern import Pattern, Words, chain, key_of, permute
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


KEYS = st.integers(0, 2**64 - 1)


def permutation(size: int, key: int) -> list[int]:
    """Return the image of 0 to size - 1."""
    indices = np.arange(size, dtype=np.uint64)
    images = permute(indices, full(size, size), full(size, key))
    return [int(image) for image in images]


def full(count: int, value: int) -> Words:
    """Return an array of one value."""
    return np.full(count, value, dtype=np.uint64)


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 4095, 4096, 4097])
def test_permute_reaches_every_index_once(size: int) -> None:
    """The images of all indices are all indices, for sizes around squares and powers of two."""
    assert sorted(permutation(size, 12345)) == list(range(size))


@given(size=st.integers(1, 3000), key=KEYS)
def test_permute_is_bijective(size: int, key: int) -> None:
    """So they are for any size and key."""
    assert sorted(permutation(size, key)) == list(range(size))


def test_permute_serves_different_sizes_at_once() -> None:
    """Each element is permuted within its own size, as if alone."""
    sizes = np.array([1, 2, 3, 1000, 5], dtype=np.uint64)
    indices = np.array([0, 1, 2, 999, 4], dtype=np.uint64)
    keys = np.arange(5, dtype=np.uint64)
    together = permute(indices, sizes, keys).tolist()
    alone = [int(permute(indices[[i]], sizes[[i]], keys[[i]])[0]) for i in range(5)]
    assert together == alone


def test_permute_shuffles() -> None:
    """Neighbours are torn apart, and two keys give unrelated orders."""
    one, other = (np.array(permutation(5000, int(key_of(key)))) for key in (1, 2))
    for lag in (1, 2, 70, 71, 72):
        assert abs(np.corrcoef(one[:-lag], one[lag:])[0, 1]) < 0.1
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    assert np.count_nonzero(one == other) < 10


def test_chain_tells_words_and_keys_apart() -> None:
    """Under one key different words differ; under another key everything does."""
    words = np.arange(10_000, dtype=np.uint64)
    one, other = chain(key_of(1), words), chain(key_of(2), words)
    assert len(np.unique(np.concatenate([one, other]))) == 20_000


def test_key_of_depends_on_order_and_length() -> None:
    """Keys from different lists of numbers differ."""
    lists = [(0,), (1,), (0, 0), (0, 1), (1, 0), (2**64 - 1,)]
    assert len({int(key_of(*parts)) for parts in lists}) == len(lists)


def test_values_are_pinned() -> None:
    """A change here changes every program: two sides of different versions would not agree."""
    assert int(key_of(7, 1)) == 0x64FB272CC21AD71C
    assert permutation(10, 99) == [9, 6, 3, 7, 8, 1, 2, 4, 0, 5]
