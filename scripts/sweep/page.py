"""The page of a sweep: its main effects as pictures, in one file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from protocol.errors import MidstreamError
from scripts.figures.plots import svg_of
from scripts.reports import COMPLETED
from scripts.results.rows import Row
from scripts.screen.outlet import write_output
from scripts.screen.words import counted
from scripts.sweep.pictures import (
    POLICY,
    SEED,
    draw_effects,
    draw_winners,
    known_measures,
    shown_axes,
)

FILE_NAME = "index.html"

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>midstream sweep</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
svg { max-width: 100%; height: auto } th { text-align: left; padding-right: 1.5rem }
figure { margin: 0 0 2rem } td, th { vertical-align: top }
</style>
"""


def write_page(rows: Sequence[Row], axes: Mapping[str, Sequence[Any]], folder: Path) -> None:
    """Write the page.

    Args:
        rows: Of all runs.
        axes: Values by the names of axes.
        folder: Where it goes.

    Raises:
        MidstreamError: It cannot be written.
    """
    path = folder / FILE_NAME
    try:
        write_output(path, page_of(rows, axes).encode())
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error


def page_of(rows: Sequence[Row], axes: Mapping[str, Sequence[Any]]) -> str:
    """Return the page; arguments as of `write_page`."""
    done = [row for row in rows if row["status"] == COMPLETED]
    failed = len(rows) - len(done)
    simulated = sum(row["command"] == "simulate" for row in done)
    kind = "simulated: a model, and nothing was measured" if simulated else "real"
    parts = [_HEAD, "<h1>midstream sweep</h1>"]
    parts.append(f"<p>{counted(len(done), 'run', 'runs')}, {kind}.")
    if failed:
        parts.append(f"{counted(failed, 'run has', 'runs have')} failed, and are not shown.")
    parts += ["</p><table>", *(_axis(name, values) for name, values in axes.items()), "</table>"]
    if done and shown_axes(axes) and known_measures(done):
        many = len(axes.get(POLICY, ())) > 1
        parts += _pictures(done, axes, are_compared=many)
    else:
        parts.append("<p>No picture: no axis but policies and seeds has two values.</p>")
    return "\n".join(parts) + "\n</html>\n"


def _pictures(
    rows: Sequence[Row], axes: Mapping[str, Sequence[Any]], *, are_compared: bool
) -> list[str]:
    names = shown_axes(axes)
    others = ", and over seeds" if SEED in axes else ""
    parts = [
        "<h2>Over each axis</h2>",
        f"<p>Medians over all other axes{others}.</p>",
        _figure(draw_effects(rows, axes)),
    ]
    if are_compared:
        over = f" Medians over {escape(', '.join(names[2:]))}." if names[2:] else ""
        parts += [
            "<h2>Which policy where</h2>",
            f"<p>The policy with the lowest median, that, and how far off the next is.{over}</p>",
            _figure(draw_winners(rows, axes)),
        ]
    return parts


def _axis(name: str, values: Sequence[Any]) -> str:
    told = ", ".join(",".join(each) if isinstance(each, list) else str(each) for each in values)
    return f"<tr><th>{escape(name)}</th><td>{escape(told)}</td></tr>"


def _figure(figure: Figure) -> str:
    svg = svg_of(figure)
    # What stands before is for a file of its own.
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"
