"""Bars of a timeline: what was sent, put together where that is too much to be drawn.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.views.records import BACKGROUND, Send


def few_bars(sends: Sequence[Send], most: int) -> tuple[Sequence[Send], int]:
    """Return bars, few enough for a page, and how many pages one of background may span.

    Background that goes on from page to page is put together in ever larger bars, and only that: a
    page that was asked for, or was broken off, keeps bars of its own.  That may not be enough:
    there can be more than `most` all the same.
    """
    pages_per_bar = 1
    bars: Sequence[Send] = sends
    while len(bars) > most and pages_per_bar < 1 << 30:
        pages_per_bar *= 8
        bars = joined(bars, pages_per_bar)
    return bars, pages_per_bar


def joined(sends: Sequence[Send], pages_per_bar: int) -> list[Send]:
    """Return sends with background put together that goes on, in rows of so many pages."""
    bars: list[Send] = []
    for send in sends:
        last = bars[-1] if bars else None
        if last is not None and _continues(last, send, pages_per_bar):
            carried = None if last.bytes is None or send.bytes is None else last.bytes + send.bytes
            bars[-1] = last._replace(
                pages=last.pages + send.pages, end_ns=send.end_ns, bytes=carried
            )
        else:
            bars.append(send)
    return bars


def _continues(last: Send, send: Send, pages_per_bar: int) -> bool:
    plain = (BACKGROUND, "page-sent", None)
    return (
        (last.kind, last.ended, last.urgent_ns) == plain
        and (send.kind, send.ended, send.urgent_ns) == plain
        and (last.block, last.channel) == (send.block, send.channel)
        and last.page + last.pages == send.page
        and last.page // pages_per_bar == send.page // pages_per_bar
    )
