"""The precopy stream beside a plain socket pair, in one run.

The two are measured in turn, several times, because machines drift: what can be trusted is the
ratio of neighbours, with its spread.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.figures.raw_pair import measure
from scripts.figures.runs import run_migration
from scripts.processes.link import LOOPBACK, Link

# Idle vCPUs, so that one pass is all there is: the stream and nothing else.
_MIGRATION = {"program": "scripted", "vcpus": "1", "postcopy-after": "never"}


@dataclass(frozen=True)
class Pair:
    """One run of each, neighbours in time; bytes a second."""

    raw: float
    precopy: float

    @property
    def ratio(self) -> float:
        """The precopy stream's share of what the plain socket pair does."""
        return self.precopy / self.raw


@dataclass(frozen=True)
class Throughput:
    """All runs of one benchmark."""

    length_bytes: int
    page_size: str
    chunk_size: str
    pairs: tuple[Pair, ...]
    link: Link = LOOPBACK

    def to_plain(self) -> dict[str, Any]:
        """Return figures and every raw run, as JSON can hold them."""
        return {
            "schema": "midstream-bench/1",
            "size": self.length_bytes,
            "page-size": self.page_size,
            "chunk-size": self.chunk_size,
            **({"link": self.link.to_plain()} if self.link.kind else {}),
            "raw-bytes-per-second": _spread([pair.raw for pair in self.pairs]),
            "precopy-bytes-per-second": _spread([pair.precopy for pair in self.pairs]),
            "ratio": _spread([pair.ratio for pair in self.pairs]),
            "runs": [{"raw": pair.raw, "precopy": pair.precopy} for pair in self.pairs],
        }

    def lines(self) -> list[str]:
        """Return the figures for a person."""
        rows = (
            ("plain sendall/recv_into", [pair.raw for pair in self.pairs], 1e9, "GB/s"),
            ("precopy stream", [pair.precopy for pair in self.pairs], 1e9, "GB/s"),
            ("ratio", [pair.ratio for pair in self.pairs], 1.0, ""),
        )
        title = f"{self.link.title}, {self.length_bytes >> 20} MiB, {self.page_size} pages, "
        title += f"{len(self.pairs)} runs in turn: median (lowest to highest)"
        return [title, *(_row(name, values, unit, scale) for name, values, scale, unit in rows)]


def run_throughput(
    length_bytes: int,
    page_size: str,
    chunk_size: str,
    runs: int,
    on_run: Callable[[int], None],
    link: Link = LOOPBACK,
) -> Throughput:
    """Measure both, in turn, after one warm-up of each.

    Args:
        length_bytes: Of memory, each run.
        page_size: As in `--page-size`.
        chunk_size: As in `--chunk-size`.
        runs: How many are counted.
        on_run: Called with the number of each counted run before it starts.
        link: What lies between the plain sockets; each migration makes one like it.

    Raises:
        MigrationError: A run failed.
    """
    pairs = []
    for number in range(runs + 1):
        on_run(number)
        raw = measure(length_bytes, "auto", link)
        precopy = _measure_precopy(length_bytes, page_size, chunk_size, link)
        if number:
            pairs.append(Pair(raw, precopy))
    return Throughput(length_bytes, page_size, chunk_size, tuple(pairs), link)


def _measure_precopy(length_bytes: int, page_size: str, chunk_size: str, link: Link) -> float:
    shape = {"size": str(length_bytes), "page-size": page_size, "chunk-size": chunk_size}
    with tempfile.TemporaryDirectory(prefix="midstream-bench-") as folder:
        report = run_migration({**_MIGRATION, **shape, "link": link.option}, Path(folder))
    mbps: float = report["ram"]["mbps"]
    return mbps * 1e6 / 8


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _row(name: str, values: Sequence[float], unit: str, scale: float) -> str:
    median, lowest, highest = (
        figure / scale for figure in (statistics.median(values), min(values), max(values))
    )
    return f"{name:<24} {median:6.2f} {unit:<4} ({lowest:.2f} to {highest:.2f})"
