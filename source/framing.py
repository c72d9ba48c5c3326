"""Makes the frame of a chunk: bytes, zeros, or runs of both where they alternate.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from protocol.checksums import checksum_of
from protocol.fields import PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, Span
from protocol.limits import RUN_COUNT_MAX
from protocol.messages import Message, PageData, RunData, ZeroData
from protocol.runs import Flags, Runs, Stretch, pack_runs
from source.jobs import Chunk
from source.outlet import Frame

_WORDS = TARGET_PAGE_BYTES // 8
_ZERO_WORD = bytes(8)

# Of a long stretch of a huge page one target page in so many is looked at first, and if none of
# these begins with zeros the stretch is taken for data.  Untouched memory lies in long runs; a cold
# cache line for each target page of a stretch without any is a tenth of what sending it takes.
_SAMPLED = 16
_LONG_BYTES = 1 << 20


class Blocks(Protocol):
    """Guest memory as far as it is read."""

    @property
    def geometry(self) -> Geometry:
        """Its blocks."""

    @property
    def views(self) -> Sequence[memoryview]:
        """The bytes of each block."""


class FrameMaker(Protocol):
    """Makes the frame of a chunk: `frame_of`, or what makes one of no bytes."""

    def __call__(
        self, memory: Blocks, chunk: Chunk, queue_us: int, send_us: int, /, *, checked: bool
    ) -> Frame:
        """Return the frame."""


def frame_of(
    memory: Blocks, chunk: Chunk, queue_us: int, send_us: int, *, checked: bool = False
) -> Frame:
    """Return the frame that carries a chunk.

    A page that is zero now and is written to before the frame goes is dirty, and goes again.

    Args:
        memory: Where the bytes are; they are read again when they are sent.
        chunk: What is to be sent.
        queue_us: For an urgent chunk, how long its request waited.
        send_us: For an urgent chunk, how long ago its first urgent frame was made.
        checked: A checksum goes with it.
    """
    stretch = chunk.span
    view = memory.views[stretch.block]
    is_huge = memory.geometry.blocks[stretch.block].page_bytes > TARGET_PAGE_BYTES
    step = _SAMPLED if is_huge and stretch.length >= _LONG_BYTES else 1
    is_zero = _zero_target_pages(view, stretch, step)
    if isinstance(stretch, Span):
        if is_zero is None:
            data = PageData(
                payload_bytes=stretch.length, block=stretch.block, offset=stretch.offset,
                urgent=chunk.urgent, queue_us=queue_us, send_us=send_us,
            )  # fmt: skip
            pieces = [view[stretch.offset : stretch.end]]
            return _frame(data, pieces, stretch.length, checked=checked)
        if is_zero.all():
            zero = ZeroData(
                block=stretch.block, offset=stretch.offset, length=stretch.length,
                urgent=chunk.urgent, queue_us=queue_us, send_us=send_us,
            )  # fmt: skip
            return _frame(zero, [], stretch.length, checked=checked)
        stretch = Runs.of_span(stretch)
    runs, is_zero = _divided(stretch, is_zero)
    with_data = runs.where(~is_zero)
    message = RunData(
        payload_bytes=with_data.length if with_data else 0, block=runs.block, offset=runs.offset,
        runs=PackedRuns(pack_runs(runs, is_zero)),
        urgent=chunk.urgent, queue_us=queue_us, send_us=send_us,
    )  # fmt: skip
    edges = with_data.edges() if with_data else ()
    pieces = [view[start:end] for start, end in edges]
    return _frame(message, pieces, runs.length, checked=checked)


def _frame(
    message: Message, payload: list[memoryview], memory_bytes: int, *, checked: bool
) -> Frame:
    if not checked:
        return Frame(message, *payload, memory_bytes=memory_bytes)
    # A guest that runs on may write to its pages between the look at them and their sending.
    copy = b"".join(payload)
    return Frame(message, copy, checksum=checksum_of(message, [copy]), memory_bytes=memory_bytes)


def _zero_target_pages(view: memoryview, stretch: Stretch, step: int) -> Flags | None:
    """Return which target pages of a stretch are all zero, None if none is.

    One look at the first word of each tells nearly always that a page is not.

    Args:
        view: The block's memory.
        stretch: Where to look.
        step: Of a single run, look at one in so many first, and no further if none looks zero.
    """
    # Of a single one that is asked without NumPy, which takes its time to begin: a vCPU waits.
    if stretch.length == TARGET_PAGE_BYTES and isinstance(stretch, Span):
        first = view[stretch.offset : stretch.offset + len(_ZERO_WORD)]
        if first != _ZERO_WORD:
            return None
    words = np.frombuffer(view, np.uint64).reshape(-1, _WORDS)
    where = stretch.target_pages
    if step > 1 and isinstance(where, slice):
        # Where each is looked at, the next line does all that this would.
        samples = words[where.start : where.stop : step, 0]
        if samples.all():
            return None
    maybe = np.flatnonzero(words[where, 0] == 0)
    if not len(maybe):
        return None
    count = stretch.length // TARGET_PAGE_BYTES
    is_zero: Flags
    # As truth values NumPy looks at bytes in vectors, and stops at the first in a page that is not
    # zero.  It copies pages that it is asked for by their numbers.
    if isinstance(where, slice) and len(maybe) == count:
        is_zero = np.logical_not(words[where].view(np.bool_).any(axis=1))
    else:
        indices = np.arange(where.start, where.stop) if isinstance(where, slice) else where
        is_zero = np.zeros(count, dtype=np.bool_)
        is_zero[maybe] = np.logical_not(words[indices[maybe]].view(np.bool_).any(axis=1))
    return is_zero if is_zero.any() else None


def _divided(runs: Runs, is_zero: Flags | None) -> tuple[Runs, Flags]:
    """Cut runs where zero pages begin and end, into no more than a frame may name.

    Args:
        runs: What is to be sent.
        is_zero: Which of its target pages are zero; None for none of them.
    """
    if is_zero is None:
        return runs, np.zeros(len(runs), dtype=np.bool_)
    divided, flags = runs.divided(is_zero)
    if len(divided) <= RUN_COUNT_MAX:
        return divided, flags
    # The longest runs of zeros save the most.  Each cuts a run in three at worst; what is not left
    # out goes as the zero bytes that it is.
    longest_count = (RUN_COUNT_MAX - len(runs)) // 2
    zeros = np.flatnonzero(flags)
    longest = zeros[np.argsort(-divided.counts[zeros], kind="stable")[:longest_count]]
    kept = np.zeros(len(divided), dtype=np.bool_)
    kept[longest] = True
    return runs.divided(np.repeat(kept, divided.counts))
