"""What belongs together: a wait and the send that ended it, a request and the wait it was for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from scripts.views.history import History
from scripts.views.records import Request, Wait


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


def request_ends(history: History, requests: Sequence[Request]) -> list[int | None]:
    """Return when each page request was over: its vCPU ran again; None if that never happened.

    A request is for the wait for its page that had begun last when it was made: the same wait's
    again after a break.  Where no wait is told, it is over when the page was placed.
    """
    waits: dict[tuple[int, int], list[Wait]] = {}
    for wait in sorted(history.all_waits, key=lambda wait: wait.start_ns):
        waits.setdefault((wait.block, wait.page), []).append(wait)
    placed: dict[tuple[int, int], list[int]] = {}
    wanted = {(request.block, request.page) for request in requests}
    for each in history.placed:
        for page in range(each.page, each.page + each.pages):
            if (each.block, page) in wanted:
                placed.setdefault((each.block, page), []).append(each.time_ns)
    ends: list[int | None] = []
    for request in requests:
        page_of = request.block, request.page
        mine = waits.get(page_of, [])
        number = bisect_right(mine, request.asked_ns, key=lambda wait: wait.start_ns)
        if number:
            ends.append(mine[number - 1].wake_ns)
        else:
            times = placed.get(page_of, [])
            at = bisect_right(times, request.asked_ns)
            ends.append(times[at] if at < len(times) else None)
    return ends
