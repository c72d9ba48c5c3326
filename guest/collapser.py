"""Maps memory by huge pages again when its pieces are whole, in a thread of its own.

A huge page that was mapped piece by piece costs its vCPUs more address translations than one that
is mapped at once.  To mend that takes the kernel up to milliseconds and nobody waits for it.
"""

from __future__ import annotations

import socket
import threading
from itertools import pairwise
from queue import SimpleQueue

from guest import abi, libc
from guest.messages import Collapsed, encode_event

Ranges = list[tuple[int, int]]


class Collapser:
    """Does what `collapse` asks for, in order; the thread starts with the first."""

    def __init__(self, events: socket.socket) -> None:
        """Tell on that socket what came of it."""
        self._events = events
        self._asked: SimpleQueue[Ranges] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def collapse(self, ranges: Ranges) -> None:
        """Have ranges of whole huge pages, (address, length), mapped as such; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="collapser", daemon=True)
            self._thread.start()
        self._asked.put(ranges)

    def _work(self) -> None:
        while True:
            ranges = self._asked.get()
            # One call takes as long for many neighbours as for one.
            while not self._asked.empty():
                ranges += self._asked.get()
            failed_count = sum(not _collapse(*each) for each in joined(ranges))
            self._events.send(encode_event(Collapsed(len(ranges), failed_count)))


def joined(ranges: Ranges) -> Ranges:
    """Return the same memory as ranges in ascending order, neighbours made one."""
    ranges = sorted(ranges)
    if not ranges:
        return []
    borders = [
        (before[0] + before[1], after[0])
        for before, after in pairwise(ranges)
        if before[0] + before[1] != after[0]
    ]
    begins = [ranges[0][0], *(begin for _, begin in borders)]
    ends = [*(end for end, _ in borders), ranges[-1][0] + ranges[-1][1]]
    return [(begin, end - begin) for begin, end in zip(begins, ends, strict=True)]


def _collapse(address: int, length_bytes: int) -> bool:
    try:
        libc.madvise(address, length_bytes, abi.MADV_COLLAPSE)
    except OSError:
        return False  # No huge page is free, or this kernel knows none: it stays as it is.
    return True
