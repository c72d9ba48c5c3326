"""Writes what `--perfetto` and `--html` ask for, from the events of a run.

A page is self-contained: styles, script and data in one file, about one run or several.  It fetches
nothing and is told so by its content security policy, which lets run only the script and the styles
whose digests it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from protocol.errors import MidstreamError
from scripts.reports import Outputs
from scripts.screen.outlet import write_output
from scripts.views.embed import embed
from scripts.views.history import History
from scripts.views.perfetto import TraceWriter
from scripts.views.saved import parse_spooled
from scripts.views.spool import Spool

_SCRIPTS = (
    *("decode.js", "theme.js", "story.js", "why.js", "patterns.js"),
    *("timeline.js", "panels.js", "page_map.js", "navigate.js", "curves.js"),
    *("copy.js", "waits.js", "charts.js", "differences.js", "events.js"),
    *("help.js", "address.js", "main.js"),
)
_LIVE_SCRIPTS = ("decode.js", "theme.js", "live.js")


def run_page(runs: Sequence[Mapping[str, Any]], title: str) -> str:
    """Return the page of some runs.

    Args:
        runs: As `embed` gives them.
        title: In any characters.
    """
    script = _script(_SCRIPTS)
    return fill(
        web_file("view.html"),
        {
            "CSP": _policy(script),
            "TITLE": escape(title),
            "STYLE": web_file("view.css"),
            "DATA": _json_for_html({"runs": list(runs)}),
            "SCRIPT": script,
        },
    )


def live_page() -> tuple[str, str]:
    """Return the page that shows a run while it goes on, and its content security policy."""
    script = _script(_LIVE_SCRIPTS)
    policy = f"{_policy(script)}; connect-src 'self'"
    parts = {"CSP": policy, "STYLE": web_file("view.css"), "SCRIPT": script}
    return fill(web_file("live.html"), parts), f"{policy}; frame-ancestors 'none'"


def whole_page(history: History) -> tuple[str, str]:
    """Return the page about a run that a server shows, and its content security policy."""
    name = str(history.run.get("policy", "run"))
    policy = f"{_policy(_script(_SCRIPTS))}; frame-ancestors 'none'"
    return run_page([embed(history, name)], "midstream run"), policy


def _script(names: Sequence[str]) -> str:
    return '"use strict";\n' + "\n".join(map(web_file, names)) + "\nbegin();\n"


def _policy(script: str) -> str:
    # Elements get their places and colours by attributes, which no digest covers.
    return (
        f"default-src 'none'; script-src {_digest(script)}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Return a template with each @@NAME@@ replaced; what is put in is not looked at again."""
    pieces = template.split("@@")
    return "".join(parts[piece] if at % 2 else piece for at, piece in enumerate(pieces))


def web_file(name: str) -> str:
    """Return a file of the folder web/, which is installed with this package."""
    return files("scripts.views").joinpath("web", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json_for_html(plain: object) -> str:
    """Return JSON that ends no script element and begins no comment, whatever texts are in it."""
    text = orjson.dumps(plain).decode()
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    # Two line ends of Unicode that scripts of old took for their own.
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def read_spool(spool: Spool) -> History:
    """Return the history of what a run has left in its spool."""
    return history_of(parse_spooled(spool.read_all()))


def history_of(events: Iterable[dict[str, Any]]) -> History:
    """Return the history that events tell."""
    history = History()
    for event in events:
        history.take(event)
    return history


def write_views(history: History, outputs: Outputs) -> None:
    """Write the trace and the page of a run that are wanted.

    Raises:
        MidstreamError: A file cannot be written.
    """
    failures: list[MidstreamError] = []
    name = str(history.run.get("policy", "run"))
    for write, target in (
        (partial(write_trace, history), outputs.perfetto),
        (partial(write_page, [(name, history)]), outputs.html),
    ):
        try:
            if target is not None:
                write(Path(target))
        except MidstreamError as error:
            # The other may be on another disk.
            failures.append(error)
    if failures:
        raise failures[0]


def write_trace(history: History, path: Path) -> None:
    """Write a run as a trace.

    Raises:
        MidstreamError: The file cannot be written.
    """
    _write(path, orjson.dumps(TraceWriter(history).document()))


def write_page(runs: Sequence[tuple[str, History]], path: Path) -> None:
    """Write one page about runs, each with a name.

    Raises:
        MidstreamError: The file cannot be written.
    """
    plain = [embed(history, name) for name, history in runs]
    title = "midstream run" if len(runs) == 1 else f"{len(runs)} midstream runs"
    _write(path, run_page(plain, title).encode())


def _write(path: Path, data: bytes) -> None:
    try:
        write_output(path, data)
    except OSError as error:
        raise MidstreamError(f"cannot write {path}: {error.strerror}") from error
