"""Two real QEMUs with a relay between them, for tests: driven over QMP, touched from outside.

Their memory lies in files that are the test's own, so it can be compared byte for byte.  Neither
guest ever runs a step; what is asked for is what a test touches, by `process_vm_readv`: a real page
fault of the destination's, made by a thread of this process, which blocks nothing of QEMU's.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
import trio

from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.slices import in_loop
from protocol import events
from protocol.errors import MigrationError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId
from protocol.units import parse_geometry
from scripts.configure import parse_address
from scripts.qemu.machine import Machine, MachineSpec, open_machine
from scripts.relay.relay import Relay
from scripts.relay.steps import Step

PROGRAM = os.environ.get("MIDSTREAM_TEST_QEMU", "qemu-system-x86_64")

# No page fits into a tenth of a second of it: the switch-over comes before any.
_AT_ONCE = 10

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def need_qemu() -> tuple[int, int]:
    """Return QEMU's version; skip a test where there is none."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    told = subprocess.run([PROGRAM, "--version"], capture_output=True, check=True, text=True)
    match = re.search(r"version ([0-9]+)\.([0-9]+)", told.stdout)
    assert match is not None
    return int(match[1]), int(match[2])


def touch(pid: int, address: int) -> int:
    """Read a byte of another process's memory; return how many that was, or minus an errno."""
    buffer = ctypes.create_string_buffer(1)
    near, far = _Iovec(ctypes.addressof(buffer), 1), _Iovec(address, 1)
    count: int = _libc.process_vm_readv(pid, ctypes.byref(near), 1, ctypes.byref(far), 1, 0)
    return count if count >= 0 else -ctypes.get_errno()


class Watched:
    """One of the two, and all that its monitor has told."""

    def __init__(self, machine: Machine, memory: GuestMemory) -> None:
        """Take a machine that runs."""
        self.machine, self.memory = machine, memory
        self.call = machine.qmp.call
        self.states: list[str] = []
        self.gone = False
        self._told = trio.lowlevel.ParkingLot()

    async def watch(self) -> None:
        """Take its events until cancelled, or until it is gone."""
        try:
            while True:
                match await self.machine.qmp.next_event():
                    case {"event": "MIGRATION", "data": {"status": str(state)}}:
                        self.states.append(state)
                        self._told.unpark_all()
        except MigrationError:
            self.gone = True
            self._told.unpark_all()

    async def reaches(self, *states: str, after: int = 0) -> str:
        """Return the first of these states that it comes into, or has; after so many others."""
        while True:
            for state in self.states[after:]:
                if state in states:
                    return state
            await self._told.park()

    async def state(self) -> str:
        """Return what query-migrate says."""
        return str((await self.call("query-migrate")).get("status"))


@dataclass
class Pair:
    """A source and a destination, and the relay between them."""

    source: Watched
    dest: Watched
    geometry: Geometry
    nursery: trio.Nursery
    relay: Relay
    told: list[events.Event]
    stories: trio.lowlevel.ParkingLot
    bases: dict[int, int] = field(default_factory=dict)
    touched: list[PageId] = field(default_factory=list)
    waits: dict[PageId, trio.Event] = field(default_factory=dict)
    address: tuple[str, int] = ("", 0)
    far: list[tuple[str, int]] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    async def listen(self, command: str = "migrate-incoming") -> None:
        """Have the destination listen, and the relay connect there."""
        await self.dest.call(command, uri="tcp:127.0.0.1:0")
        (found,) = (await self.dest.call("query-migrate"))["socket-address"]
        self.far[:] = [(found["host"], int(found["port"]))]

    async def switch_over(self, *, postcopy_bandwidth: int = 0) -> None:
        """Migrate up to where the guest would run on the destination, with nothing in precopy."""
        await self.source.call(
            "migrate-set-parameters",
            **{
                "max-bandwidth": _AT_ONCE, "max-postcopy-bandwidth": postcopy_bandwidth,
                "downtime-limit": 0,
            },
        )  # fmt: skip
        host, port = self.address
        await self.source.call("migrate", uri=f"tcp:{host}:{port}")
        await self.source.reaches("active")
        await self.source.call("migrate-start-postcopy")
        await self.source.reaches("postcopy-active")
        # Before the devices are loaded a touch would make a page of zeros.
        await self.tells(lambda event: is_message(event, "pong", value=3))

    async def recover(self) -> None:
        """Have both go on over new connections, through the relay."""
        await self.listen("migrate-recover")
        host, port = self.address
        await self.source.call("migrate", uri=f"tcp:{host}:{port}", resume=True)

    async def tells(self, is_it: Callable[[events.Event], bool]) -> events.Event:
        """Return the first event that is it, once the relay has told one."""
        while True:
            for event in self.told:
                if is_it(event):
                    return event
            await self.stories.park()

    async def touch(self, *pages: int | PageId) -> None:
        """Touch pages of the destination, each once the request for the one before has passed."""
        for each in pages:
            page = PageId(0, each) if isinstance(each, int) else each
            self.waits[page] = trio.Event()
            self.nursery.start_soon(self._touch, page, await self._address_of(page))
            await self.tells(
                lambda event, page=page: (  # type: ignore[misc]
                    isinstance(event, events.PageRequest) and (event.block, event.page) == page
                )
            )

    async def _touch(self, page: PageId, address: int) -> None:
        await trio.to_thread.run_sync(
            touch, self.dest.machine.pid, address, abandon_on_cancel=True, limiter=_THREADS
        )
        self.touched.append(page)
        self.waits[page].set()

    async def _address_of(self, page: PageId) -> int:
        if page.block not in self.bases:
            guest = sum(block.length_bytes for block in self.geometry.blocks[: page.block])
            line = f"gpa2hva {guest:#x}"
            told = await self.dest.call("human-monitor-command", **{"command-line": line})
            self.bases[page.block] = int(str(told).split()[-1], 16)
        return self.bases[page.block] + page.index * self.geometry.blocks[page.block].page_bytes

    def served(self) -> list[tuple[str, int, str]]:
        """Return the requests that were served, in order: block, page and channel."""
        geometry = self.relay.tracker.geometry
        assert geometry is not None
        return [
            (geometry.blocks[event.block].name, event.page, event.channel)
            for event in self.told
            if isinstance(event, events.RequestServed)
        ]

    async def completes(self) -> None:
        """Wait until both have completed, and the relay has ended."""
        await self.source.reaches("completed")
        await self.dest.reaches("completed")
        await self.ended.wait()

    def differing_bytes(self) -> int:
        """Return how many bytes of the two memories differ."""
        return sum(
            int(np.count_nonzero(np.frombuffer(ours, np.uint8) != np.frombuffer(theirs, np.uint8)))
            for ours, theirs in zip(self.source.memory.views, self.dest.memory.views, strict=True)
        )


_THREADS = trio.CapacityLimiter(100)


def is_message(event: events.Event, name: str, **fields: object) -> bool:
    """Tell whether an event is of a message of that name, with these fields."""
    return (
        isinstance(event, events.PeerMessage)
        and event.name == name
        and all(getattr(event, key) == value for key, value in fields.items())
    )


@asynccontextmanager
async def qemu_pair(
    size: str,
    page_size: str,
    *,
    preempt: bool = True,
    steps: Sequence[Step] = (),
    window_bytes: int = 0,
    program: str = PROGRAM,
) -> AsyncIterator[Pair]:
    """Start two QEMUs and a relay; when the block is left, all of them are gone."""
    geometry = parse_geometry(size, page_size)
    huge = any(block.page_bytes > TARGET_PAGE_BYTES for block in geometry.blocks)
    told: list[events.Event] = []
    stories = trio.lowlevel.ParkingLot()

    def emit(event: events.Event, /) -> None:
        # What the file would have: its fields are checked as they are written.
        msgspec.json.encode(event)
        told.append(event)
        stories.unpark_all()

    async with AsyncExitStack() as stack:
        sides: list[Watched] = []
        for incoming in (False, True):
            memory = stack.enter_context(
                GuestMemory.create(geometry, "hugetlb" if huge else "base")
            )
            if not incoming:
                await in_loop(Pattern(5).fill(memory))
            spec = MachineSpec(program=program, incoming=incoming)
            sides.append(
                Watched(await stack.enter_async_context(open_machine(spec, memory)), memory)
            )
        nursery = await stack.enter_async_context(trio.open_nursery())
        capabilities = {"events": True, "postcopy-ram": True, "postcopy-preempt": preempt}
        for side in sides:
            nursery.start_soon(side.watch)
            await side.call(
                "migrate-set-capabilities",
                capabilities=[
                    {"capability": name, "state": on} for name, on in capabilities.items()
                ],
            )
        far: list[tuple[str, int]] = []
        relay = Relay(far, emit, steps, window_bytes)
        source, dest = sides
        pair = Pair(source, dest, geometry, nursery, relay, told, stories, far=relay.far)

        async def run(task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
            try:
                await relay.run("127.0.0.1", 0, task_status.started)
            finally:
                pair.ended.set()

        pair.address = parse_address(await nursery.start(run), "")
        await pair.listen()
        yield pair
        nursery.cancel_scope.cancel()
