"""`midstream demo`: runs the cases, tells what came of them, and writes a page about them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from guest.whole_file import copy_whole
from protocol.errors import MidstreamError
from scripts.demo.cases import LINK, POLICIES, Case, run_case
from scripts.demo.story import WIDTH, introduction, story
from scripts.files import check_fillable, check_writable
from scripts.named_files import Command, Use, file_option
from scripts.reports import (
    COMPLETED,
    STANDARD_OUTPUT,
    Report,
    begin_report,
    check_report,
    write_report,
)
from scripts.runtime.folders import temporary_folder
from scripts.screen.output import output_columns, print_result, tell
from scripts.views.outputs import history_of, write_page

_SCHEMA = "midstream-demo/1"
_NAME = "midstream"
_WIDTH_MIN = 32


@click.command(cls=Command, report_schema=_SCHEMA)
@file_option(
    "--html", metavar="FILE", use=Use.WRITE, help="Write a page about the three runs, side by side."
)
@file_option(
    "--report", metavar="FILE", use=Use.WRITE,
    help="Write the figures as JSON; - for standard output.",
)  # fmt: skip
@file_option(
    "--keep", metavar="DIR", use=Use.FILL,
    help="Leave each run's scenario, for midstream inject, and its events there.",
)  # fmt: skip
def demo(html: str | None, report: str | None, keep: str | None) -> None:
    """Show what a half-sent page that is asked for costs under three policies.

    It takes some ten seconds, needs no rights, and is the same on every machine.
    """
    if html is not None:
        check_writable("--html", html)
    check_report(report)
    if keep is not None:
        check_fillable("--keep", keep)
    begin_report(report, _SCHEMA)
    is_told = report != STANDARD_OUTPUT
    # At least as wide as a bar needs.
    width = max(min((output_columns() or WIDTH + 1) - 1, WIDTH), _WIDTH_MIN)
    if is_told:
        print_result(f"{introduction(width)}\n\n")
    cases = [_run(policy, number, keep) for number, policy in enumerate(POLICIES, 1)]
    if html is not None:
        write_page(
            [(case.policy, history_of(map(dict, case.events))) for case in cases], Path(html)
        )
    if report is not None:
        write_report(report, _plain(cases))
    if is_told:
        print_result(story(cases, command_name(), html, width))


def _run(policy: str, number: int, keep: str | None) -> Case:
    tell(f"run {number} of {len(POLICIES)}: {policy}")
    with temporary_folder("demo") as folder:
        case = run_case(policy, folder)
        if keep is not None:
            _keep(folder, Path(keep), policy)
    return case


def _keep(folder: Path, target: Path, policy: str) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        copy_whole(folder / f"{policy}.toml", target / f"{policy}.toml")
        copy_whole(folder / "events.jsonl", target / f"{policy}.jsonl")
    except OSError as error:
        raise MidstreamError(f"cannot write {error.filename}: {error.strerror}") from error


def _plain(cases: Sequence[Case]) -> Report:
    return {
        "schema": _SCHEMA,
        "status": COMPLETED,
        "link": LINK,
        "policies": {case.policy: case.to_plain() for case in cases},
    }


def command_name() -> str:
    """Return how this user types `midstream`: its name where a shell finds it, else its path."""
    program = os.path.abspath(sys.argv[0])  # noqa: PTH100 - a link is what the user types
    if Path(program).name != _NAME:
        return _NAME
    found = shutil.which(_NAME)
    if found is not None and os.path.realpath(found) == os.path.realpath(program):
        return _NAME
    shorter = os.path.relpath(program)
    return shorter if len(shorter) < len(program) and not shorter.startswith("..") else program
