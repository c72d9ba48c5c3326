"""The runs of a comparison: midstream's under a policy, or a QEMU's, however each ends.

One that fails must cost the user neither the others, which may have taken an hour, nor the
knowledge of it.  Only what no other run could do better ends a comparison: its user, and an option
that the first run refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from protocol import events
from protocol.errors import LocalProtocolError, MigrationError, WrongMemory
from protocol.policy import Policy
from protocol.report import assemble_failed
from scripts.figures.compared import EVENTS, REPORT, Outcome
from scripts.figures.runs import RunFailed, run_migration
from scripts.links.link import link_of
from scripts.links.spec import LinkSpec
from scripts.qemu.against import REPORT as QEMU_REPORT
from scripts.qemu.against import ROWS, Peer, run_qemu
from scripts.reports import FAILED
from scripts.runtime.interrupts import EXIT_CANCELLED
from scripts.screen.facts import facts_of
from scripts.views.saved import read_all

Report = dict[str, Any]
Options = Mapping[str, str]
# Runs a row once, in a folder and with the options that all rows share.
Row = Callable[[Path, Options], Outcome]

_WRONG_OPTION = 2


def rows_of(
    chosen: Mapping[str, tuple[str, Policy]], peer: Peer | None, spec: LinkSpec
) -> dict[str, Row]:
    """Return what runs each row once, by its name.

    Args:
        chosen: By the names of their rows, the policies: as they were typed, and found.
        peer: A QEMU that has rows of its own; None for none.
        spec: The link that lies before that.
    """
    rows: dict[str, Row] = {name: partial(_run, text) for name, (text, _) in chosen.items()}
    if peer is not None:
        rows |= {name: partial(_run_qemu, peer, name, spec) for name in ROWS}
    return rows


def _run(policy: str, folder: Path, options: Options) -> Outcome:
    options = {"policy": policy, **options, "events": str(folder / EVENTS)}
    return _outcome(partial(run_migration, options, folder), folder)


def _run_qemu(peer: Peer, row: str, spec: LinkSpec, folder: Path, options: Options) -> Outcome:
    def run() -> Report:
        with link_of(spec) as link:
            asked = {**options, "events": str(folder / EVENTS)}
            return run_qemu(peer, row, asked, folder, link)

    return _outcome(run, folder)


def _outcome(run: Callable[[], Report], folder: Path) -> Outcome:
    """Run once, and return what came of it.

    Raises:
        MigrationError: The user ended it, or an option is wrong.
    """
    for name in (EVENTS, REPORT, QEMU_REPORT):
        # Of the run before.
        (folder / name).unlink(missing_ok=True)
    try:
        report = run()
        latencies_us = _latencies_us(folder / EVENTS, report)
    except MigrationError as error:
        if error.cancelled or error.exit_status in {_WRONG_OPTION, EXIT_CANCELLED}:
            raise
        reason, left = str(error), None
        if isinstance(error, RunFailed):
            reason, left = error.reason, error.report
        report = left or assemble_failed(FAILED, reason)
        _forget(report, folder)
        return Outcome(report, (), reason, error.exit_status)
    _forget(report, folder)
    reason, status = _judged(report)
    return Outcome(report, () if reason else latencies_us, reason, status)


def _latencies_us(told: Path, report: Report) -> tuple[float, ...]:
    """Return the latency of every fault of a run.

    Raises:
        MigrationError: The events cannot be read, or are not those of this report.
    """
    try:
        latencies_us = tuple(
            event["latency-us"]
            for event in read_all(told)
            if event["event"] == events.VcpuWake.event
        )
    except LocalProtocolError as error:
        raise MigrationError(str(error)) from error
    if len(latencies_us) != report["midstream"]["faults"]["count"]:
        raise MigrationError("the events and the report tell different numbers of faults")
    return latencies_us


def _judged(report: Report) -> tuple[str, int]:
    """Return why a run that ended with status 0 is not good, and the status for it.

    Of a QEMU's memory nobody knows what it should be, and that is said of the row.
    """
    verified = facts_of(report).verified
    if verified is False:
        return "wrong memory", WrongMemory.exit_status
    if verified is None and report["midstream"].get("peer") != "qemu":
        return "nobody compared its memory", MigrationError.exit_status
    return "", 0


def _forget(report: Report, folder: Path) -> None:
    """Leave the folder's name out of options: equal comparisons have equal ones, in another."""
    for told in report.get("midstream", {}).get("run", {}).get("options", {}).values():
        program = told.get("program")
        if isinstance(program, str):
            told["program"] = program.replace(f"{folder}/", "")
