"""One migration between two QEMUs that is timed, with `midstream relay` between them or without.

A thread of this process touches the destination's pages one after the other, as a vCPU would that
faults without pause: each touch of a page that is missing is a fault, and its time is what a vCPU
would have waited.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from guest import libc
from protocol.errors import MigrationError
from protocol.geometry import Geometry
from scripts.links.link import Link
from scripts.options import DEST, SOURCE
from scripts.processes.child import Child
from scripts.processes.launcher import LISTENING
from scripts.qemu.machine import MachineSpec
from scripts.relay.side import Side, differing_bytes, two_sides
from scripts.relay.steps import NamedPage
from scripts.runtime.spawn import spawn

_RUN_SECONDS_MAX = 600.0
_END_SECONDS_MAX = 10.0

# Documentation/admin-guide/mm/pagemap.rst: 64 bits for each of the kernel's pages.
_PAGEMAP_BYTES, _KERNEL_PAGE_BYTES = 8, os.sysconf("SC_PAGE_SIZE")
_PRESENT = 1 << 63


@dataclass(frozen=True)
class Timed:
    """What a migration took.

    Attributes:
        seconds: From the order to switch over until both have completed.
        waits_ns: Of each fault, in the order in which they came.
        relay_cpu_seconds: What the relay took of the processors behind its start.
    """

    seconds: float
    waits_ns: tuple[int, ...]
    relay_cpu_seconds: float = 0.0


async def run_timed(
    program: str, geometry: Geometry, link: Link, seed: int, *, relayed: bool
) -> Timed:
    """Migrate all memory in postcopy, with preempt, while pages are touched.

    Args:
        program: QEMU's executable.
        geometry: The guest: one RAMBlock.
        link: What lies between the two.
        seed: What memory holds, and the order of the touches.
        relayed: A relay stands between, at the destination's end of the link.

    Raises:
        MidstreamError: A QEMU could not be started, or the migration failed.
    """
    spec = MachineSpec(program=program)
    ends = (replace(spec, prefix=tuple(link.prefixes[side])) for side in (SOURCE, DEST))
    with trio.fail_after(_RUN_SECONDS_MAX):
        async with two_sides(geometry, seed, *ends) as (source, dest, nursery):
            for side in (source, dest):
                await side.allow(preempt=True)
            address = "{}:{}".format(*await dest.listen("migrate-incoming", link.listen_host))
            if not relayed:
                return await _migrate(source, dest, address, link, nursery, seed)
            async with _relay(address, link, nursery) as relay:
                timed = await _migrate(source, dest, relay.address, link, nursery, seed)
            return replace(timed, relay_cpu_seconds=relay.cpu_seconds)


async def _migrate(
    source: Side, dest: Side, address: str, link: Link, nursery: trio.Nursery, seed: int
) -> Timed:
    near = await link.lead_to(address, nursery)
    begun_at: list[float] = []
    await source.switch_over(f"tcp:{near}", 0, lambda: begun_at.append(trio.current_time()))
    # Then it has its memory watched: a touch before that would make a page of zeros.
    await dest.reaches("postcopy-active")
    block = dest.memory.geometry.blocks[0]
    base = await dest.address_of(NamedPage(block.name, 0))
    order = list(range(block.page_count))
    random.Random(seed).shuffle(order)
    addresses = [base + index * block.page_bytes for index in order]
    waits_ns = await trio.to_thread.run_sync(
        _touch_all, dest.pid, addresses, abandon_on_cancel=True
    )
    for side in (source, dest):
        await side.reaches("completed")
    seconds = trio.current_time() - begun_at[0]
    if count := differing_bytes(source.memory, dest.memory):
        raise MigrationError(f"{count} bytes of the memories differ")
    return Timed(seconds, waits_ns)


def _touch_all(pid: int, addresses: list[int]) -> tuple[int, ...]:
    """Touch pages; return how long each took that was not there."""
    waits_ns = []
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for address in addresses:
            place = address // _KERNEL_PAGE_BYTES * _PAGEMAP_BYTES
            entry = os.pread(pagemap.fileno(), _PAGEMAP_BYTES, place)
            if int.from_bytes(entry, "little") & _PRESENT:
                continue
            started_ns = time.monotonic_ns()
            libc.read_byte_of(pid, address)
            waits_ns.append(time.monotonic_ns() - started_ns)
    return tuple(waits_ns)


@dataclass
class _Relay:
    address: str
    cpu_seconds: float = 0.0


@asynccontextmanager
async def _relay(address: str, link: Link, nursery: trio.Nursery) -> AsyncIterator[_Relay]:
    """Start the command, and end it; it is not counted until it listens."""
    arguments = [f"--listen={link.listen_host}:0", f"--connect={address}", "--quiet"]
    spawned = spawn("relay", arguments, capture=True, prefix=link.prefixes[DEST])
    child = Child(spawned)
    try:
        nursery.start_soon(child.collect_errors, lambda _: None)
        relay = _Relay(await child.read_line(LISTENING))
        before = _cpu_seconds_of(spawned.process.pid)
        reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
        yield relay
        with trio.move_on_after(_END_SECONDS_MAX):
            await child.wait()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        relay.cpu_seconds = (
            usage.ru_utime + usage.ru_stime - reaped.ru_utime - reaped.ru_stime - before
        )
    finally:
        with trio.CancelScope(shield=True):
            await child.end(_END_SECONDS_MAX)
    if child.status:
        raise MigrationError(f"the relay has failed: {child.last_words}")


def _cpu_seconds_of(pid: int) -> float:
    """Return what a process has taken so far (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
