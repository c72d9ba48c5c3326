"""One run of a scenario: both sides as real processes, the proxy between them, the director.

Whatever happens, `run` returns in bounded time and leaves no process behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from protocol import events
from protocol.addresses import parse_host_port
from protocol.errors import MigrationError
from protocol.geometry import PageId
from scripts.credentials import with_secret
from scripts.injection.actions import NetworkAction, ProcessAction
from scripts.injection.director import Director, script_of
from scripts.injection.marks import Direction, Marks
from scripts.injection.outcome import Outcome
from scripts.injection.proxy import Proxy
from scripts.injection.qemu import carriers_told, differing_target_pages
from scripts.injection.scenario import Scenario, has_proxy, held_pages, wire_marks
from scripts.injection.storm import Passages
from scripts.links.link import proxy_of
from scripts.options import DEST, OPTIONS, SOURCE
from scripts.processes.child import Child
from scripts.processes.launcher import END_SECONDS_MAX, LAST_WORDS_SECONDS_MAX, LISTENING
from scripts.provenance import describe, run_of
from scripts.qemu.command import QemuRun
from scripts.reports import Outputs, amend_report
from scripts.run_config import Access, DestRun, SourceRun, to_json, to_plain
from scripts.runtime.parent import LinkNote, Orders
from scripts.runtime.spawn import spawn
from scripts.screen.output import tell

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT}

# What is read of the events at once.
_READ_BYTES = 64 * 1024

# Sides write an event before they go on; this much they may write before we have to read.
_PIPE_BYTES = 1 << 20


class Trial:
    """A run; `run` once.  It is the stage of its own director."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        """Prepare.

        Args:
            scenario: What to run.
            folder: An existing folder of its own; `events.jsonl` and `report.json` are left in it.
        """
        self._scenario = scenario
        self._folder = folder
        watched = {*scenario.expect.watched, *held_pages(scenario)}
        self._marks = Marks(scenario.geometry, wire_marks(scenario), watched)
        self._proxy: Proxy | None = None
        self._children: dict[str, Child] = {}
        self._events: list[dict[str, Any]] = []
        self._rest = b""
        self._met = False
        self._timed_out = False
        self._touches_fd = -1
        # Each run has its own, or the scenario's.
        self._access = with_secret(scenario.access)
        self._nursery: trio.Nursery | None = None
        self._run = run_of("inject", OPTIONS, scenario.values, scenario.given)
        self.director = Director(scenario, self, self._start_soon)

    async def run(self) -> Outcome:
        """Run it; return how it ended.

        Raises:
            MigrationError: It could not be begun.
        """
        with _pipe(self._folder / "events.pipe") as events_fd, self._touches_pipe():
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._follow_events, events_fd)
                try:
                    with trio.move_on_after(self._scenario.timeout_ms / 1000) as scope:
                        await self._run_sides()
                    self._timed_out = scope.cancelled_caught
                finally:
                    with trio.CancelScope(shield=True):
                        await self._end_sides()
                self._nursery.cancel_scope.cancel()
            self._take_events(events_fd)
        self._write_events()
        return self._outcome()

    @property
    def passages(self) -> Passages:
        """How many bytes have passed the proxy on each channel, each way."""
        return self._marks.passages

    def touch(self, pages: Sequence[PageId], target_page: int) -> None:
        """Make vCPUs of the destination touch pages, the n-th 4 KiB of each."""
        lines = "".join(f"{page.block} {page.index} {target_page}\n" for page in pages)
        os.write(self._touches_fd, lines.encode())

    def network(self, action: NetworkAction) -> None:
        """Do something to the connections."""
        assert self._proxy is not None, "a scenario with network actions has a proxy"
        self._proxy.act(action)

    def process(self, action: ProcessAction) -> None:
        """Do something to a side's process."""
        if action.side in self._children:
            self._children[action.side].send_signal(_SIGNALS[action.do])
        if action.for_ms is not None:
            self._start_soon(self._continue_later, action)

    def stand_still(self, ways: Collection[Direction]) -> None:
        """Let nothing pass in these directions, and everything in the others."""
        assert self._proxy is not None, "without one nothing is made to stand still"
        self._proxy.stand_still(ways)

    def _start_soon(self, task: Any, *arguments: Any) -> None:  # noqa: ANN401 - as in trio
        assert self._nursery is not None
        self._nursery.start_soon(task, *arguments)

    async def _continue_later(self, action: ProcessAction) -> None:
        await trio.sleep((action.for_ms or 0) / 1000)
        self.process(ProcessAction("continue", action.side))

    async def _run_sides(self) -> None:
        assert self._nursery is not None
        dest = self._start_dest()
        host, port = parse_host_port(await dest.read_line(LISTENING))
        if has_proxy(self._scenario):
            self._proxy = Proxy(
                self._marks,
                self.director.reached,
                self.director.requested,
                link_rate=self._scenario.link.bytes_per_second,
                seed=self._scenario.program.seed,
            )
            address = await self._nursery.start(self._proxy.serve, host, port)
            host, port = parse_host_port(address)
        self.director.begin()
        self._start_source(host, port)
        async with trio.open_nursery() as nursery:
            for child in self._children.values():
                nursery.start_soon(self._wait, child, nursery.cancel_scope)

    async def _wait(self, child: Child, scope: trio.CancelScope) -> None:
        """Wait for a side; when it has failed, the other has not for ever to notice."""
        status = await child.wait()
        self.director.ended()
        if status:
            scope.deadline = min(scope.deadline, trio.current_time() + END_SECONDS_MAX)
        if child is not self._children[DEST] and not self._met:
            # The destination would wait for another.
            self._children[DEST].interrupt()

    def _start_dest(self) -> Child:
        scenario, is_of_qemu = self._scenario, self._scenario.qemu is not None
        config = replace(
            scenario.dest, host="127.0.0.1", steps=script_of(scenario),
            touches=self._folder / "touches.pipe", save=self._memory(DEST),
        )  # fmt: skip
        run = DestRun.of(
            config,
            # A QEMU knows of no secret, so its destination demands none.
            Access() if is_of_qemu else self._access,
            # With a QEMU it is the one of the two that reports, and that says what vCPUs do.
            self._outputs(reports=is_of_qemu),
            scenario.program if is_of_qemu else None,
        )
        return self._start(DEST, to_json("qemu-dest" if is_of_qemu else DEST, run))

    def _start_source(self, host: str, port: int) -> None:
        scenario, outputs = self._scenario, self._outputs(reports=self._scenario.qemu is None)
        if scenario.qemu is not None:
            config = to_plain(replace(scenario.qemu, save=self._memory(SOURCE)))
            qemu = QemuRun(config=config, address=(host, port), outputs=outputs)
            self._start(SOURCE, to_json("qemu", qemu))
            return
        run = SourceRun.of(scenario.source, scenario.program, self._access, outputs)
        link = proxy_of(scenario.link).note
        self._start(SOURCE, to_json(SOURCE, replace(run, address=(host, port))), link)

    def _outputs(self, *, reports: bool) -> Outputs:
        report = str(self._folder / "report.json") if reports else None
        return Outputs(report=report, events=str(self._folder / "events.pipe"), quiet=True)

    def _start(self, side: str, run: bytes, link: LinkNote | None = None) -> Child:
        orders = Orders(shares_events=True, tells_at_once=True, link=link)
        child = Child(spawn(side, run=run, capture=True, orders=orders))
        self._children[side] = child

        def pass_on(line: str) -> None:
            if child.has_crashed:
                tell(line)

        self._start_soon(child.collect_errors, pass_on)
        return child

    def _memory(self, side: str) -> Path | None:
        """Return where a side leaves its memory, if that is to be looked at."""
        return self._folder / f"{side}.memory" if self._scenario.expect.compares else None

    async def _end_sides(self) -> None:
        for child in self._children.values():
            # A side that still runs has been waited for long enough; a stopped one cannot end.
            child.kill()
        for child in self._children.values():
            await child.end(LAST_WORDS_SECONDS_MAX)

    async def _follow_events(self, fd: int) -> None:
        while True:
            await trio.lowlevel.wait_readable(fd)
            self._take_events(fd)

    def _take_events(self, fd: int) -> None:
        """Read what the sides have written so far."""
        while True:
            try:
                data = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take_event(json.loads(line))

    def _take_event(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        self._met = self._met or (event["side"], event["event"]) == (DEST, events.State.event)
        self.director.event(event)

    @contextmanager
    def _touches_pipe(self) -> Iterator[None]:
        with _pipe(self._folder / "touches.pipe") as self._touches_fd:
            yield

    def _write_events(self) -> None:
        lines = sorted([*self._events, *self.director.log], key=lambda event: event["t-ns"])
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        (self._folder / "events.jsonl").write_text(text, encoding="utf-8")

    def _outcome(self) -> Outcome:
        report = self._folder / "report.json"
        # A side knows what it is to do, and not what its options were.
        amend_report(str(report), partial(describe, run=self._run))
        carriers = self._marks.carriers
        if self._scenario.qemu is not None:
            carriers = carriers_told(self._scenario.expect.watched, self._events)
        ours, theirs = self._memory(SOURCE), self._memory(DEST)
        differing = differing_target_pages(ours, theirs) if ours and theirs else None
        return Outcome(
            statuses={side: child.status for side, child in self._children.items()},
            reasons=self._reasons(),
            events=self._events,
            report=json.loads(report.read_text(encoding="utf-8")) if report.exists() else None,
            carriers=carriers,
            passings=self._marks.passings,
            unfired=self.director.unfired(),
            timed_out=self._timed_out,
            differing_target_pages=differing,
        )

    def _reasons(self) -> Mapping[str, str]:
        return {side: child.last_words for side, child in self._children.items() if child.status}


@contextmanager
def _pipe(path: Path) -> Iterator[int]:
    """Make a named pipe, open at both ends so that it has no end of file before we say so."""
    try:
        os.mkfifo(path)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MigrationError(f"{path}: {error.strerror}") from error
    with suppress(OSError):
        # A user may have only so much; with less, sides wait for us a little more often.
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    try:
        yield fd
    finally:
        os.close(fd)
        path.unlink()
