"""`midstream compare`: one guest, one trace, several policies in turn, on the same link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from guest.spec import GUEST_CHOICES, PYTHON
from guest.trace import read_trace, write_trace
from protocol import events
from protocol.errors import MigrationError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.policy import PRESETS, Policy
from protocol.report import STAGE_WORDS
from protocol.units import parse_geometry
from scripts.configure import link_spec, parsed
from scripts.figures.prefetch_table import prefetch_figures, prefetch_table
from scripts.figures.runs import run_migration
from scripts.files import check_twice_readable, check_writable
from scripts.help_text import complete_names
from scripts.links.link import link_of
from scripts.links.spec import LinkSpec
from scripts.named_files import Command, Use, file_option
from scripts.policies import file_of, policy_of
from scripts.qemu.against import ROWS, Peer, peer_of, run_qemu
from scripts.reports import COMPLETED, begin_report, write_report
from scripts.runtime.folders import temporary_folder
from scripts.runtime.interrupts import raise_when_signalled
from scripts.screen.output import print_result
from scripts.screen.verdict import facts_of
from scripts.screen.words import counted, percent, time_us
from scripts.views.saved import read_all

_SCHEMA = "midstream-compare/1"

# Beside the vCPUs that fault without pause there is one that faults every 20 ms: the one that is
# hurt by what the others do.
_SLOW_RATE = 50


@dataclass(frozen=True)
class Outcome:
    """The figures of one policy.

    Attributes:
        report: The migration's own.
        latencies_us: Every fault's latency.
    """

    report: dict[str, Any]
    latencies_us: tuple[float, ...]


@click.command(cls=Command, report_schema=_SCHEMA)
@click.option(
    "--policies", metavar="NAMES",
    help="Policies to compare, in order, with commas between. Default: all of midstream's own.",
    shell_complete=lambda _context, _option, text: complete_names(tuple(PRESETS), text),
)  # fmt: skip
@file_option(
    "--policy", "more", multiple=True, metavar="NAME", use=Use.READ, find=file_of,
    help="One more, such as FILE.py:NAME; as often as you like. Without --policies: only these.",
)  # fmt: skip
@click.option("--size", default="256MiB", show_default=True, metavar="SIZE", help="Guest memory.")
@click.option("--page-size", default="2MiB", show_default=True, metavar="SIZE", help="Page size.")
@click.option("--link", default="0", metavar="RATE[,...]", help="As in migrate; else loopback.")
@click.option(
    "--vcpus", default=4, show_default=True, type=click.IntRange(1, 63), help="Busy ones."
)
@file_option(
    "--against", metavar="qemu[=FILE]", use=Use.READ, prefix="qemu=",
    help="Rows of a real QEMU beside the policies, with and without postcopy-preempt.",
)  # fmt: skip
@file_option(
    "--accesses", type=click.Path(path_type=Path), use=Use.READ,
    help="Replay this instead of a new one.",
)  # fmt: skip
@click.option(
    "--guest", default=PYTHON, show_default=True, type=click.Choice(GUEST_CHOICES), metavar="KIND",
    help="What runs the vCPUs, as in migrate.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the trace.")
@file_option(
    "--report", metavar="FILE", use=Use.WRITE,
    help="Write all figures as JSON; - for standard output.",
)  # fmt: skip
@file_option(
    "--picture", type=click.Path(path_type=Path), use=Use.WRITE,
    help="Draw distributions: .png, .svg.",
)  # fmt: skip
def compare(  # noqa: PLR0913, PLR0917 - one argument an option
    policies: str | None,
    more: tuple[str, ...],
    size: str,
    page_size: str,
    link: str,
    vcpus: int,
    against: str | None,
    accesses: Path | None,
    guest: str,
    seed: int,
    report: str | None,
    picture: Path | None,
) -> None:
    """Run one guest and one access trace under several policies.

    Each run begins in postcopy at once.  One vCPU more than --vcpus says faults every 20 ms; the
    others fault without pause.
    """
    chosen = _policies(policies, more)
    geometry = parsed("--size or --page-size", lambda: parse_geometry(size, page_size))
    spec = link_spec(link)
    rate = spec.bytes_per_second
    peer = peer_of(against)
    _check_files(report, picture)
    if accesses is not None:
        _check_trace(accesses, geometry, vcpus + 1)
    begin_report(report, _SCHEMA)
    with raise_when_signalled(), temporary_folder("compare") as folder:
        if accesses is None:
            accesses = folder / "trace.txt"
            write_trace(accesses, geometry, vcpus + 1, seed)
        shared = {
            "size": size, "page-size": page_size, "link": link,
            "program": f"trace:{accesses}", "vcpus": str(vcpus + 1),
            "access-rate": ",".join(["0"] * vcpus + [str(_SLOW_RATE)]),
            "write-ratio": "0", "postcopy-after": "0", "seed": str(seed), "start-paused": "",
            "guest": guest,
        }  # fmt: skip
        outcomes = {}
        for name, (text, _) in chosen.items():
            click.echo(f"{name} ...", err=True)
            outcomes[name] = _run(folder, {"policy": text, **shared})
        if peer is not None:
            for name in ROWS:
                click.echo(f"{name} ...", err=True)
                outcomes[name] = _run_qemu(peer, name, folder, shared, spec)
    reports = {name: outcomes[name].report for name in chosen}
    prefetched = prefetch_figures({name: each for name, (_, each) in chosen.items()}, reports)
    if report is not None:
        plain = _plain(outcomes, size, page_size, link, rate, geometry)
        for name, own in prefetched.items():
            plain["policies"][name]["prefetch"] = own.to_plain()
        write_report(report, plain)
    if report != "-":
        print_result(f"{verdicts(outcomes)}\n")
        Console().print(_table(outcomes))
        if prefetched:
            Console().print()
            Console().print(prefetch_table(prefetched))
    if picture is not None:
        _draw(
            outcomes, picture, rate, geometry, f"{size} guest, {page_size} pages, {vcpus} + 1 vCPUs"
        )


def _check_files(report: str | None, picture: Path | None) -> None:
    if report not in (None, "-"):
        check_writable("--report", report)
    if picture is not None:
        check_writable("--picture", str(picture))


def _policies(names: str | None, more: tuple[str, ...]) -> dict[str, tuple[str, Policy]]:
    """Return the policies in their order, each as it was named; two of one name by that."""
    if names is None:
        listed = [] if more else list(PRESETS)
    else:
        listed = [name.strip() for name in names.split(",") if name.strip()]
        if not listed:
            raise click.BadParameter("it names no policy", param_hint="--policies")
    found = {text: parsed("--policies", partial(policy_of, text)) for text in listed}
    found |= {text: parsed("--policy", partial(policy_of, text)) for text in more}
    known = [policy.name for policy in found.values()]
    return {
        policy.name if known.count(policy.name) == 1 else text: (text, policy)
        for text, policy in found.items()
    }


def _check_trace(trace: Path, geometry: Geometry, vcpus: int) -> None:
    """Refuse a trace that the first of all runs would refuse."""
    check_twice_readable("--accesses", str(trace))
    parsed("--accesses", lambda: read_trace(trace, geometry, vcpus))


def _run(folder: Path, options: Mapping[str, str]) -> Outcome:
    told = folder / "events.jsonl"
    return _outcome(run_migration({**options, "events": str(told)}, folder), told)


def _run_qemu(
    peer: Peer, row: str, folder: Path, options: Mapping[str, str], spec: LinkSpec
) -> Outcome:
    told = folder / "qemu-events.jsonl"
    with link_of(spec) as link:
        report = run_qemu(peer, row, {**options, "events": str(told)}, folder, link)
    return _outcome(report, told)


def _outcome(report: dict[str, Any], told: Path) -> Outcome:
    latencies_us = [
        event["latency-us"] for event in read_all(told) if event["event"] == events.VcpuWake.event
    ]
    if len(latencies_us) != report["midstream"]["faults"]["count"]:
        raise MigrationError("the events and the report tell different numbers of faults")
    return Outcome(report, tuple(latencies_us))


def verdicts(outcomes: Mapping[str, Outcome]) -> str:
    """Return how good all runs were, which policy had the shortest waits, and a line for each."""
    facts = {name: facts_of(outcome.report) for name, outcome in outcomes.items()}
    wrong = [name for name, each in facts.items() if each.verified is False]
    unknown = [name for name, each in facts.items() if each.verified is None]
    right = len(facts) - len(wrong) - len(unknown)
    lines = [f"{right} of {counted(len(facts), 'run', 'runs')} verified."]
    if wrong:
        lines[0] += f" WRONG MEMORY with {', '.join(wrong)}."
    if unknown:
        lines[0] += f" Nobody compared the memory of {', '.join(unknown)}."
    waited = {name: each for name, each in facts.items() if each.waits}
    if len(waited) > 1:
        best = min(waited, key=lambda name: waited[name].longest_us)
        worst = max(waited, key=lambda name: waited[name].longest_us)
        lines[0] += (
            f" The longest wait was shortest with {best} ({time_us(waited[best].longest_us)}) and "
            f"longest with {worst} ({time_us(waited[worst].longest_us)})."
        )
    lines[:1] = wrap(lines[0], 79)
    width = max(map(len, facts))
    for name, each in facts.items():
        stage, share = each.waited_for, each.waiting_share
        told = [f"waited {percent(share)} of postcopy" if share is not None else "no wait told"]
        told += [f"{STAGE_WORDS[stage[0]]} {percent(stage[1])}"] if stage is not None else []
        told += [f"link used {percent(each.link_share)}"] if each.link_share is not None else []
        lines.append(f"  {name:<{width}}  {', '.join(told)}")
    return "".join(f"{line}\n" for line in lines)


def _plain(
    outcomes: Mapping[str, Outcome], size: str, page_size: str, link: str, rate: int,
    geometry: Geometry,
) -> dict[str, Any]:  # fmt: skip
    return {
        "schema": _SCHEMA,
        "status": COMPLETED,
        "size": size,
        "page-size": page_size,
        "link": link,
        "wire-ms": _wire_ms(rate, geometry),
        "policies": {
            name: {"report": outcome.report, "fault-latencies-us": outcome.latencies_us}
            for name, outcome in outcomes.items()
        },
    }


def _wire_ms(rate: int, geometry: Geometry) -> dict[str, float]:
    """Return what the wire alone needs for a page and for a target page; nothing without a rate."""
    if not rate:
        return {}
    page_bytes = max(block.page_bytes for block in geometry.blocks)
    sizes = {"a page": page_bytes, "4 KiB": TARGET_PAGE_BYTES}
    return {name: count / rate * 1000 for name, count in sizes.items()}


def _table(outcomes: Mapping[str, Outcome]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    for column in ("faults", "mean", "p50", "p90", "p99", "max", "blocked", "twice", "total"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("", "", *["ms"] * 6, "MiB", "ms", style="dim")
    for name, outcome in outcomes.items():
        own = outcome.report["midstream"]
        faults = own["faults"]
        figures = [faults[f"{key}-us"] / 1000 for key in ("mean", "p50", "p90", "p99", "max")]
        table.add_row(
            name,
            str(faults["count"]),
            *(f"{figure:.2f}" for figure in figures),
            str(outcome.report["postcopy-blocktime"]),
            # A QEMU does not tell.
            f"{own.get('bytes-sent-twice', 0) / (1 << 20):.1f}",
            str(outcome.report["total-time"] - outcome.report["setup-time"]),
        )
    return table


def _draw(
    outcomes: Mapping[str, Outcome], path: Path, rate: int, geometry: Geometry, title: str
) -> None:
    # Imported late: it takes half a second, and only this needs it.
    from scripts.figures.plots import draw_distributions, save  # noqa: PLC0415

    latencies_ms = {
        name: [latency_us / 1000 for latency_us in outcome.latencies_us]
        for name, outcome in outcomes.items()
    }
    save(draw_distributions(latencies_ms, _wire_ms(rate, geometry), title), path)
