"""A whole source and a whole destination in this process, and a proxy between them that breaks.

The guest is a fake one (tests/helpers.py): no vCPU runs, but pages can be touched, so that requests
are open.  Everything else is as it is: sockets, handshakes, memory, both sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from dest.config import DestConfig
from dest.session import DestSession
from protocol import events
from protocol.capabilities import offer
from protocol.errors import MidstreamError
from protocol.geometry import Geometry
from protocol.messages import PROTOCOL_VERSION, Hello
from protocol.wire import encode
from scripts.injection.actions import NetworkAction
from scripts.injection.proxy import Proxy
from scripts.injection.tap import Mark, Marks
from source.session import SourceSession
from tests.helpers import (
    KIB,
    FakeGuests,
    Recorder,
    bare,
    source_config,
)

Breaks = dict[Mark, NetworkAction]

# What the postcopy channel has carried by then.
HELLO = encode(
    Hello(version=PROTOCOL_VERSION, session=bytes(16), role="postcopy", capabilities=offer())
)


@dataclass
class Run:
    """How a run ended.

    Attributes:
        reports: By side, of those that ended well.
        errors: By side, of the others, and of those that found wrong memory.
        events: By side.
        passed: How many bytes passed on each channel, each way.
    """

    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, MidstreamError] = field(default_factory=dict)
    events: dict[str, Recorder] = field(default_factory=dict)
    passed: dict[Any, int] = field(default_factory=dict)

    def states(self, side: str) -> list[str]:
        """Return the states that a side went through."""
        return self.events[side].states

    @property
    def last_byte_of_switch_over(self) -> int:
        """How many bytes had gone over the precopy channel when the guest was handed over."""
        ram = self.reports["source"]["ram"]
        return int(ram["precopy-bytes"] + ram["downtime-bytes"]) - len(HELLO)


class Breaking:
    """Runs migrations over a proxy.

    Attributes:
        guests: By side, the guests of all runs, the last one last.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have both sessions use fake guests."""
        self.guests = {"source": FakeGuests(), "dest": FakeGuests()}
        for side, guests in self.guests.items():
            monkeypatch.setattr(f"{side}.session.open_guest", guests.open)

    async def run(
        self,
        geometry: Geometry,
        breaks: Breaks,
        *,
        touch: Iterable[int] = (),
        dest: dict[str, Any] | None = None,
        **source: Any,  # noqa: ANN401 - of the configuration
    ) -> Run:
        """Migrate to the end, however that is.

        Args:
            geometry: The guest.
            breaks: What to do to the network, and at which byte.
            touch: Flat target pages that vCPUs touch as soon as the guest runs there.
            dest: Of the destination's configuration.
            **source: Of the source's configuration.
        """
        run = Run(events={"source": Recorder(), "dest": Recorder()})
        marks = Marks(geometry, breaks)
        proxy = Proxy(marks, lambda mark: proxy.act(breaks[mark]))
        settings: dict[str, Any] = {"backing": "base", "wait_seconds": 5.0} | (dest or {})
        listening = trio.Event()
        address = ""

        def listens(where: str) -> None:
            nonlocal address
            address = where
            listening.set()

        untouched = list(enumerate(touch))

        def touched() -> None:
            guest = self.guests["dest"].made[-1]
            for vcpu, flat in untouched:
                guest.fault(vcpu, flat)
            untouched.clear()

        run.events["dest"].on(events.STATE, touched, state="postcopy-active")
        taker = DestSession(
            DestConfig(host="127.0.0.1", port=0, **settings), run.events["dest"], listens,
            lambda _: None,
        )  # fmt: skip

        async def give() -> None:
            await listening.wait()
            host, _, port = address.rpartition(":")
            near = await nursery.start(proxy.serve, host, int(port))
            config = source_config(
                geometry, int(near.rpartition(":")[2]),
                **({"reconnect_seconds": 4.0, "chunk_bytes": 64 * KIB} | source),
            )  # fmt: skip
            await self._end(run, "source", SourceSession(config, run.events["source"]).run)

        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as sides:
                sides.start_soon(give)
                await self._end(run, "dest", taker.run)
            run.passed = marks.passages
            nursery.cancel_scope.cancel()
        return run

    async def _end(self, run: Run, side: str, session: Callable[[], Any]) -> None:
        try:
            result = await session()
            run.reports[side] = result.report
            if result.problem is not None:
                run.errors[side] = result.problem
        except MidstreamError as error:
            run.errors[side] = bare(error)
