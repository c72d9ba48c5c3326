"""One run of a sweep, in whatever process: from a job to the line that says what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from protocol.errors import MidstreamError, MigrationCancelled
from scripts.reports import COMPLETED, FAILED
from scripts.sweep.kinds import SET, Job, chosen_of

SCHEMA = "midstream-sweep/1"

# What a simulated run's report says of the simulation: it is another each time.
_OF_THE_PROCESS = ("cpu-seconds", "memory-max-bytes")

Line = dict[str, Any]


def run_job(job: Job) -> Line:
    """Run a job to its end; return its line.

    Of a simulated run all is the same whoever runs it and whenever, but for `took`.

    Raises:
        MigrationCancelled: A signal came.
    """
    began = time.monotonic()
    took: dict[str, Any] = {}
    try:
        report = _simulated(job, took) if job.command == "simulate" else _migrated(job)
    except MigrationCancelled:
        raise
    except click.ClickException as error:
        # The machine that runs it does not have what the one that looked at it had.
        return line_of(job, FAILED, error.format_message())
    except MidstreamError as error:
        return line_of(job, FAILED, str(error))
    took = {"seconds": round(time.monotonic() - began, 3), **took}
    return line_of(job, COMPLETED, None, report, took)


def line_of(
    job: Job,
    status: str,
    reason: str | None,
    report: Mapping[str, Any] | None = None,
    took: Mapping[str, Any] | None = None,
) -> Line:
    """Return a line: which point, how its run ended, and its report if it was completed."""
    return {
        "schema": SCHEMA,
        "key": job.key,
        "command": job.command,
        "point": dict(job.point),
        "status": status,
        "reason": reason,
        "report": None if report is None else dict(report),
        "took": dict(took or {}),
    }


def _simulated(job: Job, took: dict[str, Any]) -> Mapping[str, Any]:
    # Imported late, as below: a sweep has runs of one kind.
    from scripts.simulate.command import point_of  # noqa: PLC0415
    from scripts.simulate.run import simulate  # noqa: PLC0415

    assert job.model is not None
    report = simulate(point_of(job.values, chosen_of(job.model), job.values.get(SET, ())))
    simulated = report["midstream"]["simulated"]
    took |= {name: simulated.pop(name) for name in _OF_THE_PROCESS}
    return report


def _migrated(job: Job) -> Mapping[str, Any]:
    from scripts.figures.runs import migrate  # noqa: PLC0415

    options = {name.replace("_", "-"): value for name, value in job.values.items()}
    # A switch has an empty value, and one that is off is not there.
    return migrate(
        {
            name: "" if value is True else str(value)
            for name, value in options.items()
            if value is not False
        }
    )
