"""`midstream doctor`: asks the machine, one thing after the other, and tells what came of it."""

from __future__ import annotations

import json
import sys

import click

from scripts.doctor import guests, machine, memory, queues
from scripts.doctor.feature import Feature, can_run, to_lines, to_plain
from scripts.named_files import Command
from scripts.screen.output import print_result

EXIT_CANNOT_RUN = 1


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="All findings as one JSON object.")
@click.option(
    "--connect", "host", metavar="HOST",
    help="Where a migration would go: what of its way is in this machine. [default: anywhere]",
)  # fmt: skip
def doctor(as_json: bool, host: str | None) -> int:
    """Try what this machine can do, and tell what to do about what is missing.

    Nothing is changed and nothing is left behind.  Exit status: 0 midstream runs here, perhaps
    without some of it; 1 it does not.
    """
    features = [
        question.answer()
        for question in (
            *memory.questions(),
            *guests.questions(),
            *machine.questions(),
            *queues.questions(host),
        )
    ]
    if as_json:
        print_result(json.dumps(to_plain(features), indent=2) + "\n")
    else:
        lines = [line for feature in features for line in _lines(feature)]
        print_result("\n".join([*lines, "", _verdict(features), ""]))
    return 0 if can_run(features) else EXIT_CANNOT_RUN


def _lines(feature: Feature) -> list[str]:
    if not (sys.stdout and sys.stdout.isatty()):
        return to_lines(feature)
    return to_lines(feature, click.style("yes", fg="green"), click.style("no", fg="red"))


def _verdict(features: list[Feature]) -> str:
    missing = [feature.name for feature in features if feature.is_needed and not feature.ok]
    if missing:
        return f"midstream does not run here: {', '.join(missing)}"
    return "midstream runs here; run the commands above as root"
