"""Disturbances of a measurement: a machine that is not quiet, runs that vary, cold memory.

Load average and stolen time are the kernel's (/proc/loadavg, /proc/stat, proc(5)).

On a virtual machine what was freed goes back to its host.  To touch it again takes milliseconds a
huge page, and which run of a benchmark pays for that is a matter of luck.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guest.memory import GuestMemory
from guest.slices import finish
from protocol.geometry import Geometry, RamBlock
from scripts import provenance
from scripts.bench.figure import Figure, spread

# Beyond these a figure says as much of the machine's other users as of midstream.
_LOAD_PER_CPU_MAX = 0.5
_STEAL_SHARE_MAX = 0.02
_SPREAD_MAX = 0.3

# Where they stand in the first line of /proc/stat, after its name.
_STEAL_FIELD, _FIELD_COUNT = 7, 8

_WARM_PAGE_BYTES = 2 << 20

# Who else is busy takes some of it: of a guest that is not too large a quarter of both copies.
_MARGIN_BYTES_MAX = 256 << 20

# What was freed before has gone to the host two seconds later (mm/page_reporting.c), so that for
# the next two seconds nothing goes.
_SETTLE_SECONDS = 2.5


@dataclass(frozen=True)
class Clocks:
    """The time of all processors since the machine started, in the kernel's ticks."""

    stolen: int
    total: int


def read_clocks(proc: Path = Path("/proc")) -> Clocks:
    """Return the present state; all zero where there is no such file."""
    try:
        first = (proc / "stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return Clocks(0, 0)
    ticks = [int(field) for field in first.split()[1 : 1 + _FIELD_COUNT]]
    return Clocks(ticks[_STEAL_FIELD], sum(ticks))


class Noise:
    """Looks at the machine before and after."""

    def __init__(self) -> None:
        """Look for the first time; nothing of the benchmark runs yet."""
        self._cpus = os.cpu_count() or 1
        self._load = os.getloadavg()[0]
        self._before = read_clocks()

    def to_plain(self, yardsticks: list[Figure]) -> dict[str, Any]:
        """Return what was seen until now.

        Args:
            yardsticks: What ought to be the same in every run, because midstream has no part in it.
        """
        after = read_clocks()
        passed = max(1, after.total - self._before.total)
        return {
            "load-average-before": self._load,
            "cpus": self._cpus,
            "steal-share": (after.stolen - self._before.stolen) / passed,
            "spreads": {figure.name: _relative_spread(figure) for figure in yardsticks},
        }


def warnings(noise: dict[str, Any]) -> list[str]:
    """Return a line for each measure by which the machine was too noisy."""
    told = []
    load, cpus = noise["load-average-before"], noise["cpus"]
    if load > _LOAD_PER_CPU_MAX * cpus:
        told.append(f"the load average was {load:.1f} on {cpus} CPUs before anything was measured")
    if noise["steal-share"] > _STEAL_SHARE_MAX:
        told.append(f"the host took {noise['steal-share']:.0%} of the processors' time (steal)")
    told += [
        f"{name} varied by {share:.0%} of its median from run to run"
        for name, share in noise["spreads"].items()
        if share > _SPREAD_MAX
    ]
    return told


def machine() -> dict[str, Any]:
    """Return what this machine is, with the versions that its line for people names."""
    return {
        **provenance.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _relative_spread(figure: Figure) -> float:
    figures = spread(figure.values)
    return (figures["highest"] - figures["lowest"]) / figures["median"]


def warm_memory(guest_bytes: int) -> None:
    """See to it that both copies of a guest that is made next need not be fetched from a host.

    Args:
        guest_bytes: Its memory.

    Raises:
        GuestFailed: There is not so much.
    """
    # The memory of a guest itself: what is freed of another kind is not what the next one gets.
    margin_bytes = min(guest_bytes // 2, _MARGIN_BYTES_MAX) // _WARM_PAGE_BYTES * _WARM_PAGE_BYTES
    block = RamBlock("warm", 2 * guest_bytes + margin_bytes, _WARM_PAGE_BYTES)
    with GuestMemory.create(Geometry((block,))) as memory:
        finish(memory.populate())
        time.sleep(_SETTLE_SECONDS)
