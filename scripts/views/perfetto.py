"""A run as Chrome trace events, the JSON that Perfetto's page and chrome://tracing open.

Format: "Trace Event Format" (Google, 2016), JSON object form; times are microseconds, here with
three decimals.  The source and the destination are processes; each channel, each vCPU and each
side's state is a thread of one.  What overlaps, the way of each page request until its vCPU runs
again, is told in asynchronous events; arrows (flow events) lead from a vCPU's touch to the send
that served it and to the moment when the vCPU runs again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protocol.channels import Channel
from protocol.events import PeerMessage
from protocol.report import STAGE_WORDS
from protocol.states import FINAL
from scripts.views.causes import request_ends, served_by, waiting_over_time
from scripts.views.history import History
from scripts.views.records import BACKGROUND, BOOSTED, DEST, RELAY, SOURCE, URGENT, Note, Send, Wait

TraceEvent = dict[str, Any]

# Process numbers, and the threads of each; vCPUs follow each other from _VCPU_TID on.
# What stands between two QEMUs tells what the source sends.
_PIDS = {SOURCE: 1, RELAY: 1, DEST: 2}
_STATE_TID = 1
_CHANNEL_TIDS = {Channel.PRECOPY.value: 2, Channel.POSTCOPY.value: 3}
_REQUEST_TID = 4
_GUEST_TID = 2
_VCPU_TID = 10

# Names of colours that chrome://tracing has; Perfetto makes its own of an event's name.
_COLOURS = {BACKGROUND: "generic_work", URGENT: "thread_state_iowait", BOOSTED: "bad"}

# The least that a span shown has, so that arrows have a place in it.
_SPAN_NS_MIN = 1


class TraceWriter:
    """Makes the trace events of one run."""

    def __init__(self, history: History) -> None:
        """Use a run that is read to its end."""
        self._history = history
        self._zero_ns = history.first_ns

    def document(self) -> dict[str, Any]:
        """Return the whole trace."""
        return {
            "traceEvents": list(self.events()),
            "displayTimeUnit": "ms",
            "otherData": {
                "made-by": "midstream",
                "policy": str(self._history.run.get("policy", "")),
                "left-out": sum(self._history.left_out.values()),
            },
        }

    def events(self) -> Iterator[TraceEvent]:
        """Yield names of processes and threads, then everything that happened."""
        yield from self._names()
        for side in (SOURCE, DEST):
            yield from self._states(side)
        yield from self._guest()
        for send in self._history.sends:
            yield self._send(send)
        waits = self._history.all_waits
        for number, (wait, served) in enumerate(
            zip(waits, served_by(self._history, waits), strict=True), 1
        ):
            yield from self._wait(wait)
            if served is not None and wait.wake_ns is not None:
                yield from self._arrow(number, wait, self._history.sends[served])
        yield from self._requests()
        for note in self._history.notes:
            yield from self._instant(note)
        yield from self._counters(waits)

    def _page(self, block: int, page: int) -> str:
        """Return a page's number, with its block's name where there are several."""
        names = self._history.blocks
        return f"{names[block].name}:{page}" if len(names) > 1 and block in names else str(page)

    def _us(self, time_ns: int) -> float:
        return (time_ns - self._zero_ns) / 1000

    def _names(self) -> Iterator[TraceEvent]:
        threads = {
            (SOURCE, _STATE_TID): "state",
            **{(SOURCE, tid): f"{name} channel" for name, tid in _CHANNEL_TIDS.items()},
            (SOURCE, _REQUEST_TID): "page requests",
            (DEST, _STATE_TID): "state",
            (DEST, _GUEST_TID): "guest",
            **{
                (DEST, _VCPU_TID + vcpu): f"{self._history.waiter} {vcpu}"
                for vcpu in range(self._history.vcpu_count)
            },
        }
        for side, title in ((SOURCE, "source"), (DEST, "destination")):
            yield _meta("process_name", side, 0, name=title)
            yield _meta("process_sort_index", side, 0, sort_index=_PIDS[side])
        for (side, tid), name in threads.items():
            yield _meta("thread_name", side, tid, name=name)
            yield _meta("thread_sort_index", side, tid, sort_index=tid)

    def _span(
        self, side: str, tid: int, name: str, category: str, start_ns: int, end_ns: int
    ) -> TraceEvent:
        length_ns = max(end_ns - start_ns, _SPAN_NS_MIN)
        return {
            "ph": "X", "pid": _PIDS[side], "tid": tid, "name": name, "cat": category,
            "ts": self._us(start_ns), "dur": length_ns / 1000,
        }  # fmt: skip

    def _states(self, side: str) -> Iterator[TraceEvent]:
        states = self._history.states(side)
        final = {state.value for state in FINAL}
        ends = [*(time_ns for time_ns, _ in states), self._history.last_ns][1:]
        for (start_ns, state), end_ns in zip(states, ends, strict=True):
            end = start_ns if state in final else end_ns
            yield self._span(side, _STATE_TID, state, "state", start_ns, end)

    def _guest(self) -> Iterator[TraceEvent]:
        if self._history.blackout_ns is not None:
            yield self._span(DEST, _GUEST_TID, "blackout", "guest", *self._history.blackout_ns)

    def _send(self, send: Send) -> TraceEvent:
        page = self._page(send.block, send.page)
        what = f"page {page}" if send.pages == 1 else f"pages {page} +{send.pages}"
        event = self._span(
            SOURCE, _CHANNEL_TIDS[send.channel], f"{send.kind} {what}", send.kind,
            send.start_ns, send.end_ns,
        )  # fmt: skip
        event["cname"] = _COLOURS[send.kind]
        event["args"] = {
            "block": send.block, "page": send.page, "pages": send.pages, "ended": send.ended,
            "urgent": send.kind != BACKGROUND, "boosted": send.kind == BOOSTED,
            **({} if send.bytes is None else {"bytes": send.bytes}),
        }  # fmt: skip
        if send.urgent_ns is not None:
            event["args"]["urgent-since-us"] = self._us(send.urgent_ns)
        return event

    def _wait(self, wait: Wait) -> Iterator[TraceEvent]:
        tid = _VCPU_TID + wait.vcpu
        end_ns = self._history.last_ns if wait.wake_ns is None else wait.wake_ns
        name = f"waits for page {self._page(wait.block, wait.page)}"
        event = self._span(DEST, tid, name, "wait", wait.start_ns, end_ns)
        event["args"] = {"block": wait.block, "page": wait.page, "ended": wait.wake_ns is not None}
        if wait.answer:
            event["args"]["answer"] = wait.answer
        if wait.behind:
            named = len(self._history.blocks) > 1
            pages = [self._page(*each) if named else "{}:{}".format(*each) for each in wait.behind]
            event["args"] |= {"behind": " ".join(pages), "behind-count": wait.behind_count}
        yield event
        # Ends are rounded, and not lengths, so that no two overlap.
        start_ns, waited_us = wait.start_ns, 0.0
        for stage, stage_us in wait.parts:
            waited_us += stage_us
            stop_ns = min(wait.start_ns + round(waited_us * 1000), end_ns)
            if stop_ns > start_ns:
                part = self._span(DEST, tid, stage, "stage", start_ns, stop_ns)
                yield part | {"args": {"what": STAGE_WORDS[stage]}}
            start_ns = stop_ns

    def _arrow(self, number: int, wait: Wait, send: Send) -> Iterator[TraceEvent]:
        """Yield an arrow: touch, send, wake-up; all three lie in the spans that they tie."""
        assert wait.wake_ns is not None
        page = self._page(wait.block, wait.page)
        common = {"name": f"page {page}", "cat": "fault", "id": number}
        vcpu = {"pid": _PIDS[DEST], "tid": _VCPU_TID + wait.vcpu}
        yield {**common, **vcpu, "ph": "s", "ts": self._us(wait.start_ns)}
        sent_ns = max(send.start_ns, wait.start_ns)
        # What was under way when the page was touched may have left the source by then.
        if sent_ns < send.end_ns:
            channel = {"pid": _PIDS[SOURCE], "tid": _CHANNEL_TIDS[send.channel]}
            yield {**common, **channel, "ph": "t", "ts": self._us(sent_ns)}
        end_ns = max(wait.start_ns, wait.wake_ns - _SPAN_NS_MIN)
        yield {**common, **vcpu, "ph": "f", "bp": "e", "ts": self._us(end_ns)}

    def _requests(self) -> Iterator[TraceEvent]:
        """Yield each request's way until its vCPU runs again; many are under way at a time."""
        requests = self._history.requests
        ends = request_ends(self._history, requests)
        for number, (request, woke_ns) in enumerate(zip(requests, ends, strict=True), 1):
            end_ns = self._history.last_ns if woke_ns is None else woke_ns
            common = {
                "cat": "page", "id": f"request-{number}", "pid": _PIDS[SOURCE],
                "tid": _REQUEST_TID, "name": f"page {self._page(request.block, request.page)}",
            }  # fmt: skip
            args = {"block": request.block, "page": request.page, "answer": request.answer}
            yield {**common, "ph": "b", "ts": self._us(request.asked_ns), "args": args}
            if request.came_ns is not None:
                at = min(max(request.came_ns, request.asked_ns), max(end_ns, request.asked_ns))
                yield {**common, "ph": "n", "name": "at the source", "ts": self._us(at)}
            yield {**common, "ph": "e", "ts": self._us(max(end_ns, request.asked_ns))}

    def _instant(self, note: Note) -> Iterator[TraceEvent]:
        if note.event == "state" or note.side not in _PIDS:
            return
        tid = _CHANNEL_TIDS.get(str(note.fields.get("channel")), _STATE_TID)
        # Between two QEMUs it is a message of theirs, which has a name.
        name = note.fields["name"] if note.event == PeerMessage.event else note.event
        if "page" in note.fields:
            page = self._page(note.fields.get("block", 0), note.fields["page"])
            name = f"{name} page {page}"
        yield {
            "ph": "i", "s": "t", "pid": _PIDS[note.side], "tid": tid, "name": name, "cat": "note",
            "ts": self._us(note.time_ns), "args": note.fields,
        }  # fmt: skip

    def _counters(self, waits: list[Wait]) -> Iterator[TraceEvent]:
        source = {"ph": "C", "pid": _PIDS[SOURCE], "tid": 0}
        for mark in self._history.marks:
            yield {
                **source, "name": "remaining (bytes)", "ts": self._us(mark.time_ns),
                "args": {"remaining": mark.remaining_bytes},
            }  # fmt: skip
            yield {
                **source, "name": f"{mark.channel} channel, sent (bytes)",
                "ts": self._us(mark.time_ns), "args": {"sent": mark.channel_bytes},
            }  # fmt: skip
        for time_ns, count in waiting_over_time(waits, self._history.last_ns):
            yield {
                "ph": "C", "pid": _PIDS[DEST], "tid": 0, "name": f"waiting {self._history.waiter}s",
                "ts": self._us(time_ns), "args": {"waiting": count},
            }  # fmt: skip


def _meta(kind: str, side: str, tid: int, **args: str | int) -> TraceEvent:
    return {"ph": "M", "pid": _PIDS[side], "tid": tid, "name": kind, "ts": 0, "args": args}
