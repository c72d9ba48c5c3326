"""One self-contained page about one run or several: styles, script and data in one file.

The page fetches nothing and is told so by its content security policy, which lets run only the
script and the styles whose digests it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import orjson

_SCRIPTS = (
    *("decode.js", "theme.js", "story.js", "timeline.js", "panels.js"),
    *("charts.js", "events.js", "main.js"),
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
