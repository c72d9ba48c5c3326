"""Writes a run's report where the user wants it: from its beginning, and however it ends.

A report that is a file is there as soon as the command has begun, and says that it has not ended.
It is replaced as a whole (`guest/whole_file.py`), so whoever reads it never finds half of one, nor
that of an earlier run.  How it ended is what the exit status says: `completed` goes with 0, for a
guest that found wrong memory with 3, and where a policy of the user's failed on the way with 5;
`cancelled` with 130; `failed` with all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guest.whole_file import is_regular_target, own_descriptor
from protocol.errors import (
    MidstreamError,
    MigrationCancelled,
    PolicySwitchedOff,
    WrongMemory,
    root_cause,
)
from protocol.text import one_line
from scripts.provenance import describe
from scripts.runtime.interrupts import tell_before_exit
from scripts.runtime.parent import orders
from scripts.screen.outlet import write_output
from scripts.screen.output import print_result

Report = dict[str, Any]

STANDARD_OUTPUT = "-"
# The same, as the name of a file.
STANDARD_OUTPUT_FILE = "/dev/stdout"

# QEMU's names (`protocol/states.py`, whose table of events nothing here needs).
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
_SETUP = "setup"

# What reading a file that holds no report comes to.
_NO_REPORT = (OSError, ValueError, LookupError, TypeError, AttributeError)

NOT_FINISHED = "it has not finished, or was killed before it could say how it ended"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files and views of a run that its user wants.

    Attributes:
        report: The file of the report, or `-` for standard output; None for none.
        events: That of the events, likewise.
        perfetto: That of the trace for the Perfetto UI.
        html: That of the page.
        serve: The host and port at which browsers see the run while it goes on; None for nowhere.
        serve_after: How many seconds longer than that they see it whole.
        quiet: Neither progress nor the result's table.
        verbose: Each change of state is told.
    """

    report: str | None = None
    events: str | None = None
    perfetto: str | None = None
    html: str | None = None
    serve: tuple[str, int] | None = None
    serve_after: float = 0.0
    quiet: bool = False
    verbose: bool = False

    @property
    def files(self) -> dict[str, str]:
        """The files that are wanted, by the names of their options; no standard output."""
        names = ("report", "events", "perfetto", "html")
        named = {name: getattr(self, name) for name in names}
        return {name: path for name, path in named.items() if path not in {None, STANDARD_OUTPUT}}

    @property
    def has_standard_output(self) -> bool:
        """Whether a report or events have standard output, which then has nothing else."""
        return STANDARD_OUTPUT in {self.report, self.events} or not orders().prints_table

    @property
    def events_file(self) -> Path | None:
        """The file that events go to, None for none."""
        path = STANDARD_OUTPUT_FILE if self.events == STANDARD_OUTPUT else self.events
        return Path(path) if path is not None else None


# What is asked for is wrong: the command line, or a file that it names.
EXIT_USAGE = 2

# The reports that this process has begun; what else is there is of an earlier run.
_begun: set[str] = set()


def check_report(target: str | None) -> None:
    """Refuse a `--report` that could not be written later; standard output can.

    Raises:
        click.BadParameter: As `check_writable`.
    """
    # Sides, which are told what was checked, load this module and not that.
    from scripts.files import check_writable  # noqa: PLC0415

    if target not in {None, STANDARD_OUTPUT}:
        check_writable("--report", str(target))


def begin_report(target: str | None, schema: str | None = None) -> None:
    """Say in the report, if it is a file, that the command has begun and not ended.

    Args:
        target: The value of `--report`.
        schema: Of a command whose report is not that of a migration.

    Raises:
        MidstreamError: It cannot be written.
    """
    if target is not None and is_report_file(target):
        write_report(target, _outcome(_SETUP, NOT_FINISHED, schema))
        _begun.add(target)


def settle_report(target: str | None, error: BaseException, schema: str | None = None) -> None:
    """See to it that a report that is a file says how the command has ended, and why.

    What it has counted stays, what an earlier run has counted does not.  A command line that is
    wrong, or a file that says what is to be run, has begun nothing, and leaves what there is of an
    earlier run.

    Args:
        target: The value of `--report`.
        error: Why the command fails.
        schema: As of `begin_report`.
    """
    if target is None or not is_report_file(target):
        return
    is_run = isinstance(error, MidstreamError) and error.exit_status != EXIT_USAGE
    if not is_run and target not in _begun:
        return
    cause = error if isinstance(error, MidstreamError) else MidstreamError(_words(error))
    if target not in _begun or not put_reason(Path(target), cause):
        with suppress(MidstreamError):
            write_report(target, _outcome(_status_of(cause), one_line(str(cause)), schema))


@contextmanager
def settled_report(target: str | None, schema: str | None = None) -> Iterator[None]:
    """Write into a report that is a file how the block has ended, whatever ends it.

    Args:
        target: The value of `--report`.
        schema: As of `begin_report`.
    """
    # A signal may end the process at any time from here on, and before the report is begun.
    tell_before_exit(cancel_report(target, schema))
    try:
        yield
    except Exception as error:
        settle_report(target, root_cause(error), schema)
        raise


def cancel_report(target: str | None, schema: str | None = None) -> Callable[[str], None] | None:
    """Return what tells the report of a signal that ends the process at once; None without a file.

    All that it takes is loaded now: a signal may come in the midst of an import.

    Args:
        target: The value of `--report`.
        schema: As of `begin_report`.
    """
    if target is None or not is_report_file(target):
        return None
    import json  # noqa: F401, PLC0415

    describe(_outcome(CANCELLED, "", schema))
    return lambda reason: settle_report(target, MigrationCancelled(reason), schema)


def report_error(
    error: MidstreamError, report_failure: Callable[[str, str], Report], target: str | None
) -> None:
    """Write the report of a migration that failed, if one was wanted; why it failed comes first."""
    if target is None:
        return
    from scripts.screen.verdict import put_verdict  # noqa: PLC0415 - only who fails waits

    report = report_failure(_status_of(error), one_line(str(error)))
    tell_of_link(report)
    put_verdict(report)
    with suppress(MidstreamError):
        write_report(target, report)


def put_reason(path: Path, error: MidstreamError) -> bool:
    """Put into the report that a file holds why the command failed; return whether it holds one.

    Who wrote it may have been called off because of that, or have ended well before that.
    """
    import json  # noqa: PLC0415

    with suppress(MidstreamError, *_NO_REPORT):
        report = json.loads(path.read_text(encoding="utf-8"))
        own = report.get("midstream", report)
        if not (report["status"] and ("schema" in own or "reason" in own)):
            return False
        own["reason"] = one_line(str(error))
        # Memory that is wrong has arrived all the same, and so has a guest without its policy.
        moved = {WrongMemory.exit_status, PolicySwitchedOff.exit_status}
        # Who made several migrations has not done what it was to do.
        if not ("midstream" in report and error.exit_status in moved):
            report["status"] = _status_of(error)
        if "midstream" in report:
            from scripts.screen.verdict import put_verdict  # noqa: PLC0415 - only who fails waits

            put_verdict(report)
        write_report(str(path), report)
        return True
    return False


def is_of_cancelled(path: Path) -> bool:
    """Return whether the report that a file holds is of a migration that was cancelled."""
    import json  # noqa: PLC0415

    with suppress(MidstreamError, *_NO_REPORT):
        return bool(json.loads(path.read_text(encoding="utf-8"))["status"] == CANCELLED)
    return False


def amend_report(target: str, amend: Callable[[Report], Report]) -> None:
    """Change the report that a file holds, if it holds one.

    Raises:
        MidstreamError: It cannot be written.
    """
    import json  # noqa: PLC0415

    with suppress(*_NO_REPORT):
        report = amend(json.loads(Path(target).read_text(encoding="utf-8")))
        write_report(target, report)


def write_report(target: str, report: Report) -> None:
    """Write a report to a file, or to standard output for `-`, with what was asked.

    Raises:
        MidstreamError: It cannot be written.
    """
    import json  # noqa: PLC0415

    text = json.dumps(describe(report), indent=2, allow_nan=False) + "\n"
    if target == STANDARD_OUTPUT:
        print_result(text)
        return
    try:
        write_output(target, text.encode())
    except OSError as error:
        raise MidstreamError(f"cannot write {target}: {error.strerror}") from error


def tell_of_link(report: dict[str, Any]) -> None:
    """Add what whoever started this side has put between it and the other, if anything."""
    link = orders().link
    if link is not None and "midstream" in report:
        report["midstream"]["link"] = link.to_plain()


def is_report_file(target: str) -> bool:
    """Return whether a report is a file under a name, there from the beginning; a stream is not."""
    try:
        named = target != STANDARD_OUTPUT and own_descriptor(target) is None
        return named and is_regular_target(target)
    except OSError:
        return False


def _outcome(status: str, reason: str, schema: str | None) -> Report:
    """Return a report that says no more than how it ended."""
    if schema is not None:
        return {"schema": schema, "status": status, "reason": reason}
    # Imported late: only who wants a report waits for what it takes.
    from protocol.report import assemble_failed  # noqa: PLC0415

    return assemble_failed(status, reason)


def _words(error: BaseException) -> str:
    """Return why a command failed in a way that is no migration's."""
    format_message: Callable[[], str] | None = getattr(error, "format_message", None)
    return (
        format_message() if format_message else f"internal error: {type(error).__name__}: {error}"
    )


def _status_of(error: MidstreamError) -> str:
    is_user = error.cancelled or error.exit_status == MigrationCancelled.exit_status
    return CANCELLED if is_user else FAILED
