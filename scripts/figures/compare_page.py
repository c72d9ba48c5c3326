"""The page of a comparison: figures, differences from the first row, distributions on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from protocol.errors import MidstreamError
from scripts.figures.compared import (
    COLUMNS,
    Outcome,
    Runs,
    cell,
    good,
    latencies_ms,
    range_of,
    spreads,
)
from scripts.figures.compared_verdict import failures_of, longest_waits_of, outcome_of, waits_of
from scripts.figures.plots import draw_distributions, svg_of
from scripts.screen.outlet import write_output

_UNITS = {"-us": "ms", "-ms": "ms", "-bytes": "MiB"}

_POLICY = (
    "<meta http-equiv='Content-Security-Policy' "
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884 }
th:first-child { text-align: left }
small { display: block; opacity: .7 }
.less { color: #1a7f37 } .more { color: #b35900 }
@media (prefers-color-scheme: dark) { .less { color: #56d364 } .more { color: #f0a35e } }
.failed { color: #c4291c; font-weight: 600 } .failed li { font-weight: 400 }
@media (prefers-color-scheme: dark) { .failed { color: #ff8074 } }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem }
dt { font-weight: 600 } dd { margin: 0 }
h1 { font-size: 1.6rem }
svg { max-width: 100%; height: auto }
"""


def write_comparison(
    path: Path, title: str, link: str, runs: Runs, wire_ms: Mapping[str, float]
) -> None:
    """Write a comparison as one file that needs no other.

    Args:
        path: The file.
        title: What was run.
        link: As `--link` said it.
        runs: All runs of each row, in order; differences are from the first row.
        wire_ms: What the wire alone needs, by what it carries.

    Raises:
        MidstreamError: The file cannot be written.
    """
    svg = svg_of(draw_distributions(latencies_ms(runs), wire_ms, title))
    lines = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        _POLICY,
        f"<title>midstream compare: {escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        f"<p>Link: {escape(link if link != '0' else 'plain loopback')}. {_about(runs)}</p>",
        *_ends(runs),
        *_waits(runs),
        *_rows(runs),
        "<h2>Fault latency</h2>",
        "<p>All rows on the same axes: the share of faults that waited at least so long.</p>",
        # Of an SVG inside a page the prologue is none.
        svg[svg.index("<svg") :],
    ]
    try:
        write_output(path, "\n".join(lines).encode())
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error


def _ends(runs: Runs) -> list[str]:
    """Return how good all runs were; where some were not, in red and with the reasons."""
    failures = failures_of(runs)
    if not failures:
        return [f"<p>{escape(outcome_of(runs))}"]
    return [
        f"<div class='failed'><p>{escape(outcome_of(runs))}",
        "What failed has no part in the figures.<ul>",
        *(f"<li>{escape(line)}" for line in failures),
        "</ul></div>",
    ]


def _waits(runs: Runs) -> list[str]:
    """Return what was waited for, before all figures."""
    rows = (f"<dt>{escape(name)}<dd>{escape(told)}" for name, told in waits_of(runs).items())
    return [f"<p>{escape(longest_waits_of(runs))}<dl>", *rows, "</dl>"]


def _about(runs: Runs) -> str:
    first, count = next(iter(runs)), max(len(good(each)) for each in runs.values())
    told = f"Below each figure: its difference from {escape(first)}."
    return told if count <= 1 else f"Medians of {count} runs each, with their range. {told}"


def _rows(runs: Runs) -> list[str]:
    """Return the table, a line a row."""
    heads = "".join(f"<th>{title} <small>{_unit(key)}</small>" for key, title in COLUMNS.items())
    lines = [f"<table><tr><th>policy{heads}"]
    base = spreads(next(iter(runs.values())))
    for number, (name, outcomes) in enumerate(runs.items()):
        own = spreads(outcomes)
        if not own:
            lines.append(f"<tr><th>{escape(name)}{'<td>-' * len(COLUMNS)}")
            continue
        cells = [
            f"<td>{cell(key, own[key].median)}{_range(key, outcomes)}"
            f"{_difference(own[key].median, base[key].median) if number and base else ''}"
            for key in COLUMNS
        ]
        lines.append(f"<tr><th>{escape(name)}{''.join(cells)}")
    return [*lines, "</table>"]


def _unit(key: str) -> str:
    return next((unit for end, unit in _UNITS.items() if key.endswith(end)), "")


def _range(key: str, outcomes: Sequence[Outcome]) -> str:
    return (
        f"<small>{range_of(key, spreads(outcomes)[key])}</small>" if len(good(outcomes)) > 1 else ""
    )


def _difference(value: float, base: float) -> str:
    """Return how much more or less it is than in the first row; nothing of none."""
    if not base or value == base:
        return ""
    share = value / base - 1
    kind = "less" if share < 0 else "more"
    # A multiple says more than thousands of percent.
    told = f"{share * 100:+.0f} %" if share < 9.995 else f"{value / base:.0f} times"
    return f"<small class='{kind}'>{told}</small>"
