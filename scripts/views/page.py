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
    *("decode.js", "story.js", "timeline.js", "panels.js"),
    *("charts.js", "events.js", "main.js"),
)


def run_page(runs: Sequence[Mapping[str, Any]], title: str) -> str:
    """Return the page of some runs.

    Args:
        runs: As `embed` gives them.
        title: In any characters.
    """
    script = '"use strict";\n' + "\n".join(map(web_file, _SCRIPTS)) + "\nbegin();\n"
    style = web_file("view.css")
    return fill(
        web_file("view.html"),
        {
            # Elements get their places and colours by attributes, which no digest covers.
            "CSP": f"default-src 'none'; script-src {_digest(script)}; style-src 'unsafe-inline'",
            "TITLE": escape(title),
            "STYLE": style,
            "DATA": _json_for_html({"runs": list(runs)}),
            "SCRIPT": script,
        },
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
