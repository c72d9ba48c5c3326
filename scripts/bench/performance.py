"""Writes the benchmark's figures into its README from reports of `midstream bench`.

    midstream bench --only stream,scheduler,latency,cost,clean-pass,start --report \
        scripts/pictures/bench.json
    midstream bench --only growth --report scripts/pictures/bench-growth.json
    midstream bench --only qemu --against qemu --report scripts/pictures/bench-qemu.json
    python -m scripts.bench.performance

A report may have both judged figures and those of a QEMU, or one of the two.

Nothing there is typed by hand but why a figure is missed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from scripts.bench import against
from scripts.bench.command import SCHEMA
from scripts.bench.figure import MISSED, amount, machine_line, markdown, verdict_on

Plain = Mapping[str, Any]

_ROOT = Path(__file__).resolve().parents[2]
_NAMES = ("bench.json", "bench-growth.json", "bench-qemu.json")
REPORTS = tuple(_ROOT / "scripts" / "pictures" / name for name in _NAMES)
README = _ROOT / "scripts" / "bench" / "README.md"

BEGIN, END = "<!-- bench: begin -->\n", "<!-- bench: end -->\n"

_NOISE = (
    "With such noise what is reached may be luck, and what is missed may be the noise: take them "
    "for orders of magnitude, and measure again on a quiet machine."
)
_NOISE_UNJUDGED = "With such noise take the figures for orders of magnitude."

# Parts of figures' names that were others in reports of before.
_FORMERLY = {
    "decisions, each fourth page to be sent": "decisions/s, every 4th page dirty",
    "memory a page": "memory per page",
    "CPU a GiB": "CPU per GiB",
    "a vCPU that faults without pause": "a continuously faulting vCPU",
}

# What stops a figure, by how its name begins; the longest that fits counts.
REASONS = {
    "precopy": (
        "Precopy: the plain pair is two loops of one system call each; here Python runs between "
        "two of them for each MiB, makes a decision and a header for each frame, and looks into "
        "one target page in sixteen for zeros, on processors that the two copies keep busy already."
    ),
    "postcopy": (
        "Postcopy: so that little lies in a request's way, the kernel holds of the background what "
        "goes in a quarter of a millisecond, and the source is woken for each third of it; source, "
        "destination and vCPU share two processors for each fault, which the copies need too."
    ),
    "decisions": (
        "The scheduler: a decision is some twenty calls in Python, and makes half a dozen "
        "objects, as many for a guest of 4 GiB as for one of 64."
    ),
    "ordered, 4KiB": (
        "A single 4 KiB page: both event loops are awake when it is asked for, and the rest is "
        "Python on both ends: 0.11 ms until the destination knows, 0.26 ms until the source has "
        "read the request and the destination the head of its page, 0.06 ms for the source to "
        "decide, 0.06 ms until it is placed (the stages of three runs). The pure parts of that "
        "take 0.15 ms in a loop, each turn of an event loop 0.02 ms; a processor that does all of "
        "it in turn finds its caches cold. Without staying awake it was 0.7 ms."
    ),
    "ordered, 1 vCPU": (
        "`ordered` at 1 Gbit/s: heads of packets take 4 % of the line. Until the source runs and "
        "reads the request (stage `request`), the background goes on in front of the page, and a "
        "millisecond's worth of a page is left in the kernel when the background begins again "
        "beside it, so that the link is not idle: half of both made the median a fiftieth "
        "shorter, and the link idle for a seventieth of the time. Mapping the page takes 0.3 ms, "
        "because the kernel does it by 4 KiB."
    ),
    "critical-first": (
        "`critical-first` at 1 Gbit/s: half a millisecond of line lies in the kernel, so that a "
        "request finds little in its way; half of that made the median fault a tenth shorter and "
        "cost the link 3 % of its page data. The rest of a fault is what a 4 KiB page takes on "
        "loopback. With four vCPUs the destination is busy all the time (0.45 ms of a processor "
        "for each fault, the background's frames among it), and faults wait for their turn; the "
        "longest wait for a page that went in the background and lies in its socket."
    ),
    "CPU per GiB while sending": (
        "Processor time while sending: as for precopy, the work for each frame on both sides."
    ),
    "midstream migrate": (
        "The first page: before it five interpreters load, which takes each side 0.3 to 0.4 s of a "
        "processor, the launcher and each guest 0.2 s, and both sides populate all memory; two "
        "processors do it. Where a virtual machine's free memory has gone back to its host, that "
        "takes most of a second more."
    ),
}


def section(reports: Sequence[Plain], reasons: Mapping[str, str]) -> str:
    """Return the Markdown between the marks.

    Raises:
        click.ClickException: A figure is missed, and nobody has said why.
    """
    parts: list[str] = []
    for report in reports:
        judged = [figure for figure in report["figures"] if "target" in figure]
        beside = [figure for figure in report["figures"] if figure["section"] == against.SECTION]
        where = _where(report, is_judged=bool(judged))
        parts += ["", *where] if parts else where
        if judged:
            parts += ["", *markdown(judged), *_misses(judged, reasons)]
        if beside:
            parts += ["", *_beside(beside)]
    return "\n".join(parts) + "\n"


def _where(report: Plain, *, is_judged: bool) -> list[str]:
    """Return the lines that say on what a report was measured, and how noisy that was."""
    runs = f"of {report['runs']} runs in turn"
    if is_judged:
        runs += f", {report['size'] >> 20} MiB where nothing else is said"
    noise = [f"Noise: {warning}." for warning in report["warnings"]]
    advice = _NOISE if is_judged else _NOISE_UNJUDGED
    return [f"{machine_line(report)}, {runs}.", *noise, *([advice] if noise else [])]


def _misses(judged: Sequence[Plain], reasons: Mapping[str, str]) -> list[str]:
    """Return the lines that say what stops the figures that are missed."""
    missed = [figure for figure in judged if verdict_on(figure) == MISSED]
    if not missed:
        return []
    told = dict.fromkeys(_why(figure["name"], reasons) for figure in missed)
    return ["", "What stops the figures that are missed:", "", *(f"- {why}" for why in told)]


def _beside(figures: Sequence[Plain]) -> list[str]:
    """Return a QEMU's figures and midstream's beside them as a table, a line a case."""
    cases: dict[str, list[Plain]] = {}
    for figure in figures:
        case, _, _ = figure["name"].rpartition(": ")
        cases.setdefault(case, []).append(figure)
    columns = [figure["name"].rpartition(": ")[2] for figure in next(iter(cases.values()))]
    limits = [
        f"{figure['limit']['name']} is {amount(figure['limit'], figure['unit'])}"
        for figure in next(iter(cases.values()))
    ]
    return [
        f"Beside a real QEMU, on the same link and accesses: {', '.join(dict.fromkeys(limits))}.",
        "",
        f"| | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
        *(
            f"| {case} | {' | '.join(amount(each, each['unit']) for each in of_case)} |"
            for case, of_case in cases.items()
        ),
    ]


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
@click.option(
    "--report", "paths", multiple=True, type=click.Path(path_type=Path),
    help="Of the bench; may be given more than once.",
)  # fmt: skip
@click.option("--readme", default=README, type=click.Path(path_type=Path), help="What to change.")
def main(paths: tuple[Path, ...], readme: Path) -> None:
    """Write reports' figures into the README."""
    text = section(read_reports(paths or REPORTS), REASONS)
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), text), encoding="utf-8")


def read_reports(paths: Sequence[Path]) -> list[Plain]:
    """Return what the files hold.

    Raises:
        click.ClickException: One is no report of a benchmark.
    """
    reports = []
    for path in paths:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain.get("schema") != SCHEMA:
            raise click.ClickException(f"{path} is no report of {SCHEMA}")
        for figure in plain["figures"]:
            figure["name"] = _present_name(figure["name"])
        reports.append(plain)
    return reports


def _present_name(name: str) -> str:
    """Return what a figure is called now whose report may be of before."""
    for former, present in _FORMERLY.items():
        name = name.replace(former, present)
    return name


if __name__ == "__main__":
    main()
