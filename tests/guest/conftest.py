"""What the tests of the guest share: a small guest, and waiting that always ends."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.slices import finish
from protocol.geometry import Geometry, RamBlock

SEED = 7


@pytest.fixture
def geometry() -> Geometry:
    """Two blocks with different page sizes, 1040 target pages."""
    return Geometry((RamBlock("ram", 4 << 20, 2 << 20), RamBlock("rom", 64 << 10, 4096)))


@pytest.fixture
def memory(geometry: Geometry) -> Iterator[GuestMemory]:
    """The small guest's memory, filled with the pattern of seed 7."""
    with GuestMemory.create(geometry, "base") as made:
        finish(Pattern(SEED).fill(made))
        yield made


@pytest.fixture
def open_files() -> Callable[[], set[tuple[str, str]]]:
    """A function that returns number and name of all files that this process has open."""

    def look() -> set[tuple[str, str]]:
        files = set()
        for entry in Path("/proc/self/fd").iterdir():
            # The listing has the descriptor that it is read through, which is gone by now.
            with contextlib.suppress(FileNotFoundError):
                files.add((entry.name, str(entry.readlink())))
        return files

    return look


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """A function that waits until a condition holds, which must be soon."""

    async def wait(condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not condition():  # noqa: ASYNC110  (what another process did, no event tells)
                await trio.sleep(0.001)

    return wait
