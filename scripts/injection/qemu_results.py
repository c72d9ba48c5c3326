"""What of a run with a QEMU must be found out otherwise: no proxy and no source tells it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protocol import events
from protocol.channels import Channel
from protocol.errors import MidstreamError
from protocol.geometry import TARGET_PAGE_BYTES, PageId

# What is compared at once.
_PIECE_BYTES = 4 << 20


def carriers_told(
    pages: Iterable[PageId], told: Sequence[Mapping[str, Any]]
) -> dict[PageId, list[Channel]]:
    """Return which channel brought each page, as the destination tells: it lets none mix."""
    found: dict[PageId, list[Channel]] = {page: [] for page in pages}
    for event in told:
        if event["event"] != events.PagePlaced.event:
            continue
        run = range(event["page"], event["page"] + event.get("pages", 1))
        for page, channels in found.items():
            if page.block == event["block"] and page.index in run:
                channels.append(Channel(event["channel"]))
    return found


def differing_target_pages(source: Path, dest: Path) -> int | None:
    """Return how many target pages of a source's memory differ from the destination's.

    The destination's has more blocks, behind the one of the source's.  None if either is missing.

    Raises:
        MidstreamError: One cannot be read.
    """
    try:
        with source.open("rb") as ours, dest.open("rb") as theirs:
            if os.fstat(theirs.fileno()).st_size < os.fstat(ours.fileno()).st_size:
                return None
            differing = 0
            while piece := ours.read(_PIECE_BYTES):
                pages, others = (
                    np.frombuffer(data, np.uint64).reshape(-1, TARGET_PAGE_BYTES // 8)
                    for data in (piece, theirs.read(len(piece)))
                )
                differing += int(np.count_nonzero((pages != others).any(axis=1)))
            return differing
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MidstreamError(f"cannot compare the memories: {error.strerror}") from error


def early_pages(
    steps: Iterable[tuple[PageId, Sequence[PageId]]], placed: Sequence[PageId]
) -> list[PageId]:
    """Return the pages that were asked for when they lay half-sent, as it seemed, and were not.

    What QEMU has given to its socket it cannot hold back.  A page of which a part had come and the
    rest was already on its way is placed before the first of those that were asked for before it.

    Args:
        steps: For each step that waits for a share of a page: that page, and what is touched then.
        placed: All pages in the order in which they were placed.
    """
    order = {page: place for place, page in reversed(list(enumerate(placed)))}
    return [
        page
        for page, touched in steps
        if page in touched[1:]
        and page in order
        and order[page] < order.get(touched[0], len(placed))
    ]
