"""The page of a sweep: its main effects as pictures, in one file that needs no other.

Each picture is a file of its own, too, for whoever shows it elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

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
EFFECTS, WINNERS = "effects.svg", "winners.svg"

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
    """Write the page, and its pictures beside it.

    Args:
        rows: Of all runs.
        axes: Values by the names of axes.
        folder: Where it goes.

    Raises:
        MidstreamError: It cannot be written.
    """
    pictures = pictures_of(rows, axes)
    texts = {FILE_NAME: page_of(rows, axes, pictures), **pictures}
    path = folder
    try:
        for name, text in texts.items():
            path = folder / name
            write_output(path, text.encode())
        for name in {EFFECTS, WINNERS} - pictures.keys():
            # Of an earlier sweep of this folder, which had more.
            path = folder / name
            path.unlink(missing_ok=True)
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error


def pictures_of(rows: Sequence[Row], axes: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Return what there is to draw as SVG, by the names of files; arguments as of `write_page`."""
    done = _done(rows)
    if not (done and shown_axes(axes) and known_measures(done)):
        return {}
    pictures = {EFFECTS: svg_of(draw_effects(done, axes))}
    if len(axes.get(POLICY, ())) > 1:
        pictures[WINNERS] = svg_of(draw_winners(done, axes))
    return pictures


def page_of(
    rows: Sequence[Row], axes: Mapping[str, Sequence[Any]], pictures: Mapping[str, str]
) -> str:
    """Return the page; rows and axes as of `write_page`, with the pictures that they make."""
    done = _done(rows)
    failed = len(rows) - len(done)
    simulated = sum(row["command"] == "simulate" for row in done)
    kind = "simulated: a model, and nothing was measured" if simulated else "real"
    parts = [_HEAD, "<h1>midstream sweep</h1>"]
    parts.append(f"<p>{counted(len(done), 'run', 'runs')}, {kind}.")
    if failed:
        parts.append(f"{counted(failed, 'run has', 'runs have')} failed, and are not shown.")
    parts += ["</p><table>", *(_axis(name, values) for name, values in axes.items()), "</table>"]
    if EFFECTS in pictures:
        others = ", and over seeds" if SEED in axes else ""
        parts += [
            "<h2>Over each axis</h2>",
            f"<p>Medians over all other axes{others}.</p>",
            _figure(pictures[EFFECTS]),
        ]
    else:
        parts.append("<p>No picture: no axis but policies and seeds has two values.</p>")
    if WINNERS in pictures:
        names = shown_axes(axes)
        over = f" Medians over {escape(', '.join(names[2:]))}." if names[2:] else ""
        parts += [
            "<h2>Which policy where</h2>",
            f"<p>The policy with the lowest median, that, and how far off the next is.{over}</p>",
            _figure(pictures[WINNERS]),
        ]
    return "\n".join(parts) + "\n</html>\n"


def _done(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == COMPLETED]


def _axis(name: str, values: Sequence[Any]) -> str:
    told = ", ".join(",".join(each) if isinstance(each, list) else str(each) for each in values)
    return f"<tr><th>{escape(name)}</th><td>{escape(told)}</td></tr>"


def _figure(svg: str) -> str:
    # What stands before is for a file of its own.
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"
