"""Writes the README's figures of performance from a report of `midstream bench`.

    midstream bench --report scripts/pictures/bench.json
    python -m scripts.figures.performance

Nothing there is typed by hand but why a figure is missed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from scripts.bench.command import SCHEMA
from scripts.bench.render import machine_line, markdown

Plain = Mapping[str, Any]

_ROOT = Path(__file__).resolve().parents[2]
REPORT = _ROOT / "scripts" / "pictures" / "bench.json"
README = _ROOT / "README.md"

BEGIN, END = "<!-- bench: begin -->\n", "<!-- bench: end -->\n"

_NOISE = (
    "With such noise what is reached may be luck, and what is missed may be the noise: take them "
    "for orders of magnitude, and measure again on a quiet machine."
)

# What stops a figure, by how its name begins; the longest that fits counts.
REASONS = {
    "precopy": (
        "Precopy: the plain pair is two loops of one system call each; here an event loop makes a "
        "decision, a header and a checkpoint for each frame, and looks for zeros in every page, on "
        "processors that the two copies keep busy already."
    ),
    "postcopy": (
        "Postcopy: so that little lies in a request's way, the precopy socket holds 64 KiB in "
        "postcopy, and the source is woken for each of them; each fault breaks a page off as well."
    ),
    "decisions": (
        "The scheduler: a decision is some sixty calls in Python, as many for a guest of 4 GiB as "
        "for one of 64; where each fourth page is to be sent it also makes arrays of a dozen runs."
    ),
    "ordered, 4KiB": (
        "A single 4 KiB page: its stages are wake-ups, of the destination, the source, the "
        "destination again and the vCPU, and they are most of the time (`stages` of a report: "
        "`request` more than half, `place` some 40 us)."
    ),
    "ordered, 1 vCPU": (
        "`ordered` at 1 Gbit/s: until the source runs and reads the request (stage `request`), "
        "the background goes on in front of the page."
    ),
    "critical-first": (
        "`critical-first` at 1 Gbit/s: half a millisecond of line lies in the kernel, so that a "
        "request finds little in its way. A source that gets its processor later than that answers "
        "late, and leaves the link idle meanwhile."
    ),
    "CPU a GiB while sending": (
        "Processor time while sending: as for precopy, the work for each frame on both sides."
    ),
    "midstream migrate": (
        "The first page: three interpreters load, then one more for each side's guest, half a "
        "second of processor time each for the two sides alone; and both sides touch all memory "
        "before a page is sent."
    ),
}


def section(report: Plain, reasons: Mapping[str, str]) -> str:
    """Return the Markdown between the marks.

    Raises:
        click.ClickException: A figure is missed, and nobody has said why.
    """
    judged = [figure for figure in report["figures"] if "target" in figure]
    runs = (
        f"of {report['runs']} runs in turn, {report['size'] >> 20} MiB where nothing else is said."
    )
    parts = [
        f"{machine_line(report)}, {runs}",
        *[f"Noise: {warning}." for warning in report["warnings"]],
        *([_NOISE] if report["warnings"] else []),
        "",
        *markdown(judged),
    ]
    missed = [figure for figure in judged if not figure["met"]]
    if missed:
        told = dict.fromkeys(_why(figure["name"], reasons) for figure in missed)
        parts += ["", "What stops the figures that are missed:", "", *(f"- {why}" for why in told)]
    return "\n".join(parts) + "\n"


def replaced(readme: str, text: str) -> str:
    """Return a README with another text between the marks.

    Raises:
        click.ClickException: It lacks them.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise click.ClickException(f"the README lacks {BEGIN.strip()} or {END.strip()}")
    return f"{before}{begin}{text}{end}{after}"


def _why(name: str, reasons: Mapping[str, str]) -> str:
    fitting = [start for start in reasons if name.startswith(start)]
    if not fitting:
        raise click.ClickException(f"{name} is missed, and nothing says what stops it")
    return reasons[max(fitting, key=len)]


@click.command()
@click.option("--report", default=REPORT, type=click.Path(path_type=Path), help="Of the bench.")
@click.option("--readme", default=README, type=click.Path(path_type=Path), help="What to change.")
def main(report: Path, readme: Path) -> None:
    """Write a report's figures into the README."""
    plain = json.loads(report.read_text(encoding="utf-8"))
    if plain.get("schema") != SCHEMA:
        raise click.ClickException(f"{report} is no report of {SCHEMA}")
    text = section(plain, REASONS)
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
