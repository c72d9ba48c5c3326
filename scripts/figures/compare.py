"""`midstream compare`: one guest, one trace, several policies in turn, on the same link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from guest.spec import GUEST_CHOICES, PROGRAM_NAMES, PYTHON
from guest.trace import read_trace, write_trace
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.policy import PRESETS, Policy
from protocol.units import parse_geometry
from scripts.configure import link_spec, parsed
from scripts.figures.compared import (
    SCHEMA,
    Outcome,
    good,
    latencies_ms,
    plain_of,
    range_table,
    run_keeper,
    table,
)
from scripts.figures.compared_runs import Row, rows_of
from scripts.figures.compared_verdict import problem_of, verdicts
from scripts.figures.prefetch_table import prefetch_figures, prefetch_table
from scripts.figures.workload import Workload
from scripts.files import check_fillable, check_twice_readable, check_writable
from scripts.help_text import complete_names
from scripts.named_files import Command, Use, file_option
from scripts.policies import file_of, policy_of
from scripts.qemu.against import peer_of
from scripts.reports import begin_report, check_report, write_report
from scripts.runtime.folders import temporary_folder
from scripts.runtime.interrupts import raise_when_signalled
from scripts.screen.output import print_result
from scripts.screen.words import spaced

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

    A run that fails does not end the others; it has no figures, and the exit status is its.
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
        rows = rows_of(chosen, peer, spec)
        runs = _run_in_turn(rows, repeats, partial(run_keeper, keep), folder, shared)
    reports = {name: [each.report for each in good(runs[name])] for name in chosen}
    prefetched = prefetch_figures({name: each for name, (_, each) in chosen.items()}, reports)
    wire_ms = _wire_ms(spec.bytes_per_second, geometry)
    problem = problem_of(runs)
    title = f"{spaced(size)} guest, {spaced(page_size)} pages, {workload.title}"
    if report is not None:
        plain = plain_of(runs, size, page_size, link, wire_ms, peer)
        if problem is not None:
            plain["reason"] = str(problem)
        for name, own in prefetched.items():
            plain["policies"][name]["prefetch"] = own.to_plain()
        write_report(report, plain)
    if report != "-":
        print_result(f"{verdicts(runs)}\n")
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
    if problem is not None:
        raise problem


def _run_in_turn(
    rows: Mapping[str, Row],
    repeats: int,
    keeper: Callable[[str, int], Callable[[Path], None]],
    folder: Path,
    options: Mapping[str, str],
) -> dict[str, list[Outcome]]:
    """Run all rows so often, in turn: what else the machine does then is met by all of them."""
    runs: dict[str, list[Outcome]] = {name: [] for name in rows}
    for number in range(1, repeats + 1):
        for name, run in rows.items():
            click.echo(f"{name} ..." if repeats == 1 else f"{name} ({number}) ...", err=True)
            keep = keeper(name, number)
            runs[name].append(run(folder, options))
            keep(folder)
    return runs


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


def _wire_ms(rate: int, geometry: Geometry) -> dict[str, float]:
    """Return what the wire alone needs for a page and for a target page; nothing without a rate."""
    if not rate:
        return {}
    page_bytes = max(block.page_bytes for block in geometry.blocks)
    sizes = {"a page": page_bytes, "4 KiB": TARGET_PAGE_BYTES}
    return {name: count / rate * 1000 for name, count in sizes.items()}
