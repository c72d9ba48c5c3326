"""Prefetchers, and what each is worth: faults over the network, by kind of trace and page size.

    python -m scripts.figures.prefetching --virtual
    python -m scripts.figures.prefetching --size 64MiB --rounds 3 --json prefetching.json

In virtual time (`midstream simulate`, its reference machine) all comes out the same each time, and
nobody knows what was touched; between processes each figure is the median of all rounds with their
range, neighbours measured in turn.

One vCPU touches pages at the times of a trace, with pauses in which a page can be fetched; the
trace of recorded faults has two.  The traces begin in the guest's middle, where a scan comes late.
A recording is of the trace itself: of all that its guest touches.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from protocol import events
from protocol.errors import MigrationError
from protocol.units import parse_bytes
from scripts.figures.runs import Record, run_migration
from scripts.reports import write_report
from scripts.runtime.folders import temporary_folder
from scripts.views.saved import read_all

POLICIES = ("no-prefetch", "read-ahead", "stride", "bubbling", "recorded")
KINDS = ("sequential", "strided", "zipf", "recorded", "uniform")

# Between two touches, longer than 1 Gbit/s takes for a page; and how many touches there are.
_PAUSES_US = {"4KiB": 1000, "2MiB": 30_000}
_COUNTS = {"4KiB": 4000, "2MiB": 128}
_STRIDE = -3

_GUEST = {"postcopy-after": "0", "start-paused": "", "write-ratio": "0"}
# Of runs between processes, and of simulated ones.
_REAL, _VIRTUAL = {"guest": "native"}, {"model": "reference"}
# What the recorded trace is recorded of: two vCPUs with a hot spot.
_RECORDED = {"program": "hotspot", "vcpus": "2", "policy": "no-prefetch"}
_RECORDED_RATES = {"4KiB": "500", "2MiB": "15"}

Trace = list[tuple[float, int, int]]
Figures = dict[str, float]


def touches(kind: str, page_size: str, page_count: int, seed: int) -> Trace:
    """Return the seconds, vCPU and page of each touch of a made-up trace."""
    chance, count, middle = random.Random(seed), _COUNTS[page_size], page_count // 2
    if kind == "sequential":
        pages = [middle + number for number in range(min(count, page_count - middle))]
    elif kind == "strided":
        pages = [middle + _STRIDE * number for number in range(min(count, middle // -_STRIDE))]
    elif kind == "zipf":
        order = chance.sample(range(page_count), page_count)
        weights = [1 / rank for rank in range(1, page_count + 1)]
        pages = chance.choices(order, weights, k=count)
    else:
        pages = chance.choices(range(page_count), k=count)
    pause = _PAUSES_US[page_size] / 1e6
    return [(number * pause, 0, page) for number, page in enumerate(pages)]


def run(options: Mapping[str, str], folder: Path, *, virtual: bool) -> Record:
    """Run a migration between processes, or in virtual time; return the report.

    Raises:
        MigrationError: It failed.
    """
    command, own = ("simulate", _VIRTUAL) if virtual else ("migrate", _REAL)
    return run_migration({**options, **_GUEST, **own}, folder, command)


def record(page_size: str, options: Mapping[str, str], folder: Path, *, virtual: bool) -> Trace:
    """Return the faults of a run, each at its time.

    Raises:
        MigrationError: It failed, or nobody waited in it.
    """
    told = folder / "recorded.jsonl"
    rate = {"access-rate": _RECORDED_RATES[page_size], "events": str(told)}
    run({**options, **_RECORDED, **rate}, folder, virtual=virtual)
    waits = [event for event in read_all(told) if event["event"] == events.VcpuWait.event]
    if not waits:
        raise MigrationError("no vCPU waited in the run that was to be recorded")
    waits.sort(key=lambda event: int(event["fault-ns"]))
    began_ns = waits[0]["fault-ns"]
    return [((e["fault-ns"] - began_ns) / 1e9, e["vcpu"], e["page"]) for e in waits]


def write_touches(path: Path, trace: Trace, page_bytes: int) -> None:
    """Write a trace as text."""
    lines = [f"@{at:.9f} {vcpu} ram 0x{page * page_bytes:x} r\n" for at, vcpu, page in trace]
    path.write_text("".join(lines), encoding="utf-8")


def figures_of(report: Record) -> Figures:
    """Return what counts of a run; what nobody knows of it is left out."""
    own = report["midstream"]
    prefetch = own.get("prefetch") or {}
    return {
        "network-faults": own["requests"]["received"],
        "p50-ms": own["faults"]["p50-us"] / 1000,
        "p99-ms": own["faults"]["p99-us"] / 1000,
        "blocked-ms": report["postcopy-blocktime"],
        **{
            name: prefetch[name]
            for name in ("late", "useful", "useless-bytes")
            if prefetch.get(name) is not None
        },
    }


def spread(runs: Sequence[Figures], name: str, scale: float = 1) -> str:
    """Return the median of a figure and its range, nothing if it is not known."""
    if any(name not in run for run in runs):
        return ""
    values = [run[name] / scale for run in runs]
    median, least, most = (
        f"{each:.0f}" if each >= 10 or each == int(each) else f"{each:.1f}"
        for each in (statistics.median(values), min(values), max(values))
    )
    return median if least == most else f"{median} ({least} to {most})"


def table(measured: Mapping[tuple[str, str, str], Sequence[Figures]], page_size: str) -> list[str]:
    """Return the Markdown table of a page size."""
    kinds = list(dict.fromkeys(kind for size, kind, _ in measured if size == page_size))
    policies = list(dict.fromkeys(policy for size, _, policy in measured if size == page_size))
    columns = ("network faults", "avoided", "p50 ms", "p99 ms", "blocked ms", "useless MiB")
    lines = [f"| trace | policy | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for kind in kinds:
        without = statistics.median(
            run["network-faults"] for run in measured[page_size, kind, policies[0]]
        )
        for policy in policies:
            runs = measured[page_size, kind, policy]
            faults = statistics.median(run["network-faults"] for run in runs)
            avoided = f"{100 * (without - faults) / without:.0f} %" if without else "-"
            lines.append(
                f"| {kind if policy == policies[0] else ''} | `{policy}` "
                f"| {spread(runs, 'network-faults')} | {'' if policy == policies[0] else avoided} "
                f"| {spread(runs, 'p50-ms')} | {spread(runs, 'p99-ms')} "
                f"| {spread(runs, 'blocked-ms')} | {spread(runs, 'useless-bytes', 1 << 20)} |"
            )
    return lines


@click.command()
@click.option("--size", default="512MiB", show_default=True, help="Guest memory.")
@click.option("--link", default="1Gbit/s", show_default=True, help="As in `midstream migrate`.")
@click.option("--policies", default=",".join(POLICIES), help="The first is what avoids nothing.")
@click.option("--kinds", default=",".join(KINDS), help="Of traces.")
@click.option("--page-sizes", default="4KiB,2MiB", show_default=True)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
@click.option("--virtual", is_flag=True, help="In virtual time, one round.")
@click.option("--json", "target", metavar="FILE", help="Write all figures of all rounds here.")
def main(  # noqa: PLR0913, PLR0917 - one argument an option
    size: str, link: str, policies: str, kinds: str, page_sizes: str, rounds: int, seed: int,
    virtual: bool, target: str | None,
) -> None:  # fmt: skip
    """Measure every prefetcher on every trace, and print a Markdown table a page size."""
    measured: dict[tuple[str, str, str], list[Figures]] = {}
    try:
        with temporary_folder("prefetching") as folder:
            for page_size in page_sizes.split(","):
                options = {"size": size, "link": link, "page-size": page_size}
                page_bytes = parse_bytes(page_size)
                paths = {}
                for kind in kinds.split(","):
                    paths[kind] = folder / f"{kind}-{page_size}.trace"
                    if kind == "recorded":
                        trace = record(page_size, options, folder, virtual=virtual)
                    else:
                        count = parse_bytes(size) // page_bytes
                        trace = touches(kind, page_size, count, seed)
                    write_touches(paths[kind], trace, page_bytes)
                for number in range(rounds if not virtual else 1):
                    click.echo(f"{page_size}: round {number + 1}", err=True)
                    for kind, path in paths.items():
                        for policy in policies.split(","):
                            named = f"recorded={path}" if policy == "recorded" else policy
                            own = {"program": f"trace:{path}", "vcpus": "2", "policy": named}
                            report = run({**options, **own}, folder, virtual=virtual)
                            measured.setdefault((page_size, kind, policy), []).append(
                                figures_of(report)
                            )
                click.echo("\n".join(["", f"{page_size} pages:", "", *table(measured, page_size)]))
    except MigrationError as error:
        raise click.ClickException(str(error)) from error
    if target is not None:
        write_report(target, {" ".join(key): runs for key, runs in measured.items()})


if __name__ == "__main__":
    main()
