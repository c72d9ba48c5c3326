"""`midstream compare`: one guest, one trace, several policies in turn, on the same link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import click
from rich.console import Console

from guest.spec import GUEST_CHOICES, PROGRAM_NAMES, PYTHON
from guest.trace import read_trace, write_trace
from protocol import events
from protocol.errors import MigrationError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.policy import PRESETS, Policy
from protocol.report import STAGE_WORDS
from protocol.units import parse_geometry
from scripts.configure import link_spec, parsed
from scripts.figures.compared import (
    EVENTS,
    SCHEMA,
    Outcome,
    latencies_ms,
    plain_of,
    range_table,
    run_keeper,
    table,
)
from scripts.figures.prefetch_table import prefetch_figures, prefetch_table
from scripts.figures.runs import run_migration
from scripts.figures.workload import Workload
from scripts.files import check_fillable, check_twice_readable, check_writable
from scripts.help_text import complete_names
from scripts.links.link import link_of
from scripts.links.spec import LinkSpec
from scripts.named_files import Command, Use, file_option
from scripts.policies import file_of, policy_of
from scripts.qemu.against import ROWS, Peer, peer_of, run_qemu
from scripts.reports import begin_report, check_report, write_report
from scripts.runtime.folders import temporary_folder
from scripts.runtime.interrupts import raise_when_signalled
from scripts.screen.facts import facts_of
from scripts.screen.output import print_result
from scripts.screen.words import counted, percent, time_us
from scripts.views.saved import read_all

# The trace of a comparison that is given none.
_TRACE = "trace.txt"


@click.command(cls=Command, report_schema=SCHEMA)
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
@click.option(
    "--program", metavar="NAME",
    help="Let --vcpus vCPUs access memory so, as in migrate, instead of by the trace.",
    shell_complete=lambda _context, _option, text: complete_names(PROGRAM_NAMES, text),
)  # fmt: skip
@click.option(
    "--access-rate", metavar="N",
    help="Accesses a second of each vCPU, or N,N,... Default: without pause, and one of 50; with "
    "--program as in migrate.",
)  # fmt: skip
@click.option(
    "--write-ratio", metavar="RATIO",
    help="Share of accesses that write. Default: 0; with --program as in migrate.",
)  # fmt: skip
@click.option(
    "--postcopy-after", default="0", show_default=True, metavar="N",
    help="Precopy passes before postcopy, as in migrate; 0: vCPUs begin on the destination.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the trace.")
@click.option(
    "--repeats", default=1, show_default=True, type=click.IntRange(1, 1000), metavar="N",
    help="Run each so often, all in turn; figures are medians then, with their range.",
)  # fmt: skip
@file_option(
    "--keep", metavar="DIR", use=Use.FILL, help="Leave each run's report and events there."
)
@file_option(
    "--html", metavar="FILE", use=Use.WRITE,
    help="Write a page: figures, differences from the first row, distributions on one scale.",
)  # fmt: skip
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
    repeats: int,
    keep: str | None,
    html: str | None,
    report: str | None,
    picture: Path | None,
    **values: str | None,
) -> None:
    """Run one guest and one access trace under several policies.

    Each run begins in postcopy at once.  One vCPU more than --vcpus says faults every 20 ms; the
    others fault without pause.  A program, rates, a share of writes and precopy before it can be
    asked for instead.
    """
    chosen = _policies(policies, more)
    geometry = parsed("--size or --page-size", lambda: parse_geometry(size, page_size))
    spec = link_spec(link)
    peer = peer_of(against)
    workload = Workload.of(values, vcpus, traced=accesses is not None)
    workload.check(size, page_size, seed, guest, with_qemu=peer is not None)
    _check_files(report, picture, html, keep)
    if accesses is not None:
        _check_trace(accesses, geometry, workload.vcpu_count)
    begin_report(report, SCHEMA)
    with raise_when_signalled(), temporary_folder("compare") as folder:
        if accesses is None and workload.program is None:
            write_trace(folder / _TRACE, geometry, workload.vcpu_count, seed)
        trace = folder / _TRACE if accesses is None else accesses
        shared = {
            "size": size, "page-size": page_size, "link": link, "seed": str(seed), "guest": guest,
            **workload.options(trace),
        }  # fmt: skip
        runs: dict[str, list[Outcome]] = {}
        for number in range(1, repeats + 1):
            # In turn: what else the machine does then is met by all of them.
            for name, run in _rows(chosen, peer, spec).items():
                click.echo(f"{name} ..." if repeats == 1 else f"{name} ({number}) ...", err=True)
                kept = run_keeper(keep, name, number)
                runs.setdefault(name, []).append(run(folder, shared))
                kept(folder)
    outcomes = {name: each[0] for name, each in runs.items()}
    reports = {name: outcomes[name].report for name in chosen}
    prefetched = prefetch_figures({name: each for name, (_, each) in chosen.items()}, reports)
    wire_ms = _wire_ms(spec.bytes_per_second, geometry)
    title = f"{size} guest, {page_size} pages, {workload.title}"
    if report is not None:
        plain = plain_of(runs, size, page_size, link, wire_ms, peer)
        for name, own in prefetched.items():
            plain["policies"][name]["prefetch"] = own.to_plain()
        write_report(report, plain)
    if report != "-":
        print_result(f"{verdicts(outcomes)}\n")
        Console().print(table(runs))
        if repeats > 1:
            Console().print()
            Console().print(range_table(runs))
        if prefetched:
            Console().print()
            Console().print(prefetch_table(prefetched))
    if html is not None:
        # Imported late, as below: it takes half a second, and few want it.
        from scripts.figures.compare_page import write_comparison  # noqa: PLC0415

        write_comparison(Path(html), title, link, runs, wire_ms)
    if picture is not None:
        from scripts.figures.plots import draw_distributions, save  # noqa: PLC0415

        save(draw_distributions(latencies_ms(runs), wire_ms, title), picture)


Row = Callable[[Path, Mapping[str, str]], Outcome]


def _rows(
    chosen: Mapping[str, tuple[str, Policy]], peer: Peer | None, spec: LinkSpec
) -> dict[str, Row]:
    """Return what runs each row once, in a folder and with the options that all share."""
    rows: dict[str, Row] = {name: partial(_run, text) for name, (text, _) in chosen.items()}
    if peer is not None:
        rows |= {name: partial(_run_qemu, peer, name, spec) for name in ROWS}
    return rows


def _check_files(
    report: str | None, picture: Path | None, html: str | None, keep: str | None
) -> None:
    check_report(report)
    if html is not None:
        check_writable("--html", html)
    if keep is not None:
        check_fillable("--keep", keep)
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


def _run(policy: str, folder: Path, options: Mapping[str, str]) -> Outcome:
    told = folder / EVENTS
    options = {"policy": policy, **options, "events": str(told)}
    return _outcome(run_migration(options, folder), told)


def _run_qemu(
    peer: Peer, row: str, spec: LinkSpec, folder: Path, options: Mapping[str, str]
) -> Outcome:
    told = folder / EVENTS
    told.unlink(missing_ok=True)
    with link_of(spec) as link:
        report = run_qemu(peer, row, {**options, "events": str(told)}, folder, link)
    return _outcome(report, told)


def _outcome(report: dict[str, Any], told: Path) -> Outcome:
    latencies_us = [
        event["latency-us"] for event in read_all(told) if event["event"] == events.VcpuWake.event
    ]
    if len(latencies_us) != report["midstream"]["faults"]["count"]:
        raise MigrationError("the events and the report tell different numbers of faults")
    _forget(report["midstream"].get("run", {}).get("options", {}), told.parent)
    return Outcome(report, tuple(latencies_us))


def _forget(options: Mapping[str, dict[str, Any]], folder: Path) -> None:
    """Leave the folder's name out of options: equal comparisons have equal ones, in another."""
    for told in options.values():
        program = told.get("program")
        if isinstance(program, str):
            told["program"] = program.replace(f"{folder}/", "")


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


def _wire_ms(rate: int, geometry: Geometry) -> dict[str, float]:
    """Return what the wire alone needs for a page and for a target page; nothing without a rate."""
    if not rate:
        return {}
    page_bytes = max(block.page_bytes for block in geometry.blocks)
    sizes = {"a page": page_bytes, "4 KiB": TARGET_PAGE_BYTES}
    return {name: count / rate * 1000 for name, count in sizes.items()}
