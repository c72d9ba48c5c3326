"""Which send a wait was waiting for: the arrows between what a vCPU asked and what came."""

from __future__ import annotations

from scripts.views.history import History
from scripts.views.records import Wait


def serving_sends(history: History, waits: list[Wait]) -> list[list[int]]:
    """Return for each wait the numbers of the sends that carried its page in postcopy.

    Those are the sends of that page that had not ended long before: the last one that began before
    the wake-up, and before it those since the guest stood still.
    """
    since_ns = (history.blackout_ns or (0, 0))[0]
    wanted: dict[int, set[int]] = {}
    for wait in waits:
        wanted.setdefault(wait.block, set()).add(wait.page)
    found: dict[tuple[int, int], list[int]] = {}
    for number, send in enumerate(history.sends):
        pages = wanted.get(send.block)
        if not pages or send.end_ns < since_ns:
            continue
        if send.pages == 1:
            hits = [send.page] if send.page in pages else []
        else:
            hits = [page for page in range(send.page, send.page + send.pages) if page in pages]
        for page in hits:
            found.setdefault((send.block, page), []).append(number)
    return [
        [
            number
            for number in found.get((wait.block, wait.page), [])
            if wait.wake_ns is None or history.sends[number].start_ns < wait.wake_ns
        ]
        for wait in waits
    ]


def served_by(history: History, waits: list[Wait]) -> list[int | None]:
    """Return for each wait the number of the send that ended it, as far as the events tell."""
    return [numbers[-1] if numbers else None for numbers in serving_sends(history, waits)]
