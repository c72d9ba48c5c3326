"""How long vCPUs wait for pages, by policy and page size.

    python -m scripts.figures.fault_latency --link 1Gbit/s --policies ordered,critical-first

Each figure is the median of all runs' medians (and of their 99th percentiles), with the range of
the runs in brackets: what one run says of a machine that others use too is little.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import click

from protocol.errors import MigrationError
from scripts.figures.runs import run_migration
from scripts.runtime.folders import temporary_folder

# One vCPU that faults without pause, from the first page on.
_GUEST = {"vcpus": "1", "access-rate": "0", "write-ratio": "0", "postcopy-after": "0"}


@dataclass(frozen=True)
class Row:
    """All runs of one kind.

    Attributes:
        title: Of policy and page size.
        placement: What was really used.
        backing: What was really used.
        counts: Waits, in each run.
        p50_us: The median wait of each run.
        p99_us: The 99th percentile of each run.
    """

    title: str
    placement: str
    backing: str
    counts: tuple[int, ...]
    p50_us: tuple[float, ...]
    p99_us: tuple[float, ...]

    def line(self) -> str:
        """Return the row of a Markdown table."""
        cells = (
            self.title, self.placement, self.backing, f"{statistics.median(self.counts):.0f}",
            spread(self.p50_us), spread(self.p99_us),
        )  # fmt: skip
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| run | placement | backing | waits | median | 99 % |\n| --- | --- | --- | --- | --- | --- |"
)


def spread(values_us: Sequence[float]) -> str:
    """Return the median of microseconds and their range, in milliseconds."""
    median, least, most = (
        f"{value / 1000:.3g}"
        for value in (statistics.median(values_us), min(values_us), max(values_us))
    )
    return f"{median} ms ({least} to {most})"


def measure(policy: str, page_size: str, options: dict[str, str], runs: int) -> Row:
    """Run one kind of migration several times.

    Raises:
        MigrationError: A run failed, or no vCPU waited in it.
    """
    reports = []
    with temporary_folder("latency") as folder:
        for seed in range(runs):
            changes = {"policy": policy, "page-size": page_size, "seed": str(seed)}
            reports.append(run_migration(_GUEST | options | changes, folder)["midstream"])
    faults = [report["faults"] for report in reports]
    if not all(fault["count"] for fault in faults):
        raise MigrationError(f"{policy}, {page_size}: no vCPU waited; take a slower link")
    return Row(
        f"`{policy}`, {page_size}",
        reports[-1]["placement"],
        reports[-1]["backing"],
        tuple(fault["count"] for fault in faults),
        tuple(fault["p50-us"] for fault in faults),
        tuple(fault["p99-us"] for fault in faults),
    )


@click.command()
@click.option("--size", default="64MiB", show_default=True, help="Guest memory.")
@click.option("--link", default="0", show_default=True, help="As in `midstream migrate`.")
@click.option("--policies", default="ordered,critical-first", show_default=True)
@click.option("--page-sizes", default="4KiB,2MiB", show_default=True)
@click.option("--placement", default="auto", show_default=True)
@click.option("--backing", default="auto", show_default=True)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 100))
def main(
    size: str, link: str, policies: str, page_sizes: str, placement: str, backing: str, runs: int
) -> None:
    """Measure fault latencies and print them as a Markdown table."""
    options = {"size": size, "link": link, "placement": placement, "backing": backing}
    click.echo(HEAD)
    for page_size in page_sizes.split(","):
        for policy in policies.split(","):
            try:
                click.echo(measure(policy, page_size, options, runs).line())
            except MigrationError as error:
                raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
