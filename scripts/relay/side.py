"""Two real QEMUs: started over memory that is ours to see, driven over QMP, touched.

A page fault is a touch from outside, which blocks nothing of QEMU's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import trio

from guest import libc
from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.slices import in_loop, in_threads
from protocol.errors import MigrationError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from scripts.qemu.machine import Machine, MachineSpec, open_machine
from scripts.relay.steps import NamedPage

PAUSED = "postcopy-paused"

# The order to switch over comes when QEMU migrates already: at this rate no page fits into a tenth
# of a second's allowance, by which QEMU reckons.
_AT_ONCE_BANDWIDTH = 10


class Side:
    """One QEMU: what it is told, what it tells, and how it ends.

    Attributes:
        states: All that it has come into.
        ended: How its process has ended, in words; empty while it is there.
    """

    def __init__(self, memory: GuestMemory) -> None:
        """Take its memory; `run` starts it."""
        self.memory = memory
        self.states: list[str] = []
        self.ended = ""
        self.version: tuple[int, ...] = (0,)
        self._machine: Machine | None = None
        self._told = trio.lowlevel.ParkingLot()
        self._scopes: set[trio.CancelScope] = set()
        self._bases: dict[str, int] = {}

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._machine is not None
        return self._machine.pid

    async def run(
        self, spec: MachineSpec, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start it and follow it, until cancelled or until it is gone.

        Raises:
            MigrationError: It could not be started.
        """
        try:
            async with open_machine(spec, self.memory) as machine:
                self._machine = machine
                told = (await machine.qmp.call("query-version"))["qemu"]
                self.version = tuple(int(told[part]) for part in ("major", "minor", "micro"))
                task_status.started()
                while True:
                    match await machine.qmp.next_event():
                        case {"event": "MIGRATION", "data": {"status": str(state)}}:
                            self.states.append(state)
                            self._told.unpark_all()
        except MigrationError as error:
            if self._machine is None:
                raise
            self.ended = str(error)
            self._told.unpark_all()
            for scope in self._scopes:
                scope.cancel()

    async def call(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - what JSON holds
        """Have a command done; return its answer.

        Raises:
            MigrationError: QEMU refused, or is gone.
        """
        with self._while_there():
            assert self._machine is not None
            return await self._machine.qmp.call(command, **arguments)
        raise MigrationError(self.ended)

    async def reaches(self, state: str, after: int = 0) -> None:
        """Wait until it has come into a state, after so many others.

        Raises:
            MigrationError: It is gone.
        """
        while state not in self.states[after:]:
            if self.ended:
                raise MigrationError(self.ended)
            await self._told.park()

    async def state(self) -> str:
        """Return what it says that it is doing, or how it has ended."""
        with suppress(MigrationError):
            return str((await self.call("query-migrate")).get("status", "none"))
        return self.ended or "it does not answer"

    @contextmanager
    def _while_there(self) -> Iterator[None]:
        if self.ended:
            raise MigrationError(self.ended)
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    # What both are told.

    async def allow(self, *, preempt: bool) -> None:
        """Let it migrate with postcopy.

        Args:
            preempt: With a connection of its own for pages that are asked for.

        Raises:
            MigrationError: QEMU refused, or is gone.
        """
        wanted = {"events": True, "postcopy-ram": True, "postcopy-preempt": preempt}
        await self.call(
            "migrate-set-capabilities",
            capabilities=[{"capability": name, "state": on} for name, on in wanted.items()],
        )

    async def listen(self, command: str, host: str = "127.0.0.1") -> tuple[str, int]:
        """Have a destination wait for connections; return where.

        Args:
            command: `migrate-incoming`, or `migrate-recover` for one that has paused.
            host: At which of its addresses.

        Raises:
            MigrationError: QEMU refused, or is gone.
        """
        await self.call(command, uri=f"tcp:{host}:0")
        (found,) = (await self.call("query-migrate"))["socket-address"]
        return str(found["host"]), int(found["port"])

    async def switch_over(
        self, uri: str, postcopy_bandwidth: int, on_state: Callable[[], None] = lambda: None
    ) -> None:
        """Have a source migrate, and switch over with nothing in precopy.

        Args:
            uri: Where to.
            postcopy_bandwidth: Bytes a second of the background; 0 for no limit.
            on_state: Called when it migrates, and when it has switched over.

        Raises:
            MigrationError: QEMU refused, or is gone.
        """
        await self.call(
            "migrate-set-parameters",
            **{
                "max-bandwidth": _AT_ONCE_BANDWIDTH,
                "max-postcopy-bandwidth": postcopy_bandwidth,
                "downtime-limit": 0,
            },
        )
        await self.call("migrate", uri=uri)
        await self.reaches("active")
        on_state()
        await self.call("migrate-start-postcopy")
        await self.reaches("postcopy-active")
        on_state()

    # Page faults.

    async def address_of(self, page: NamedPage) -> int:
        """Return where a page lies in its process.

        Raises:
            MigrationError: There is no such RAMBlock, or QEMU is gone.
        """
        start, blocks = 0, self.memory.geometry.blocks
        for block in blocks:
            if block.name == page.block:
                break
            start += block.length_bytes
        else:
            raise MigrationError(f"there is no RAMBlock {page.block}")
        if page.block not in self._bases:
            line = f"gpa2hva {start:#x}"
            told = await self.call("human-monitor-command", **{"command-line": line})
            self._bases[page.block] = int(str(told).split()[-1], 16)
        return self._bases[page.block] + page.index * block.page_bytes

    async def touch(self, address: int) -> bool:
        """Wait for a byte of its memory as a thread of its own would; return whether it came.

        Cancelling lets the wait go on by itself, for as long as the process is there.
        """
        try:
            await trio.to_thread.run_sync(
                libc.read_byte_of, self.pid, address, abandon_on_cancel=True
            )
        except OSError:
            return False
        return True


@asynccontextmanager
async def two_sides(
    geometry: Geometry, seed: int, source_spec: MachineSpec, dest_spec: MachineSpec
) -> AsyncIterator[tuple[Side, Side, trio.Nursery]]:
    """Start a source with a pattern in its memory, and a destination; nothing of them is left.

    Yields:
        Both, and a nursery for what is to end with them.

    Raises:
        MidstreamError: There is no memory for them, or one could not be started.
    """
    huge = any(block.page_bytes > TARGET_PAGE_BYTES for block in geometry.blocks)
    backing = "hugetlb" if huge else "base"
    with ExitStack() as stack:
        source, dest = (
            Side(stack.enter_context(GuestMemory.create(geometry, backing))) for _ in range(2)
        )
        await in_threads(source.memory.populate_slice, source.memory.slices())
        await in_loop(Pattern(seed).fill(source.memory))
        async with trio.open_nursery() as nursery:
            await nursery.start(source.run, source_spec)
            await nursery.start(dest.run, replace(dest_spec, incoming=True))
            yield source, dest, nursery
            nursery.cancel_scope.cancel()


def differing_bytes(source: GuestMemory, dest: GuestMemory) -> int:
    """Return in how many bytes the memories of both sides differ."""
    return sum(
        int(np.count_nonzero(np.frombuffer(ours, np.uint8) != np.frombuffer(theirs, np.uint8)))
        for ours, theirs in zip(source.views, dest.views, strict=True)
    )
