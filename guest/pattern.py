"""The default fill of a guest: every word is known, and no two target pages are equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from guest.mixing import Words, chain, key_of
from protocol.geometry import TARGET_PAGE_BYTES

if TYPE_CHECKING:
    # The guest process knows the pattern, but holds no GuestMemory and starts without trio.
    from guest.memory import GuestMemory
    from guest.slices import Job

WORDS_PER_TARGET_PAGE = TARGET_PAGE_BYTES // 8

# 16 MiB: some ten milliseconds.
_SLICE_TARGET_PAGES = 4096


class Pattern:
    """Word w of flat target page t holds template[w] + key(t), modulo 2**64, both from the seed.

    Different target pages have different keys and so differ in every word; that a page came to the
    wrong place shows wherever one looks.
    """

    def __init__(self, seed: int) -> None:
        """Take the seed, 0 to 2**64 - 1."""
        word_indices = np.arange(WORDS_PER_TARGET_PAGE, dtype=np.uint64)
        self._template = chain(key_of(seed, 0), word_indices)
        self._page_key = key_of(seed, 1)

    def fill(self, memory: GuestMemory) -> Job[None]:
        """Write the pattern over the whole guest, in slices (guest/slices.py); yields bytes."""
        for block, base in enumerate(memory.geometry.target_page_bases):
            count = memory.geometry.blocks[block].target_page_count
            for start in range(0, count, _SLICE_TARGET_PAGES):
                stop = min(start + _SLICE_TARGET_PAGES, count)
                self._fill_slice(memory.words(block), base, start, stop)
                yield (stop - start) * TARGET_PAGE_BYTES

    def _fill_slice(self, words: NDArray[np.uint64], base: int, start: int, stop: int) -> None:
        pages = words.reshape(-1, WORDS_PER_TARGET_PAGE)[start:stop]
        keys = self._keys(np.arange(base + start, base + stop, dtype=np.uint64))
        np.add(self._template, keys[:, np.newaxis], out=pages)

    def initial_values(self, flat_pages: Words, word_indices: Words) -> Words:
        """Return what the given words (0 to 511) of the given flat target pages hold at first."""
        return self._template[word_indices] + self._keys(flat_pages)

    def _keys(self, flat_pages: Words) -> Words:
        return chain(self._page_key, flat_pages)
