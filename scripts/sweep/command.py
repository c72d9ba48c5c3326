"""`midstream sweep`: one run for each combination of options, as many as there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from protocol.errors import MidstreamError
from scripts.files import check_fillable
from scripts.named_files import Command, FileArgument, Use, file_option
from scripts.reports import COMPLETED
from scripts.runtime.interrupts import raise_when_signalled
from scripts.screen.output import print_result, tell
from scripts.screen.words import counted
from scripts.sweep.asked import Sweep, read_sweep
from scripts.sweep.kinds import Job
from scripts.sweep.lines import Lines, open_lines
from scripts.sweep.processes import Take, Tick, run_on_processes
from scripts.sweep.progress import counted_runs
from scripts.sweep.running import Line
from scripts.sweep.tables import rows_of, write_tables

Engine = Callable[[Sequence[Job], int, Take, Tick], None]

# So many failures are told one by one; the lines have them all.
_TOLD_MAX = 3


@click.command(
    "sweep",
    cls=Command,
    epilog="Exit status: 0 all runs are done; 1 some have failed; 2 the sweep is wrong, and "
    "nothing was run; 130 cancelled: what is done is kept, and not run again.",
)
@click.argument("file", metavar="FILE", cls=FileArgument, use=Use.READ)
@file_option(
    "--out", required=True, metavar="DIR", use=Use.FILL,
    help="Where lines, tables and the page go; runs that are there already are not run again.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["processes", "dask"]), default="processes", show_default=True,
    metavar="KIND", help="Who runs: processes of this machine, or a Dask cluster (dask).",
)  # fmt: skip
@click.option(
    "--scheduler", metavar="ADDRESS",
    help="Of the Dask cluster, such as tcp://10.0.0.1:8786; else one is made on this machine.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1, 1024), metavar="N",
    help="Runs at a time. Default: as many as there are processors; of real runs one.",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress, and no summary.")
def command(
    file: str, out: str, engine: str, scheduler: str | None, workers: int | None, *, quiet: bool
) -> None:
    """Run each combination of options that a TOML file names, real or in virtual time.

    Options of all runs are in [options], those that change from run to run in [axes]. All are
    looked at before anything runs. Each run is a line of JSON in DIR/runs.jsonl.
    """
    check_fillable("--out", out)
    run = _engine_of(engine, scheduler)
    sweep = read_sweep(Path(file))
    folder = Path(out)
    with raise_when_signalled(), open_lines(folder) as lines:
        if lines.mended and not quiet:
            tell(f"midstream: {lines.path}: the last line was torn, and is cut off")
        ran = _run(sweep, lines, run, workers or _workers_of(sweep), quiet=quiet)
        rows = rows_of(sweep, lines)
        missing = write_tables(rows, folder)
        # Imported late: matplotlib takes its time, and a sweep that is wrong says so at once.
        from scripts.sweep.page import write_page  # noqa: PLC0415

        write_page(rows, sweep.axes, folder)
    failed = [line for job in sweep.jobs if not _is_done(line := lines.get(job.key))]
    if missing and not quiet:
        tell(f"midstream: {missing}")
    if not quiet:
        done = len(sweep.jobs) - ran
        print_result(
            f"{counted(len(sweep.jobs), 'run', 'runs')}, {done} of them there already: "
            f"{lines.path}\n"
        )
    if failed:
        raise MidstreamError(_complaint([line for line in failed if line is not None]))


def _engine_of(engine: str, scheduler: str | None) -> Engine:
    """Return who runs jobs.

    Raises:
        click.BadParameter: A scheduler is named that nobody asks.
        MidstreamError: Dask is not installed.
    """
    if engine == "processes":
        if scheduler is not None:
            raise click.BadParameter("it is for --engine dask", param_hint="--scheduler")
        return run_on_processes
    # Imported late: few have a cluster.
    from scripts.sweep.dask_engine import check_dask, run_on_dask  # noqa: PLC0415

    check_dask()
    return partial(run_on_dask, scheduler=scheduler)


def _workers_of(sweep: Sweep) -> int:
    """Return how many runs at a time say what each would say alone."""
    return len(os.sched_getaffinity(0)) if sweep.kind.more else 1


def _run(sweep: Sweep, lines: Lines, run: Engine, workers: int, *, quiet: bool) -> int:
    """Run what is not there yet; return how many runs that were."""
    jobs = [job for job in sweep.jobs if not lines.has(job.key)]
    with counted_runs(len(jobs), quiet=quiet) as progress:

        def take(line: Line) -> None:
            lines.add(line)
            progress.took()

        run(jobs, workers, take, progress.tick)
    return len(jobs)


def _is_done(line: Line | None) -> bool:
    return line is not None and line["status"] == COMPLETED


def _complaint(failed: list[Line]) -> str:
    told = "; ".join(f"{_named(line)}: {line['reason']}" for line in failed[:_TOLD_MAX])
    more = f"; and {len(failed) - _TOLD_MAX} more" if len(failed) > _TOLD_MAX else ""
    return f"{counted(len(failed), 'run has', 'runs have')} failed: {told}{more}"


def _named(line: Line) -> str:
    return ", ".join(f"{name}={value}" for name, value in line["point"].items())
