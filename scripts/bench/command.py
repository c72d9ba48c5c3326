"""`midstream bench`: what midstream costs, each figure beside what limits it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from guest.spec import GUEST_CHOICES, PYTHON
from protocol.errors import LocalProtocolError
from protocol.text import did_you_mean
from protocol.units import parse_bytes, parse_geometry
from scripts.bench import against as qemu
from scripts.bench import (
    cost,
    growth,
    latency,
    links,
    noise,
    relayed,
    source_work,
    startup,
    stream,
)
from scripts.bench.figure import Figure, LeftOut, Plan, lines
from scripts.configure import link_spec, parsed
from scripts.figures.raw_pair import PIECE_BYTES
from scripts.links.link import link_of
from scripts.named_files import Command, Use, file_option
from scripts.options import OPTIONS
from scripts.policies import file_of, policy_of
from scripts.qemu.against import Peer, peer_of
from scripts.reports import COMPLETED, begin_report, check_report, write_report
from scripts.runtime.interrupts import raise_when_signalled

SCHEMA = "midstream-bench/2"

# The sections by the names that `--only` takes, in their order.
SECTIONS: dict[str, Callable[[Plan], list[Figure]]] = {
    stream.SECTION: stream.measure_stream,
    source_work.SCHEDULER: source_work.measure_scheduler,
    latency.SECTION: latency.measure_latency,
    links.SECTION: links.measure_links,
    qemu.SECTION: qemu.measure_against,
    relayed.SECTION: relayed.measure_relay,
    cost.SECTION: cost.measure_cost,
    source_work.CLEAN_PASS: source_work.measure_clean_pass,
    growth.SECTION: growth.measure_growth,
    startup.SECTION: startup.measure_startup,
}

# Those that take a real QEMU.
_OF_QEMU = (qemu.SECTION, relayed.SECTION)

# What takes so long that it is measured only where it is named.
_ONLY_NAMED = frozenset({links.SECTION})

_CHUNK_SIZE = next(option.default for option in OPTIONS if option.flag == "--chunk-size")
_RUNS, _QUICK_RUNS = 5, 2
_SIZE, _QUICK_SIZE = "1GiB", "256MiB"


@click.command(cls=Command, report_schema=SCHEMA)
@click.option("--size", metavar="SIZE", help=f"Memory, each run. [default: {_SIZE}]")
@click.option(
    "--page-size", default="2MiB,4KiB", show_default=True, metavar="SIZES", help="Of the stream."
)
@click.option(
    "--chunk-size",
    default=_CHUNK_SIZE,
    show_default=True,
    metavar="SIZE",
    help="Maximum frame size.",
)
@click.option(
    "--runs", type=click.IntRange(1, 100), metavar="N", help=f"Counted runs. [default: {_RUNS}]"
)
@click.option("--link", default="0", metavar="RATE[,...]", help="As in migrate; else loopback.")
@click.option(
    "--guest", default=PYTHON, show_default=True, type=click.Choice(GUEST_CHOICES), metavar="KIND",
    help="What runs the vCPUs, as in migrate; but for the section startup.",
)  # fmt: skip
@file_option(
    "--policy", "policies", multiple=True, metavar="NAME", use=Use.READ, find=file_of,
    help="Measure the latency of this one, such as FILE.py:NAME, and of no other; as often as you "
    "like.",
)  # fmt: skip
@click.option(
    "--only", metavar="NAMES",
    help=f"Sections: {', '.join(SECTIONS)}. [default: all but {', '.join(sorted(_ONLY_NAMED))}]",
)  # fmt: skip
@file_option(
    "--against", metavar="qemu[=FILE]", use=Use.READ, prefix="qemu=",
    help=f"Measure a real QEMU, too: sections {' and '.join(_OF_QEMU)}.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Fewer runs, smaller guests.")
@file_option(
    "--report", metavar="FILE", use=Use.WRITE,
    help="Write all figures as JSON; - for standard output.",
)  # fmt: skip
def bench(  # noqa: PLR0913, PLR0917 - one argument an option
    size: str | None,
    page_size: str,
    chunk_size: str,
    runs: int | None,
    link: str,
    guest: str,
    policies: tuple[str, ...],
    only: str | None,
    against: str | None,
    quick: bool,
    report: str | None,
) -> None:
    """Measure streams, latencies and costs, each beside what limits it, on this machine."""
    spec = link_spec(link)
    for policy in policies:
        parsed("--policy", partial(policy_of, policy))
    peer = peer_of(against)
    names = _section_names(only, peer)
    length_bytes = _length_bytes(size or (_QUICK_SIZE if quick else _SIZE), page_size)
    check_report(report)
    begin_report(report, SCHEMA)
    with raise_when_signalled(), link_of(spec) as made:
        plan = Plan(
            quick=quick,
            runs=runs or (_QUICK_RUNS if quick else _RUNS),
            length_bytes=length_bytes,
            page_sizes=tuple(page_size.split(",")),
            chunk_size=chunk_size,
            guest=guest,
            policies=policies,
            link=made,
            say=lambda line: click.echo(line, err=True),
            against=peer,
        )
        plain = _measure(plan, names)
    if report is not None:
        write_report(report, plain)
    if report != "-":
        click.echo("\n".join(lines(plain)))


def _measure(plan: Plan, names: list[str]) -> dict[str, Any]:
    """Measure sections in turn; return the report."""
    watch = noise.Noise()
    figures: list[Figure] = []
    left_out = []
    for name in names:
        try:
            figures += SECTIONS[name](plan)
        except LeftOut as reason:
            left_out.append(f"{name} is left out: {reason}")
    yardsticks = (stream.YARDSTICK, links.YARDSTICK)
    seen = watch.to_plain([figure for figure in figures if figure.name in yardsticks])
    noisy = noise.warnings(seen)
    return {
        "schema": SCHEMA,
        "status": COMPLETED,
        "quick": plan.quick,
        "runs": plan.runs,
        "size": plan.length_bytes,
        "chunk-size": plan.chunk_size,
        "link": plan.link.title,
        "against": plan.against.title if plan.against else None,
        "machine": noise.machine(),
        "noise": seen,
        "warnings": noisy + left_out,
        "figures": [figure.to_plain(is_noisy=bool(noisy)) for figure in figures],
    }


def _section_names(only: str | None, peer: Peer | None) -> list[str]:
    """Return which sections, in their own order; those of a QEMU where one is named.

    Raises:
        click.BadParameter: There is no such section, or no QEMU for it.
    """
    if only is None:
        unnamed = _ONLY_NAMED if peer is not None else _ONLY_NAMED.union(_OF_QEMU)
        return [name for name in SECTIONS if name not in unnamed]
    wanted = [name.strip() for name in only.split(",")]
    for name in wanted:
        if name in _OF_QEMU and peer is None:
            raise click.BadParameter(f"{name} needs --against", param_hint="--only")
        if name not in SECTIONS:
            raise click.BadParameter(
                f"{name!r} is not one of {', '.join(SECTIONS)}{did_you_mean(name, SECTIONS)}",
                param_hint="--only",
            )
    return [name for name in SECTIONS if name in wanted]


def _length_bytes(size: str, page_sizes: str) -> int:
    try:
        length_bytes = parse_bytes(size)
        for page_size in page_sizes.split(","):
            parse_geometry(size, page_size)
    except LocalProtocolError as error:
        raise click.BadParameter(str(error), param_hint="--size or --page-size") from error
    if length_bytes % PIECE_BYTES:
        raise click.BadParameter(f"{size!r} is no multiple of 2MiB", param_hint="--size")
    return length_bytes
