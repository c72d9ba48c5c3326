"""`midstream bench`: throughput beside raw sockets."""

from __future__ import annotations

import click

from protocol.errors import LocalProtocolError
from protocol.units import parse_bytes, parse_geometry
from scripts.configure import link_rate
from scripts.figures.raw_pair import PIECE_BYTES
from scripts.figures.runs import write_json
from scripts.figures.throughput import run_throughput
from scripts.files import check_writable
from scripts.options import OPTIONS
from scripts.processes.interrupts import raise_when_signalled
from scripts.processes.link import link_of_rate

_CHUNK_SIZE = next(option.default for option in OPTIONS if option.flag == "--chunk-size")


@click.command()
@click.option("--size", default="1GiB", show_default=True, metavar="SIZE", help="Memory, each run.")
@click.option("--page-size", default="2MiB", show_default=True, metavar="SIZE", help="Page size.")
@click.option(
    "--chunk-size", default=_CHUNK_SIZE, show_default=True, metavar="SIZE", help="A frame's most."
)
@click.option(
    "--runs", default=5, show_default=True, type=click.IntRange(1, 100), help="Counted runs."
)
@click.option("--link", default="0", metavar="RATE", help="A link of its own; else loopback.")
@click.option("--report", metavar="FILE", help="Write all figures as JSON; - for standard output.")
def bench(
    size: str, page_size: str, chunk_size: str, runs: int, link: str, report: str | None
) -> None:
    """Measure the precopy stream beside a plain socket pair, on loopback or a shaped link."""
    rate = link_rate(link)
    length_bytes = _length_bytes(size, page_size)
    if report is not None and report != "-":
        check_writable("--report", report)
    with raise_when_signalled(), link_of_rate(rate) as made:
        throughput = run_throughput(length_bytes, page_size, chunk_size, runs, _Tell(runs), made)
    if report is not None:
        write_json(report, throughput.to_plain())
    if report != "-":
        click.echo("\n".join(throughput.lines()))


class _Tell:
    """Says on standard error which run is under way."""

    def __init__(self, runs: int) -> None:
        self._runs = runs

    def __call__(self, number: int) -> None:
        click.echo(f"run {number} of {self._runs}" if number else "warm-up", err=True)


def _length_bytes(size: str, page_size: str) -> int:
    try:
        length_bytes = parse_bytes(size)
        parse_geometry(size, page_size)
    except LocalProtocolError as error:
        raise click.BadParameter(str(error), param_hint="--size or --page-size") from error
    if length_bytes % PIECE_BYTES:
        raise click.BadParameter(f"{size!r} is no multiple of 2MiB", param_hint="--size")
    return length_bytes
