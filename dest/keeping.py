"""Keeps a guest that is this side's: saves its memory, whole or as much as there will ever be.

From the switch-over on, this side holds what nobody else has.  So whatever ends a migration from
then on, its user included, what is here is saved first, if there is a file for it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import trio

from dest.missing import missing_to_plain
from guest.memory import GuestMemory
from guest.saving import Partial, check_room, save_image, save_partial
from guest.slices import Job, in_thread
from guest.whole_file import is_regular_target
from protocol.errors import GuestFailed, root_cause
from protocol.pageset import PageSet

T = TypeVar("T")

# How long a pipe or device may take for some megabytes once the user wants the end.  A disk takes
# what it takes: a second signal ends that, too.
STALL_SECONDS_MAX = 1.0


class Keeper:
    """Saves one guest, if its user wants that: once, whoever asks and however often."""

    def __init__(self, memory: GuestMemory, path: Path | None) -> None:
        """Keep a guest's memory.

        Args:
            memory: The guest's.
            path: Where it is saved; None for nowhere.

        Raises:
            GuestFailed: There is no room for it.
        """
        self.path = path
        self.is_saved = False
        self._memory = memory
        self._wanted, self._done = trio.Event(), trio.Event()
        self._failure: GuestFailed | None = None
        if path is not None:
            check_room(path, memory.geometry.length_bytes)

    async def run(self) -> None:
        """Save the whole guest once `save` has been called; run it beside the migration.

        What is cancelled meanwhile waits until a file is complete: nobody else has that guest.

        Raises:
            GuestFailed: It cannot be saved.
        """
        await self._wanted.wait()
        assert self.path is not None
        try:
            await _see_through(save_image(self._memory, self.path), self.path)
        except GuestFailed as error:
            self._failure = error
            raise
        self.is_saved = True
        self._done.set()

    async def save(self) -> None:
        """Save all of the guest's memory; return when it is saved.  Safe to cancel."""
        if self.path is not None:
            self._wanted.set()
            await self._done.wait()

    async def save_rest(self, missing: PageSet, *, hurried: bool) -> str:
        """Save what is here of a guest whose migration has ended; return in words what came of it.

        Args:
            missing: What is not here.
            hurried: The user wants the end: a pipe that nobody reads is not waited for.
        """
        if self.path is None:
            return ""
        if self._failure is not None:
            # It would fail again, and a pipe has had the beginning.
            return f"; {self._failure}"
        try:
            if len(missing):
                lacking = json.dumps(missing_to_plain(missing)).encode() + b"\n"
                job = save_partial(self._memory, self.path, lacking)
                return _told(self.path, await _see_through(job, self.path, hurried=hurried))
            if not self.is_saved:
                job_of_all = save_image(self._memory, self.path)
                await _see_through(job_of_all, self.path, hurried=hurried)
                self.is_saved = True
        except GuestFailed as error:
            return f"; {error}"
        return f", in {self.path}"


def _told(path: Path, partial: Partial) -> str:
    """Return in words where a part of a guest and its map are."""
    told = f"; what is here is in {partial.path}"
    if partial.map_path is not None:
        told += f", what is missing in {partial.map_path.name}"
    return told if partial.path == path else f"{told}; {path}, saved before, is left as it was"


async def _see_through(job: Job[T], path: Path, *, hurried: bool = False) -> T:
    """Run a job that writes to a path to its end, cancelled or not.

    A file is waited for though its user wants the end.  A pipe or device that takes nothing is not.

    Args:
        job: Writes.
        path: Where to.
        hurried: The user wants the end already.

    Raises:
        GuestFailed: It failed, or nobody reads the pipe and the user wants the end.
    """
    if is_regular_target(path):
        with trio.CancelScope(shield=True):
            return await in_thread(job)
    progress = _Progress()
    result: list[T] = []
    try:
        async with trio.open_nursery() as nursery:
            writing = trio.CancelScope(shield=True)
            nursery.start_soon(_lose_patience, progress, writing, hurried)
            with writing:
                result.append(await in_thread(progress.follow(job)))
            progress.is_done = True
            nursery.cancel_scope.cancel()
    except BaseException as error:  # noqa: BLE001 - raised again as its root cause
        if not result:
            raise root_cause(error) from None
    if not result:
        raise GuestFailed(f"cannot save the guest to {path}: nobody reads it")
    return result[0]


class _Progress:
    """How far a job is; its thread writes, the event loop reads.

    Attributes:
        bytes: What it has done so far.
        is_done: It has ended, this way or that.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.is_done = False

    def follow(self, job: Job[T]) -> Job[T]:
        """Return the same job, counted."""
        try:
            while True:
                try:
                    done_bytes = next(job)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                self.bytes += done_bytes
                yield done_bytes
        finally:
            job.close()


async def _lose_patience(progress: _Progress, writing: trio.CancelScope, hurried: bool) -> None:
    """Once this task is cancelled, or at once, end what makes no progress."""
    if not hurried:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()
    with trio.CancelScope(shield=True):
        while not progress.is_done:
            before_bytes = progress.bytes
            await trio.sleep(STALL_SECONDS_MAX)
            if progress.bytes == before_bytes:
                writing.cancel()
                return
