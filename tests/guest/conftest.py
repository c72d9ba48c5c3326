"""What the tests of the guest share: a small guest, and waiting that always ends."""

from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest
import trio

from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.slices import finish
from protocol.geometry import Geometry, RamBlock
from tests.guests import SAVED_GEOMETRY

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
def empty() -> Iterator[GuestMemory]:
    """The memory of a guest that is saved and read, without anything in it."""
    with GuestMemory.create(SAVED_GEOMETRY, "base") as made:
        yield made


@pytest.fixture
def content() -> bytes:
    """As many pseudo-random bytes as that guest has."""
    return np.random.default_rng(3).bytes(SAVED_GEOMETRY.length_bytes)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """A function that waits until a condition holds, which must be soon."""

    async def wait(condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not condition():  # noqa: ASYNC110  (what another process did, no event tells)
                await trio.sleep(0.001)

    return wait
