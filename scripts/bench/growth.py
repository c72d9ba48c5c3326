"""How a migration's processor time grows with memory, page size and vCPUs: a line each.

A large guest is mostly zero: a 64th of it is not.  Both sides' memory is real all the same, so how
large it can be depends on the machine.  It is warm each time: what first touches cost a virtual
machine grows with what its host has taken back.
"""

from __future__ import annotations

import os

from guest.backing import memory_info
from scripts.bench.figure import Figure, Limit, Plan, Target
from scripts.bench.noise import warm_memory
from scripts.figures.runs import Record, migrate
from scripts.runtime.folders import temporary_folder

SECTION = "growth"

_SIZES_MIB = (256, 1024, 4096, 16384)
_QUICK_SIZES_MIB = (256, 1024)
_BASE_MIB = 1024
_DATA_SHARE = 64
# What the sides need beside both copies of the guest, and others of the machine.
_USABLE_SHARE = 0.85
# 17 times for 16 times the memory.
_GROWTH = Target(17 / 16)

_PAGE_SIZES = ("4KiB", "2MiB", "1GiB")
_VCPUS = (1, 4, 16, 64)

_PRECOPY = {"program": "scripted", "vcpus": "1", "postcopy-after": "never"}
_SMALL = {"size": "256MiB", "access-rate": "100", "postcopy-after": "1"}


def measure_growth(plan: Plan) -> list[Figure]:
    """Run each shape once; the largest memory is what fits twice in what the machine has left.

    Raises:
        GuestFailed: This machine has not the memory.
        MigrationError: A run failed.
    """
    figures = _by_size(plan)
    if plan.quick:
        return figures
    for page_size in _PAGE_SIZES:
        plan.say(f"{SECTION}: {page_size} pages")
        warm_memory(_BASE_MIB << 20)
        report = migrate(
            {**_PRECOPY, "size": f"{_BASE_MIB}MiB", "page-size": page_size, "guest": plan.guest}
        )
        figures.append(_figure(f"1024 MiB of {page_size} pages", report))
    for vcpus in _VCPUS:
        plan.say(f"{SECTION}: {vcpus} vCPUs")
        report = migrate({**_SMALL, "vcpus": str(vcpus), "guest": plan.guest})
        figures.append(_figure(f"256 MiB, {vcpus} vCPUs, precopy then postcopy", report))
    return figures


def sizes_that_fit(sizes_mib: tuple[int, ...], available_bytes: int) -> tuple[int, ...]:
    """Return the sizes of which two copies fit; the first that does not is halved until it does."""
    usable_mib = int(available_bytes * _USABLE_SHARE / 2) >> 20
    fitting = [size for size in sizes_mib if size <= usable_mib]
    for size in sizes_mib[len(fitting) : len(fitting) + 1]:
        while size > usable_mib:
            size //= 2  # noqa: PLW2901 - halved until it fits
        fitting.append(size)
    return tuple(dict.fromkeys(fitting))


def _by_size(plan: Plan) -> list[Figure]:
    wanted = _QUICK_SIZES_MIB if plan.quick else _SIZES_MIB
    sizes_mib = sizes_that_fit(wanted, memory_info()["MemAvailable"])
    seconds = {}
    for size_mib in sizes_mib:
        plan.say(f"{SECTION}: {size_mib} MiB")
        with temporary_folder("image") as folder:
            image = folder / "image"
            image.write_bytes(os.urandom((size_mib << 20) // _DATA_SHARE))
            options = {
                "size": f"{size_mib}MiB",
                "page-size": "2MiB",
                "image": str(image),
                "guest": plan.guest,
            }
            warm_memory(size_mib << 20)
            seconds[size_mib] = _cpu_seconds(migrate({**_PRECOPY, **options}))
    figures = []
    for size_mib, used in seconds.items():
        limit = target = None
        if size_mib > _BASE_MIB:
            times = size_mib // _BASE_MIB
            limit = Limit(f"{times} x that for {_BASE_MIB} MiB", (seconds[_BASE_MIB] * times,))
            target = _GROWTH
        name = f"CPU, {size_mib} MiB, 63 of 64 zero, both sides"
        figures.append(Figure(SECTION, name, "s", (used,), limit, target))
    if sizes_mib != wanted:
        name = f"a guest of {wanted[-1]} MiB"
        figures.append(
            Figure(
                SECTION,
                "the largest guest that fits here twice",
                "MiB",
                (sizes_mib[-1],),
                note=f"{name} takes twice that of memory",
            )
        )
    return figures


def _figure(name: str, report: Record) -> Figure:
    return Figure(SECTION, f"CPU, {name}, both sides", "s", (_cpu_seconds(report),))


def _cpu_seconds(report: Record) -> float:
    used: dict[str, float] = report["midstream"]["cpu-seconds"]
    return sum(used.values())
