"""Curves over time: bytes that the destination lacks, bytes left to send, means of steps.  Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scripts.views.history import History

# Blocks of more pages are not followed page by page: 64 GiB of small pages are as many.
_PAGES_MAX = 1 << 24


class Point(NamedTuple):
    """So many bytes from a moment on."""

    time_ns: int
    bytes: int


def missing_pages(event: dict[str, Any], pages: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which of these pages a `missing` event says are missing; none of them if it is torn.

    Args:
        event: Its bits, lowest first, each for `pages-per-bit` pages.
        pages: Indices in its block, ascending.
    """
    nothing = np.zeros(0, dtype=np.bool_)
    try:
        packed = np.frombuffer(base64.b64decode(event["bits"], validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError):
        return nothing
    bits: npt.NDArray[np.bool_] = np.unpackbits(packed, bitorder="little").astype(np.bool_)
    of_bit = pages // max(event["pages-per-bit"], 1)
    if not len(of_bit) or of_bit[-1] >= len(bits):
        return nothing
    missing: npt.NDArray[np.bool_] = bits[of_bit]
    return missing


def missing_curve(history: History) -> list[Point]:
    """Return the bytes of pages that the destination has not placed, from the switch-over on.

    A page counts whole until it is placed, and once: what is placed again was there.  Empty without
    postcopy, and where the destination's events are not there.
    """
    lacking: dict[int, npt.NDArray[np.bool_]] = {}
    since_ns = 0
    for event in history.missing:
        count = history.page_count(event["block"])
        if event["block"] not in history.blocks or count > _PAGES_MAX:
            return []
        lacking[event["block"]] = missing_pages(event, np.arange(count))
        since_ns = max(since_ns, event["t-ns"])
    sizes = {block: history.blocks[block].page_bytes for block in lacking}
    left = sum(int(pages.sum()) * sizes[block] for block, pages in lacking.items())
    if not lacking:
        return []
    points = [Point(since_ns, left)]
    for placed in history.placed:
        pages = lacking.get(placed.block)
        if pages is None:
            continue
        part = slice(placed.page, placed.page + placed.pages)
        count = int(pages[part].sum())
        pages[part] = False
        if count:
            left -= count * sizes[placed.block]
            points.append(Point(max(placed.time_ns, since_ns), left))
    return points


def left_curve(history: History) -> list[Point]:
    """Return the bytes that the source has left to send, of the pass at hand in precopy.

    Empty where no event tells them.
    """
    marks = sorted(history.marks, key=lambda mark: mark.time_ns)
    points: list[Point] = []
    for mark in marks:
        if not points or points[-1].bytes != mark.remaining_bytes:
            points.append(Point(mark.time_ns, mark.remaining_bytes))
    return points if any(point.bytes for point in points) else []


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """Return at most so many points of a curve, its first and its last among them."""
    if len(points) <= most:
        return points
    return [points[int(at)] for at in np.linspace(0, len(points) - 1, most)]


def means(
    steps: Sequence[tuple[float, float]], edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the mean of a curve of steps in each stretch between neighbouring edges.

    Args:
        steps: (time, value from then on), ascending, at least one; zero before the first.
        edges: Ascending, in the same unit of time; one more than there are stretches.
    """
    times = np.array([at for at, _ in steps], dtype=np.float64)
    values = np.array([value for _, value in steps], dtype=np.float64)
    area = np.concatenate([[0.0], np.cumsum(np.diff(times) * values[:-1])])
    # What the curve is worth after its last step is that step's value.
    total = np.interp(edges, times, area, left=0.0)
    total += np.maximum(edges - times[-1], 0.0) * values[-1]
    result: npt.NDArray[np.float64] = np.diff(total) / np.maximum(np.diff(edges), 1e-9)
    return result
