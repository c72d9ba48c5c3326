"""The default fill of a guest: every word is known, and no two target pages are equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from guest.mixing import Words, chain, key_of
from protocol.geometry import TARGET_PAGE_BYTES, Span

if TYPE_CHECKING:
    # The guest process knows the pattern, but holds no GuestMemory and starts without trio.
    from guest.memory import GuestMemory
    from guest.slices import Job

WORDS_PER_TARGET_PAGE = TARGET_PAGE_BYTES // 8


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
        for span in memory.slices():
            self.fill_slice(memory, span)
            yield span.length

    def fill_slice(self, memory: GuestMemory, span: Span) -> None:
        """Write the pattern over some pages of a block; several threads may do so at once."""
        pages = memory.words(span.block).reshape(-1, WORDS_PER_TARGET_PAGE)[span.target_pages]
        first = memory.geometry.target_page_bases[span.block] + span.offset // TARGET_PAGE_BYTES
        keys = self._keys(np.arange(first, first + len(pages), dtype=np.uint64))
        np.add(self._template, keys[:, np.newaxis], out=pages)

    def initial_values(self, flat_pages: Words, word_indices: Words) -> Words:
        """Return what the given words (0 to 511) of the given flat target pages hold at first."""
        return self._template[word_indices] + self._keys(flat_pages)

    def _keys(self, flat_pages: Words) -> Words:
        return chain(self._page_key, flat_pages)
