"""Sends every client the present whole, and then what changes; who is too slow is dropped.

The present is a *frame*, JSON of all that a page shows; `changes` of two frames, put over the
first, make the second.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import trio

from scripts.screen.phases import percent_done, phase_words, time_left
from scripts.views.live import LiveState

Frame = dict[str, Any]

# So many cells a browser draws in a moment, and they are some kilobytes.
CELLS_MAX = 8192
# What a frame tells of the past: a minute, at four samples a second.
SAMPLES_MAX = 240
# More changes than this share of a block's cells, and the block is sent whole.
_WHOLE_SHARE = 0.25


class FrameMaker:
    """Makes frames, one after the other, of one run."""

    def __init__(self) -> None:
        """Start without a past."""
        self._samples: deque[list[float]] = deque(maxlen=SAMPLES_MAX)
        self._sample_count = 0

    def frame(self, state: LiveState, now_ns: int) -> Frame:
        """Return the present."""
        age_ns = state.age_ns(now_ns)
        elapsed_ms = 0.0 if age_ns is None else age_ns / 1e6
        rates = state.rates()
        waiters = state.waiters
        self._samples.append([round(elapsed_ms), *map(round, rates.values()), len(waiters)])
        self._sample_count += 1
        waits = state.waits
        return {
            "state": state.state,
            "phase": phase_words(state.state, state.passes, state.filled),
            "percent": percent_done(state.done),
            "left": ""
            if state.is_over
            else time_left(state.state, state.remaining_bytes, sum(rates.values())),
            "downtime_ms": state.downtime_ms,
            "over": state.is_over,
            "policy": state.policy,
            "pass": state.passes + 1,
            "elapsed_ms": None if age_ns is None else round(elapsed_ms, 1),
            "knows_waits": state.knows_waits,
            "knows_rates": state.knows_rates,
            "knows_pages": state.knows_pages,
            "remaining_bytes": state.remaining_bytes,
            "done": round(state.done, 4),
            "carried": dict(state.carried),
            "rates": {name: round(rate) for name, rate in rates.items()},
            "vcpus": state.vcpus,
            "waiters": [
                [
                    waiter.vcpu,
                    state.blocks[waiter.block].name if waiter.block in state.blocks else "",
                    waiter.page,
                    round(state.waited_ns(waiter, now_ns) / 1e6, 1),
                ]
                for waiter in waiters
            ],
            "requests": state.requests,
            "preempted": state.preempted,
            "boosted": state.boosted,
            "waits": {
                "count": waits.count, "p50_us": waits.p50_us, "p90_us": waits.p90_us,
                "p99_us": waits.p99_us, "max_us": waits.max_us,
            },
            "blocks": [
                {
                    "name": block.name,
                    "pages": block.pages,
                    "page_bytes": block.page_bytes,
                    "cells": cells.tobytes(),
                }
                for block, cells in (state.cells(CELLS_MAX) if state.blocks else [])
            ],
            "samples": list(self._samples),
            "sample_count": self._sample_count,
        }  # fmt: skip


def whole(frame: Frame) -> Frame:
    """Return a frame as JSON has it."""
    return {
        **frame,
        "blocks": [{**block, "cells": _text(block["cells"])} for block in frame["blocks"]],
    }


def changes(before: Frame, after: Frame) -> Frame:
    """Return what has changed from one frame to the next, as JSON has it.

    Fields that are the same are missing.  Of a block that has changed, `cells` are pairs of number
    and status, or all of them in a text; of the samples only the new ones come.
    """
    changed = {
        name: value
        for name, value in after.items()
        if name not in {"blocks", "samples"} and before.get(name) != value
    }
    new = min(after["sample_count"] - before["sample_count"], len(after["samples"]))
    changed["samples"] = after["samples"][len(after["samples"]) - new :]
    blocks = _changed_blocks(before["blocks"], after["blocks"])
    if blocks:
        changed["blocks"] = blocks
    return changed


def _changed_blocks(before: list[Frame], after: list[Frame]) -> list[Frame]:
    changed = []
    for index, block in enumerate(after):
        old = before[index]["cells"] if index < len(before) else b""
        new = block["cells"]
        if old == new:
            continue
        if len(old) != len(new):
            # Not seen before.
            changed.append({"index": index, **block, "cells": _text(new)})
            continue
        pairs = [
            [at, now] for at, (was, now) in enumerate(zip(old, new, strict=True)) if was != now
        ]
        cells = _text(new) if len(pairs) > _WHOLE_SHARE * len(new) else pairs
        changed.append({"index": index, "cells": cells})
    return changed


def _text(cells: bytes) -> str:
    return base64.b64encode(cells).decode()


# A client that has not taken so many messages, some seconds' worth, does not keep up.
QUEUE_MAX = 16
# More people hardly watch one run.
CLIENTS_MAX = 16


class TooManyClients(Exception):
    """As many clients as there may be are here already."""


class Client:
    """One who watches.

    Attributes:
        messages: What it is sent, to its end; each a whole server-sent event.
        scope: Is cancelled when it does not keep up.
    """

    def __init__(self) -> None:
        """Start with an empty queue."""
        self.scope = trio.CancelScope()
        self._send, self.messages = trio.open_memory_channel[bytes](QUEUE_MAX)

    def put(self, message: bytes) -> bool:
        """Queue a message; return whether there was room."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            return False
        return True

    def end(self) -> None:
        """Let it have what is queued, and then no more."""
        self._send.close()


class Broadcast:
    """The present of one run, for any number of clients up to CLIENTS_MAX.

    Attributes:
        dropped: How many clients did not keep up and were cut off.
    """

    def __init__(self) -> None:
        """Start before anything is known."""
        self._maker = FrameMaker()
        self._frame: Frame | None = None
        self._clients: set[Client] = set()
        self._gone = trio.Event()
        self._over = False
        self.dropped = 0

    def show(self, state: LiveState, now_ns: int) -> None:
        """Send what has changed; nothing after the farewell."""
        if self._over:
            return
        before, self._frame = self._frame, self._maker.frame(state, now_ns)
        if before is None:
            self._send("whole", whole(self._frame))
        elif self._clients:
            self._send("changes", changes(before, self._frame))

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Add a client for the block; the first message is the present.

        Raises:
            TooManyClients: There are as many as may be.
        """
        if len(self._clients) >= CLIENTS_MAX or self._over:
            raise TooManyClients
        client = Client()
        if self._frame is not None:
            client.put(_message("whole", whole(self._frame)))
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._gone.set()

    async def farewell(self, *, stays: bool = False) -> None:
        """Send all clients the end of the run, and wait until they have it.

        With `stays` they are told that the whole run can be had here a moment later.  Cancelled, it
        counts those who have not heard it as dropped.
        """
        self._over = True
        self._send("end", {"stays": stays})
        if not self._clients:
            return
        self._gone = trio.Event()
        for client in self._clients:
            client.end()
        try:
            await self._gone.wait()
        finally:
            self.dropped += len(self._clients)

    def _send(self, event: str, data: Frame) -> None:
        message = _message(event, data)
        for client in tuple(self._clients):
            if not client.put(message):
                # A client that does not read must not hold on to anything here.
                client.scope.cancel()
                self._clients.discard(client)
                self.dropped += 1


def _message(event: str, data: Frame) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(data))
