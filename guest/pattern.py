"""Hashes and keyed permutations over arrays of 64-bit words, and the default fill of a guest.

Everything that a guest does is computed from its seed, on both sides, so these functions are part
of what the two sides agree on: a change of them is a change of every program.  Of the fill every
word is known, and no two target pages are equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from protocol.geometry import TARGET_PAGE_BYTES, Span

if TYPE_CHECKING:
    # The guest process knows the pattern, but holds no GuestMemory and starts without trio.
    from guest.memory import GuestMemory
    from guest.slices import Job

Words = NDArray[np.uint64]

# SplitMix64, as in java.util.SplittableRandom: the finalizer is MurmurHash3's in David Stafford's
# variant 13, the step 2**64 divided by the golden ratio, made odd.
_FACTOR_A = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_B = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)

_ONE = np.uint64(1)
_HALF = np.uint64(32)


def chain(key: Words, words: Words) -> Words:
    """Return a hash of (key, word) pairs; under one key, equal only for equal words."""
    mixed = words * _STEP + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FACTOR_A
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _FACTOR_B
    result: Words = mixed ^ (mixed >> np.uint64(31))
    return result


def key_of(*parts: int) -> Words:
    """Return one hash of some whole numbers from 0 to 2**64 - 1, as an array of no dimension."""
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = chain(key, np.array([part], dtype=np.uint64) + _ONE)
    return key.reshape(())


def permute(indices: Words, sizes: Words, keys: Words) -> Words:
    """Return the image of each index under a pseudo-random permutation of 0 to size - 1.

    Args:
        indices: Each below its size.
        sizes: 1 to 2**40; same shape.
        keys: Hashes, as `chain` makes them; same shape.  An equal size and key name the same
            permutation.

    It is a permutation of a rectangle of rows x columns >= size cells, walked again from where it
    leads outside.  The rectangle has less than a row too much, so that is rare.
    """
    rows, columns = _rectangles(sizes)
    images = _permute_rectangle(indices, rows, columns, keys)
    outside = np.flatnonzero(images >= sizes)
    while outside.size:
        images[outside] = _permute_rectangle(
            images[outside], rows[outside], columns[outside], keys[outside]
        )
        outside = outside[images[outside] >= sizes[outside]]
    return images


def rectangle_of(size: int) -> tuple[int, int]:
    """Return the rows and columns in which `permute` lays out so many cells."""
    rows, columns = _rectangles(np.array([size], dtype=np.uint64))
    return int(rows[0]), int(columns[0])


def _rectangles(sizes: Words) -> tuple[Words, Words]:
    rows = np.maximum(np.sqrt(sizes.astype(np.float64)).astype(np.uint64), _ONE)
    columns: Words = (sizes + rows - _ONE) // rows
    return rows, columns


def _permute_rectangle(cells: Words, rows: Words, columns: Words, keys: Words) -> Words:
    """Permute the cells of a rectangle: an unbalanced Feistel network (Black and Rogaway 2002).

    Each turn shifts the one coordinate by a hash of the other, which can be undone.
    """
    row, column = np.divmod(cells, columns)
    row = (row + _hash_half(column, keys)) % rows
    column = (column + _hash_half(row, keys >> np.uint64(11))) % columns
    row = (row + _hash_half(column, keys >> np.uint64(22))) % rows
    return row * columns + column


def _hash_half(words: Words, keys: Words) -> Words:
    """Return 32 hashed bits of each word."""
    mixed = (words + keys) * _FACTOR_A
    mixed = (mixed ^ (mixed >> _HALF)) * _FACTOR_B
    return mixed >> _HALF


WORDS_PER_TARGET_PAGE = TARGET_PAGE_BYTES // 8


class Pattern:
    """Word w of flat target page t holds template[w] + key(t), modulo 2**64, both from the seed.

    Different target pages have different keys and so differ in every word; that a page came to the
    wrong place shows wherever one looks.

    Attributes:
        template: The 512 words that all target pages have in common.
        page_key: Makes a target page's key.
    """

    def __init__(self, seed: int) -> None:
        """Take the seed, 0 to 2**64 - 1."""
        word_indices = np.arange(WORDS_PER_TARGET_PAGE, dtype=np.uint64)
        self.template = chain(key_of(seed, 0), word_indices)
        self.page_key = key_of(seed, 1)

    def fill(self, memory: GuestMemory) -> Job[None]:
        """Write the pattern over the whole guest, in slices (guest/slices.py); yields bytes."""
        for span in memory.slices():
            self.fill_slice(memory, span)
            yield span.length

    def fill_slice(self, memory: GuestMemory, span: Span) -> None:
        """Write the pattern over some pages of a block; several threads may do so at once."""
        pages = memory.words(span.block).reshape(-1, WORDS_PER_TARGET_PAGE)[span.target_pages]
        first = memory.geometry.target_page_bases[span.block] + span.offset // TARGET_PAGE_BYTES
        keys = self._keys(np.arange(first, first + len(pages), dtype=np.uint64))
        np.add(self.template, keys[:, np.newaxis], out=pages)

    def initial_values(self, flat_pages: Words, word_indices: Words) -> Words:
        """Return what the given words (0 to 511) of the given flat target pages hold at first."""
        return self.template[word_indices] + self._keys(flat_pages)

    def _keys(self, flat_pages: Words) -> Words:
        return chain(self.page_key, flat_pages)
