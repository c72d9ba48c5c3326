"""A guest that is this side's is saved once, seen through, and its loss told in every state."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from dest import keeping
from dest.engine import Engine
from dest.keeping import Keeper
from dest.phases import Phases
from dest.steps import Discard, SaveRest, Terms
from guest.memory import GuestMemory
from guest.saving import save_image
from guest.slices import Job
from protocol import events
from protocol.channels import Channel
from protocol.errors import (
    ConnectionLost,
    GuestFailed,
    MemoryLost,
    MigrationCancelled,
    PeerAborted,
    RemoteProtocolError,
)
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.pageset import PageSet
from protocol.policy import preset
from protocol.states import Event, Lifecycle
from tests.bounds import bounded
from tests.guests import patterned_memory, small_geometry
from tests.stories import Recorder

GEOMETRY = small_geometry()
HERE = "the guest is at the destination, "
TERMS = Terms(
    peer="the source", ending=tuple(Channel), recovers=True, gives_verdict=True, rest_seconds=0.0,
    linger_seconds=2.0,
)  # fmt: skip


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """A guest's memory, full of a pattern."""
    with patterned_memory(GEOMETRY) as memory:
        yield memory


def content(memory: GuestMemory) -> bytes:
    """Return all blocks one after another."""
    return b"".join(bytes(view) for view in memory.views)


def names(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


class Held:
    """A save that stands still after its first slice until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hold whoever saves from now on."""
        self.begun, self.released = threading.Event(), threading.Event()
        self.count = 0
        self._save = save_image
        monkeypatch.setattr(keeping, "save_image", self._held)

    def _held(self, memory: GuestMemory, path: Path) -> Job[None]:
        self.count += 1
        for done_bytes in self._save(memory, path):
            yield done_bytes
            self.begun.set()
            assert self.released.wait(30)

    async def has_begun(self) -> None:
        """Wait for the first slice."""
        assert await trio.to_thread.run_sync(self.begun.wait, 30)


async def test_a_guest_is_saved_once(memory: GuestMemory, tmp_path: Path) -> None:
    """Whoever asks, and however often: all return when it is there."""
    keeper = Keeper(memory, tmp_path / "guest")
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            async with trio.open_nursery() as callers:
                for _ in range(3):
                    callers.start_soon(keeper.save)
            assert (tmp_path / "guest").read_bytes() == content(memory)
            (tmp_path / "guest").unlink()
            await keeper.save()
            nursery.cancel_scope.cancel()
    assert keeper.is_saved
    assert not (tmp_path / "guest").exists()


async def test_who_wants_no_file_waits_for_none(memory: GuestMemory) -> None:
    """Without a path nothing is done, and nothing is said."""
    keeper = Keeper(memory, None)
    await keeper.save()
    assert await keeper.save_rest(PageSet(GEOMETRY), hurried=False) == ""


async def test_a_guest_that_does_not_fit_is_refused(memory: GuestMemory, tmp_path: Path) -> None:
    """Before it has come, and while its source has all of it."""

    def statvfs(_: Path) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 100, 99, 99, 0, 0, 0, 0, 255))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", statvfs)
        with pytest.raises(GuestFailed, match=r"cannot save.*guest: 396 KiB are free there"):
            Keeper(memory, tmp_path / "guest")


async def test_a_cancelled_save_is_seen_through(
    memory: GuestMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cancels while a file is written waits for it; it is not begun anew, and is told of."""
    held = Held(monkeypatch)
    keeper = Keeper(memory, tmp_path / "guest")
    with bounded(), trio.CancelScope() as scope:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                nursery.start_soon(keeper.save)
                await held.has_begun()
                scope.cancel()
                held.released.set()
        except trio.Cancelled as cancelled:
            error, _ = await lose(ran(missing=0), keeper, cancelled)
            assert isinstance(error, MigrationCancelled)
            assert str(error) == f"{HERE}all memory of the guest is here, in {tmp_path / 'guest'}"
            raise
    assert scope.cancelled_caught
    assert held.count == 1
    assert (tmp_path / "guest").read_bytes() == content(memory)


@contextmanager
def unread_pipe(folder: Path) -> Iterator[Path]:
    """A named pipe that somebody has opened and does not read."""
    path = folder / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield path
    finally:
        os.close(reader)


async def test_a_pipe_that_nobody_reads_does_not_hold_who_cancels(
    memory: GuestMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing moves, so nothing is waited for; what comes to the pipe was written once."""
    monkeypatch.setattr(keeping, "STALL_SECONDS_MAX", 0.02)
    with unread_pipe(tmp_path) as path, bounded():
        keeper = Keeper(memory, path)
        with trio.CancelScope() as scope, suppress(BaseExceptionGroup):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                nursery.start_soon(keeper.save)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        failure = f"; cannot save the guest to {path}: nobody reads it"
        assert await keeper.save_rest(PageSet(GEOMETRY), hurried=True) == failure
        keeper = Keeper(memory, path)
        assert await keeper.save_rest(PageSet(GEOMETRY), hurried=True) == failure


async def test_a_pipe_that_is_read_is_waited_for(memory: GuestMemory, tmp_path: Path) -> None:
    """As long as somebody takes what comes, who cancels gets a whole guest."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append(path.read_bytes()))
    reader.start()
    keeper = Keeper(memory, path)
    with bounded(), trio.CancelScope() as scope:
        scope.cancel()
        told = await keeper.save_rest(PageSet(GEOMETRY), hurried=True)
    reader.join(30)
    assert told == f", in {path}"
    assert taken == [content(memory)]


def ran(*, missing: int, paused: bool = False, emit: Recorder | None = None) -> Phases:
    """Return the phases of a guest that runs here, and that misses so many target pages."""
    emit = emit or Recorder()
    lifecycle = Lifecycle(emit)
    for event in (Event.CONNECTED, Event.PREPARED):
        lifecycle.fire(event)
    engine = Engine(GEOMETRY, preset("ordered"), emit, vcpu_count=1)
    phases = Phases(GEOMETRY, engine, lifecycle, emit, TERMS, 90.0)
    bits = np.packbits(np.arange(8) < missing, bitorder="little").tobytes()
    engine.assembly.discard(0, 0, 8, bits)
    for step in phases.switch_over((), postcopy=True):
        if isinstance(step, Discard):
            engine.start_postcopy()
    if paused:
        lifecycle.interrupt()
    return phases


async def lose(
    phases: Phases, keeper: Keeper, cause: BaseException
) -> tuple[BaseException, list[str]]:
    """Do as a migration does; return how a failure is told, and what was done before."""
    steps, answer, done = phases.lose(cause), None, list[str]()
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as stop:
            return stop.value, done
        done.append(type(step).__name__)
        if isinstance(step, SaveRest):
            answer = await keeper.save_rest(step.missing, hurried=step.is_hurried)


async def outcome(
    phases: Phases, memory: GuestMemory, save: Path | None, cause: BaseException | None = None
) -> tuple[BaseException, list[str]]:
    """Return what becomes of a migration that its user cancels, or of another cause."""
    result: list[tuple[BaseException, list[str]]] = []
    with bounded(), trio.CancelScope() as scope:
        call = partial(lose, phases, Keeper(memory, save))
        if cause is not None:
            result.append(await call(cause))
        else:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                result.append(await call(cancelled))
    return result[0]


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("save", [False, True])
async def test_who_cancels_in_postcopy_loses_memory(
    memory: GuestMemory, tmp_path: Path, paused: bool, save: bool
) -> None:
    """Paused or not: what is missing is lost and told, what is here is saved with its map."""
    path = tmp_path / "guest" if save else None
    emit = Recorder()
    error, done = await outcome(ran(missing=3, paused=paused, emit=emit), memory, path)
    assert isinstance(error, MemoryLost)
    reason = "its user waits no longer for the source" if paused else "cancelled by its user"
    told = f"{reason}; {HERE}memory of the guest is lost: 3 target pages (12 KiB), ram 0-2"
    saved = f"; what is here is in {path}, what is missing in guest.missing.json" if save else ""
    assert str(error) == told + saved
    assert done == ["Forget", "SaveRest"]
    assert [event["bytes"] for event in emit.of(events.MemoryLost)] == [3 * TARGET_PAGE_BYTES]
    assert names(tmp_path) == (["guest", "guest.missing.json"] if save else [])


async def test_who_cancels_with_all_memory_here(memory: GuestMemory, tmp_path: Path) -> None:
    """Nothing is lost: it is saved whole, and else it was a cancellation like any other."""
    error, _ = await outcome(ran(missing=0), memory, tmp_path / "guest")
    assert isinstance(error, MigrationCancelled)
    assert (tmp_path / "guest").read_bytes() == content(memory)
    assert names(tmp_path) == ["guest"]
    error, _ = await outcome(ran(missing=0), memory, None)
    assert isinstance(error, trio.Cancelled)


@pytest.mark.parametrize(
    "cause", [ConnectionLost("cut"), PeerAborted("no power"), RemoteProtocolError("nonsense")]
)
async def test_a_source_that_is_gone(memory: GuestMemory, tmp_path: Path, cause: Exception) -> None:
    """Its reason is told, with what is lost; or with where the whole guest is."""
    error, _ = await outcome(ran(missing=1), memory, tmp_path / "part", cause)
    assert isinstance(error, MemoryLost)
    assert str(error).startswith(f"{cause}; {HERE}memory of the guest is lost: 1 target page")
    error, _ = await outcome(ran(missing=0), memory, tmp_path / "whole", cause)
    assert type(error) is type(cause)
    whole = f"all memory of the guest is here, in {tmp_path / 'whole'}"
    assert str(error) == f"{cause}; {HERE}{whole}"


@pytest.mark.parametrize("cause", [None, ConnectionLost("cut")])
async def test_a_guest_that_is_not_here_is_not_lost(
    memory: GuestMemory, tmp_path: Path, cause: Exception | None
) -> None:
    """Until the switch-over the source has it: nothing is saved, nothing is said of memory."""
    phases = ran(missing=5)
    phases.handed_over = False
    error, done = await outcome(phases, memory, tmp_path / "guest", cause)
    assert error is cause if cause else isinstance(error, trio.Cancelled)
    assert done == []
    assert names(tmp_path) == []


async def test_a_good_guest_is_left(memory: GuestMemory, tmp_path: Path) -> None:
    """The line says where the part is, and that the file before it is as it was."""
    path = tmp_path / "guest"
    path.write_bytes(b"whole")
    error, _ = await outcome(ran(missing=1), memory, path)
    assert f"what is here is in {path}.partial, what is missing in guest.partial" in str(error)
    assert f"{path}, saved before, is left as it was" in str(error)
    assert path.read_bytes() == b"whole"


async def test_a_save_that_fails_is_told_with_the_loss(memory: GuestMemory, tmp_path: Path) -> None:
    """Memory is lost whether the rest can be saved or not; the line has both."""
    (tmp_path / "guest.missing.json").mkdir()
    error: Any
    error, _ = await outcome(ran(missing=1), memory, tmp_path / "guest")
    assert isinstance(error, MemoryLost)
    assert "1 target page" in str(error)
    assert "cannot save the guest to" in str(error)
