"""`midstream simulate`: what a migration would be like, in virtual time over a model of a link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import click

from guest.spec import ProgramSpec
from protocol.errors import MidstreamError
from protocol.limits import MODELLED_VCPU_COUNT_MAX
from protocol.report import assemble_failed
from scripts.configure import link_spec, outputs_of, parsed, source_config
from scripts.named_files import Command, Use, file_option
from scripts.options import OPTIONS, with_options
from scripts.reports import Outputs, begin_report, report_error, write_report
from scripts.screen.earlier import Earlier
from scripts.screen.output import print_result, tell
from scripts.screen.recorder import Recorder
from scripts.screen.table import table
from scripts.screen.verdict import put_verdict
from scripts.simulate.agenda import Agenda
from scripts.simulate.model import REFERENCE
from scripts.simulate.model_files import Chosen, choose_model, model_file
from scripts.simulate.run import NOBODY, Point, Report, Told, simulate
from scripts.views.spool import Spool, viewed

# Of `migrate`'s options, those that say something of a guest and a link of which there is a model.
_FLAGS = (
    "--size", "--page-size", "--vcpus", "--program", "--accesses", "--access-rate",
    "--write-ratio",
    "--start-paused", "--seed", "--policy", "--chunk-size", "--postcopy-after",
    "--postcopy-after-time", "--downtime-limit", "--max-bandwidth", "--max-postcopy-bandwidth",
    "--link", "--report", "--events", "--perfetto", "--html", "--quiet", "--verbose",
)  # fmt: skip
_HELP = {"--vcpus": f"Number of vCPUs, up to {MODELLED_VCPU_COUNT_MAX}."}

SIMULATED = tuple(
    replace(option, help=_HELP.get(option.flag, option.help))
    for option in OPTIONS
    if option.flag in _FLAGS
)
# What the others are, where a configuration asks for them.
_DEFAULTS = {option.name: option.default for option in OPTIONS}


@dataclass(frozen=True)
class ModelledSpec(ProgramSpec):
    """A program of a guest that needs no memory, and may have more vCPUs."""

    vcpu_count_max = MODELLED_VCPU_COUNT_MAX


def point_of(values: Mapping[str, Any], chosen: Chosen, changes: Sequence[str] = ()) -> Point:
    """Return what is to be simulated.

    Args:
        values: Options of `midstream simulate` by their names, as typed; others are the defaults.
        chosen: The model.
        changes: Its values that are to be others, NAME=VALUE each.

    Raises:
        click.BadParameter: An option's value is none that it can have.
    """
    values = {**_DEFAULTS, **values}
    return Point(
        config=source_config(values, spec_type=ModelledSpec),
        link=link_spec(values["link"]),
        model=parsed("--set", lambda: chosen.model.with_changes(changes)),
        model_name=chosen.name + (" with changes" if changes else ""),
        quiet=chosen.quiet,
    )


@click.command("simulate", cls=Command)
@with_options(SIMULATED)
@file_option(
    "--model", default=None, metavar="NAME|FILE", use=Use.READ, find=model_file,
    help="What machine and kernel take: this-machine (as `midstream calibrate` left it; the "
    f"default where it has), {REFERENCE} (the default elsewhere), native (compiled code), or a "
    "TOML file.",
)  # fmt: skip
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE",
    help="Change a value of the model; may be given several times.",
)  # fmt: skip
@file_option(
    "--against", multiple=True, metavar="REPORT", use=Use.READ,
    help="A real run's report: print what is predicted beside what was measured; may be given "
    "several times.",
)  # fmt: skip
def command(
    model: str | None,
    changes: tuple[str, ...],
    against: tuple[str, ...],
    **values: Any,  # noqa: ANN401 - click's values
) -> None:
    """Simulate a migration in virtual time, with the engines and policies of a real one.

    A guest of any size, a link of any rate: no memory is made and no byte is sent, so none is
    compared. What is not a decision is a model, which the report names with all its values.
    """
    outputs = outputs_of(values)
    point = point_of(values, choose_model(model), changes)
    measured = []
    if against:
        # Imported late: few runs are compared.
        from scripts.simulate.against import check_same, read_reports  # noqa: PLC0415

        measured = read_reports(against)
        check_same(measured, point)
    report = run(point, outputs)
    if outputs.quiet or outputs.has_standard_output:
        return
    if measured:
        from scripts.simulate.against import compared  # noqa: PLC0415

        print_result(compared(report, measured))
    else:
        print_result(table(report))


def run(point: Point, outputs: Outputs) -> Report:
    """Simulate a point, and write what is wanted of it; return the report.

    Raises:
        MidstreamError: The migration failed as a real one would, or a file cannot be written.
    """
    begin_report(outputs.report)
    with viewed(outputs) as spool, ExitStack() as stack:

        def told(agenda: Agenda) -> Told:
            return stack.enter_context(_told(agenda, outputs, spool))

        try:
            report = simulate(point, told)
        except MidstreamError as error:
            report_error(error, assemble_failed, outputs.report)
            raise
    put_verdict(report)
    if outputs.report is not None:
        write_report(outputs.report, report)
    return report


@contextmanager
def _told(agenda: Agenda, outputs: Outputs, spool: Spool | None) -> Iterator[Told]:
    """Write both sides' events, in the order of their time."""
    path, spooled = outputs.events_file, spool.path if spool is not None else None
    if path is None and spooled is None and not outputs.verbose:
        yield NOBODY
        return
    on_state = tell if outputs.verbose else None
    # Who writes at once writes in order.
    kept: dict[str, Any] = {
        "spool": spooled, "at_once": True, "on_state": on_state, "now_ns": agenda.clock_ns,
    }  # fmt: skip
    with (
        Recorder("source", path, **kept) as source,
        Recorder("dest", path, earlier=Earlier.KEPT, **kept) as dest,
    ):
        yield Told(source=source, dest=dest)
