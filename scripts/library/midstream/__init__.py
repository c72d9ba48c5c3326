"""midstream as a library: run migrations, comparisons and injections, and take their results.

    import midstream

    report = midstream.migrate(size="64MiB", policy="critical-first", link="1Gbit/s", seed=1)
    print(report.status, report.faults["p99-us"])

Each call runs the command of its name in processes of its own and returns when they have ended, so
that it works wherever Python does: in a notebook, in a running asyncio or Trio loop (which it
blocks; `await asyncio.to_thread(midstream.migrate, ...)` does not), in a thread.  Options have the
names of the command line, with underscores, and its meanings: `midstream migrate --help`.

Results are data: `report.row()` is a row of a table (`pandas.DataFrame([...])`), `load_events` a
table of columns (`pandas.DataFrame(load_events(path))`), and what the fields of a report mean, and
in which unit, is in the schema that is installed with midstream (`schema()`).
"""

from __future__ import annotations

from typing import Unpack

from midstream.options import Choice, CompareOptions, MigrateOptions, Path
from midstream.results import Comparison, Findings, Report, RunFailed, load_events, schema
from midstream.running import run_command
from scripts.provenance import versions

__all__ = [
    "CompareOptions",
    "Comparison",
    "Findings",
    "MigrateOptions",
    "Report",
    "RunFailed",
    "__version__",
    "compare",
    "inject",
    "load_events",
    "migrate",
    "schema",
]

__version__ = versions()["midstream"] or "unknown"


def migrate(*, check: bool = True, **options: Unpack[MigrateOptions]) -> Report:
    """Migrate a guest between two processes on this machine, and return the report.

    Args:
        check: Raise if the migration does not end well; else its report says why.
        options: As of `midstream migrate`: sizes, rates and times as they are typed there.  With
            `events=True` the report has the events of the run, too.

    Raises:
        RunFailed: It did not end well, or an option is wrong, which always raises.
    """
    return Report.of_run(run_command("migrate", (), dict(options), check=check))


def compare(*policies: str, check: bool = True, **options: Unpack[CompareOptions]) -> Comparison:
    """Run one guest and one access trace under several policies, and return all their reports.

    Args:
        policies: Their names, in order, or `FILE.py:NAME`; all of midstream's own without any.
        check: Raise if any run does not end well; else `failures` has those that did not.
        options: As of `midstream compare`.

    Raises:
        RunFailed: A run did not end well, or an option is wrong, which always raises.
    """
    done = run_command("compare", (), dict(options), check=check, repeated={"policy": policies})
    return Comparison(done.report)


def inject(
    *scenarios: Path,
    repeat: int = 1,
    breaks: int = 0,
    breaks_seed: int = 0,
    guest: Choice | None = None,
    keep: Path | None = None,
) -> Findings:
    """Run scripted fault injections, and return what of them was not as expected.

    Args:
        scenarios: Their files.
        repeat: Run each so often.
        breaks: Instead of its steps, break connections at random bytes, in so many runs.
        breaks_seed: The first run's seed; each run's is one more.
        guest: Run each with such a guest, whatever it says.
        keep: A folder where each run's events and report are left.

    Raises:
        RunFailed: A scenario or an option is wrong.
    """
    options = {
        "repeat": repeat, "breaks": breaks, "breaks_seed": breaks_seed,
        "guest": guest, "keep": keep,
    }  # fmt: skip
    return Findings(run_command("inject", scenarios, options, check=False).report)
