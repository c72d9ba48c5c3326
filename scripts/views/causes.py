"""A run's end and its causes, as its events tell them, so that all views say the same.

That is how it ended, what belongs together (a wait and the send that ended it, a request and the
wait that it was for), and the figures of its waits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from guest.latency import summary_of
from protocol import events
from protocol.states import State
from scripts.views.history import History
from scripts.views.records import DEST, RELAY, SOURCE, Request, Wait

# States that no run ends well from, and what its end is called.
_BAD_ENDS = {
    State.FAILED.value: State.FAILED.value,
    State.CANCELLING.value: State.CANCELLED.value,
    State.CANCELLED.value: State.CANCELLED.value,
}


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


def status_of(history: History) -> str:
    """Return the state in which a run ended; the last one told, where events end before it does.

    Of two sides one fails or is cancelled first, and the other because of it.
    """
    states = {side: told for side in (SOURCE, DEST) if (told := history.states(side))}
    ends = {side: told[-1][1] for side, told in states.items()}
    if {State.FAILED.value, State.CANCELLED.value} & {*ends.values()}:
        bad = [(at, name) for told in states.values() for at, name in told if name in _BAD_ENDS]
        return _BAD_ENDS[min(bad)[1]]
    if State.COMPLETED.value in ends.values():
        return State.COMPLETED.value
    return ends.get(SOURCE, ends.get(DEST, "?"))


def reason_of(history: History) -> str:
    """Return why a run ended badly, empty if unknown: in the words of the side that did so first.

    Where both ended alike the source's words count: the other side only repeats them.
    """
    told = [note for note in history.notes if note.event == events.State.event]
    bad = [note for note in told if note.fields["state"] in _BAD_ENDS and note.fields.get("reason")]
    first = min(bad, key=lambda note: note.time_ns, default=None)
    of_source = next((note for note in bad if note.side == SOURCE), None)
    if first is None or of_source is None:
        return str(first.fields["reason"]) if first is not None else ""
    same = _BAD_ENDS[first.fields["state"]] == _BAD_ENDS[of_source.fields["state"]]
    return str((of_source if same else first).fields["reason"])


def lost_bytes(history: History) -> int:
    """Return how much memory the destination says is lost."""
    lost = (note for note in history.notes if note.event == events.MemoryLost.event)
    return sum(note.fields.get("bytes", 0) for note in lost)


def breaks_ns(history: History) -> list[tuple[int, int | None]]:
    """Return each break: when a connection was lost, and when the run went on; None if it did not.

    The source's account counts, or the destination's where that is alone.
    """
    lost = _times(history, events.ChannelLost.event)
    breaks: list[tuple[int, int | None]] = []
    since_ns = 0
    for recovered_ns in _times(history, events.Recovered.event):
        # Two connections break, and each is told; the first counts.
        first_ns = next((at for at in lost if since_ns <= at <= recovered_ns), recovered_ns)
        breaks.append((first_ns, recovered_ns))
        since_ns = recovered_ns
    last_ns = next((at for at in lost if at >= since_ns), None)
    return breaks if last_ns is None else [*breaks, (last_ns, None)]


def _times(history: History, event: str) -> list[int]:
    """Return when the source told of something, or the destination where that is alone."""
    of: dict[str, list[int]] = {SOURCE: [], DEST: []}
    for note in history.notes:
        side = SOURCE if note.side == RELAY else note.side
        if note.event == event and side in of:
            of[side].append(note.time_ns)
    return of[SOURCE] or of[DEST]


def percentiles_us(waits: Iterable[Wait]) -> dict[str, float]:
    """Return the percentiles of the waits that ended, in microseconds; 0 where there are none.

    They are those of the run's own report, see `guest.latency.summarize`.
    """
    summary = summary_of(wait.wake_ns - wait.start_ns for wait in waits if wait.wake_ns is not None)
    return {
        "p50": summary.p50_us, "p90": summary.p90_us, "p99": summary.p99_us,
        "p99.9": summary.p999_us, "max": summary.max_us,
    }  # fmt: skip


def waiting_over_time(waits: Iterable[Wait], end_ns: int) -> list[tuple[int, int]]:
    """Return (time, number of vCPUs that wait from then on), ascending."""
    steps: dict[int, int] = {}
    for wait in waits:
        steps[wait.start_ns] = steps.get(wait.start_ns, 0) + 1
        end = end_ns if wait.wake_ns is None else wait.wake_ns
        steps[end] = steps.get(end, 0) - 1
    times = sorted(steps)
    return list(zip(times, accumulate(steps[time_ns] for time_ns in times), strict=True))


def waited_us(waits: Iterable[Wait]) -> float:
    """Return all vCPUs' waiting together, in microseconds."""
    return sum(wait.latency_us for wait in waits)
