"""Midstream with something rigged; several things are separated by semicolons.

    stop-at EVENT PAGE   stop this process (SIGSTOP) at an event, once its file has it
    hold-page PAGE BLOCK REQUESTED   the source's background stands a quarter through a page of the
                         first block until a page of a block is requested
    hold-frame BYTES [PAGES]   of each frame of the source's background so many bytes go, and no
                         more until the limit of its bandwidth is lifted; there has to be one; so
                         many target pages go before that
    stand-at EVENT PAGE FILE TEXT   this process stands at an event until the other side's events
                         have such a line
    hold-precopy FILE TEXT   the destination takes no frame on the precopy channel but the first
                         until the source's events have such a line, and somewhat longer
    overtake-all         the source takes all that lies in its socket to lie behind much
    lose-page            the source takes a target page that the guest has written to for clean
    misplace-chunk       the destination writes a chunk's bytes to where the chunk before belongs
    place-early          the destination lets vCPUs touch pages that have not come
    stop-saving          stop this process (SIGSTOP) when a part of the guest's memory is written
    block-saving         the destination saves a part of the guest's memory, and no more, ever
    delay STAGE [FILE]   hold a wait up, once, where a stage of it begins; with the source's
                         events, only when they say that an urgent page is sent
    break-off FILE       the source loses its connections with the first request; it comes back a
                         while after the destination's events say that it has noticed
    small-buffers        the source leaves no more in the kernel than on its slowest link
    no-namespaces        the tools that make network namespaces are not there
    unprivileged         run as a user who owns nothing, if that may be had

A test that ends well with one of the three in the middle would end well with a migration that loses
memory.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import trio

from dest.executor import Executor
from dest.placement import SimulatedPlacement, UserfaultPlacement
from dest.receiver import Receiver
from dest.steps import Place
from dest.trips import Urgent
from guest import saving
from protocol.channels import Channel
from protocol.errors import ConnectionLost
from protocol.events import Event
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.messages import PageData, PageRequest, RunData
from protocol.pageset import PageSet
from protocol.runs import overlap
from scripts.links import namespaces
from scripts.screen.recorder import Recorder
from source import buffering, overtaking
from source.channel import OutChannel
from source.commands import Look, Write
from source.engine import SendEngine
from source.gate import Gate
from source.jobs import Answer
from source.migration import Migration
from source.phases import Phases
from source.reconnect import Reconnector
from source.sender import Sender
from source.steps import Do, Steps, Within

# Longer than anything else in a wait takes on an idle machine.
DELAY_SECONDS = 0.3

_NOBODY = 65534
# Far more than a test takes.
_HELD_NS_MAX = 600 * 10**9
# More than there is before anything.
_FAR_BYTES = 1 << 40
# <linux/prctl.h>
_PR_SET_DUMPABLE = 4


def stop_at(event_name: str, page: str) -> None:
    """Rig the recorder; the event that it stops at is emitted before what it tells of goes on."""
    record = Recorder.__call__
    stopped = False

    def record_and_stop(self: Recorder, event: Event, /) -> None:
        nonlocal stopped
        record(self, event)
        is_it = event.event == event_name and getattr(event, "page", None) == int(page)
        if is_it and not stopped:
            stopped = True
            self.flush()
            os.kill(os.getpid(), signal.SIGSTOP)

    Recorder.__call__ = record_and_stop  # type: ignore[method-assign]


def hold_page(index: str, block: str, requested: str) -> None:
    """Rig the source; it waits as it does for its limit, so a request breaks the page off."""
    held, key = PageId(0, int(index)), PageId(int(block), int(requested))
    allowance, take_request = Gate.allowance, SendEngine.request
    was_requested = False

    def request(self: SendEngine, page: PageId, target_page: int, now_ns: int) -> Answer | Look:
        nonlocal was_requested
        if page == key and not was_requested:
            was_requested = True
            # Else the wait would go on when all that is asked for has been served during it.
            self.reconsider()
        return take_request(self, page, target_page, now_ns)

    def allowance_unless_held(self: Gate, write: Write, now_ns: int) -> tuple[int, int]:
        whole = self.scheduler.remaining.geometry.page_span(held)
        passed = write.chunk.span.offset - whole.offset
        if write.chunk.page == held and passed >= whole.length // 4 and not was_requested:
            return 0, _HELD_NS_MAX
        return allowance(self, write, now_ns)

    SendEngine.request = request  # type: ignore[method-assign]
    Gate.allowance = allowance_unless_held  # type: ignore[method-assign]


def stand_at(event_name: str, page: str, file: str, text: str) -> None:
    """Rig the recorder, as `stop_at` does."""
    record = Recorder.__call__
    is_due = True

    def record_and_stand(self: Recorder, event: Event, /) -> None:
        nonlocal is_due
        record(self, event)
        is_it = event.event == event_name and getattr(event, "page", None) == int(page)
        if is_it and is_due:
            is_due = False
            self.flush()
            _wait_for(file, text.encode())

    Recorder.__call__ = record_and_stand  # type: ignore[method-assign]


def hold_precopy(file: str, text: str) -> None:
    """Rig the destination."""
    is_due = True

    def late(name: str) -> None:
        receive = getattr(Receiver, name)

        async def receive_late(self: Receiver, message: PageData | RunData) -> None:
            nonlocal is_due
            if is_due and self._name is Channel.PRECOPY and message.offset:
                is_due = False
                await trio.to_thread.run_sync(_wait_for, file, text.encode())
                await trio.sleep(DELAY_SECONDS)
            await receive(self, message)

        setattr(Receiver, name, receive_late)

    late("_receive_page")
    late("_receive_runs")


def overtake_all() -> None:
    """Rig the source."""
    overtaking.BEHIND_BYTES_MAX = -_FAR_BYTES


def hold_frame(count: str, pages: str = "0") -> None:
    """Rig the source."""
    allowance = Gate.allowance

    def allowance_at_first(self: Gate, write: Write, now_ns: int) -> tuple[int, int]:
        goes = write.outlet.target_pages_sent < int(pages)
        if goes or not self.pacer.bytes_per_second:
            return allowance(self, write, now_ns)
        left_bytes = int(count) - write.frame.sent
        return (left_bytes, 0) if left_bytes > 0 else (0, _HELD_NS_MAX)

    Gate.allowance = allowance_at_first  # type: ignore[method-assign]


def lose_page() -> None:
    """Rig the source."""
    stop_guest = Phases._stop_guest

    def stop_guest_and_forget(self: Phases, dirty: PageSet) -> Steps[bytes]:
        # Everything was sent and acknowledged, so what is written from here on is not there yet.
        fresh = PageSet(self._config.geometry)
        while (place := fresh.first_from(0, 0)) is None:
            # Nothing is said now.
            yield Within(Do.HEAR, 0.001)
            fresh.add_flat((yield Do.HARVEST))
        dirty.update(fresh)
        device_state = yield from stop_guest(self, dirty)
        block, target_page = place
        dirty.remove(Span(block, target_page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
        return device_state

    Phases._stop_guest = stop_guest_and_forget  # type: ignore[method-assign]


def misplace_chunk() -> None:
    """Rig the destination."""
    begin = Executor.begin
    misplaced = False

    def begin_elsewhere(
        self: Executor, channel: Channel, span: Span, urgent: Urgent | None = None
    ) -> memoryview:
        nonlocal misplaced
        view = begin(self, channel, span, urgent)
        if misplaced or span.offset < len(view):
            return view
        misplaced = True
        before = span.offset - len(view)
        return self._memory.views[span.block][before : before + len(view)]

    Executor.begin = begin_elsewhere  # type: ignore[method-assign]


def place_early() -> None:
    """Rig the destination."""

    def discard_nothing(self: object, span: Span) -> None:
        """Leave everything touchable."""

    SimulatedPlacement.discard = discard_nothing  # type: ignore[method-assign]
    UserfaultPlacement.discard = discard_nothing  # type: ignore[method-assign]


def stop_saving() -> None:
    """Rig what saves."""
    _rig_saving(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def block_saving() -> None:
    """Rig what saves; its file `saving` says that it has begun."""

    def block() -> None:
        Path("saving").touch()
        threading.Event().wait()

    _rig_saving(block)


def _rig_saving(once: Callable[[], object]) -> None:
    """Do something when the first part of a guest's memory has been written."""
    write = saving._write_sparse
    written = False

    def write_and_do(fd: int, part: memoryview) -> None:
        nonlocal written
        write(fd, part)
        if not written:
            written = True
            once()

    saving._write_sparse = write_and_do


def delay(stage: str, events: str = "") -> None:
    """Rig the side that a stage ends on."""
    owner, name, is_meant = _HELD_UP[stage]
    original = cast("Callable[..., Any]", getattr(owner, name))
    is_due = True

    def delayed(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as it has
        nonlocal is_due
        if is_due and is_meant(self, *arguments):
            is_due = False
            if events:
                _wait_for(events, rb'"event":"page-sent","block":0,"page":\d+,"channel":"postcopy"')
            time.sleep(DELAY_SECONDS)
        return original(self, *arguments, **options)

    setattr(owner, name, delayed)


def _is_waited_for(executor: Executor, place: Place, *_: object) -> bool:
    engine = executor.engine
    units = map(engine.assembly.units.page_span, engine.faults.requested_pages)
    return any(overlap(place.span, unit) for unit in units)


# What is called where a stage begins, and whether a call is for what somebody waits for.
_HELD_UP: dict[str, tuple[type, str, Callable[..., bool]]] = {
    "detect": (Executor, "fault", lambda *_: True),
    "request": (Migration, "_on_request", lambda *_: True),
    "queue": (Sender, "serve", lambda self: self.engine.scheduler.queued_requests > 0),
    "send": (
        OutChannel,
        "send_now",
        lambda self, frame, *_: self.name is Channel.POSTCOPY and frame.payload_bytes > 0,
    ),
    "receive": (Executor, "begin", lambda _, channel, *__: channel is Channel.POSTCOPY),
    "place": (Executor, "_place", _is_waited_for),
    "wake": (SimulatedPlacement, "wake", lambda *_: True),
}


def _wait_for(events: str, what: bytes) -> None:
    while not re.search(what, Path(events).read_bytes()):
        time.sleep(0.01)


def break_off(events: str) -> None:
    """Rig the source: it loses its connections with the first request, and comes back late."""
    take_request, reconnect = Migration._on_request, Reconnector.reconnect
    is_due = True

    def lose_connection(self: Migration, request: PageRequest) -> None:
        nonlocal is_due
        take_request(self, request)
        if is_due:
            is_due = False
            raise ConnectionLost("the connection broke")

    async def reconnect_late(self: Reconnector, *arguments: Any) -> Any:  # noqa: ANN401 - as it has
        await trio.to_thread.run_sync(_wait_for, events, rb'"event":"channel-lost"')
        await trio.sleep(DELAY_SECONDS)
        return await reconnect(self, *arguments)

    setattr(Migration, "_on_request", lose_connection)  # noqa: B010 - as mypy would have it
    setattr(Reconnector, "reconnect", reconnect_late)  # noqa: B010


def small_buffers() -> None:
    """Rig what a send buffer may grow to."""
    buffering.SEND_BUFFER_BYTES_MAX = buffering.SEND_BUFFER_BYTES_MIN
    buffering.WIRE_BYTES_MAX = 0


def no_namespaces() -> None:
    """Rig what makes a link."""
    namespaces.TOOLS = ("no-such-tool",)


def unprivileged() -> None:
    """Give up what this process may."""
    # What is loaded from here on may lie where that user may not look.
    import_module("scripts.doctor.command")
    for codec in ("ascii", "idna"):
        codecs.lookup(codec)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        # Who changes its user may not look at itself, until it is another program or says so.
        assert ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1) == 0


RIGS: dict[str, Callable[..., None]] = {
    "stop-at": stop_at,
    "hold-page": hold_page,
    "hold-frame": hold_frame,
    "stand-at": stand_at,
    "hold-precopy": hold_precopy,
    "overtake-all": overtake_all,
    "lose-page": lose_page,
    "misplace-chunk": misplace_chunk,
    "place-early": place_early,
    "delay": delay,
    "break-off": break_off,
    "stop-saving": stop_saving,
    "block-saving": block_saving,
    "small-buffers": small_buffers,
    "no-namespaces": no_namespaces,
    "unprivileged": unprivileged,
}


def rig_up(rig: str) -> None:
    """Rig this process, which is to run a midstream command afterwards."""
    for each in rig.split(";"):
        name, *arguments = each.split()
        RIGS[name](*arguments)
