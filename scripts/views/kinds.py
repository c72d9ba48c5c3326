"""Tells what a file is that should hold events and does not, so that its user sees the mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.files import read_bounded

# A report is some kilobytes, and all others begin as they begin.
_LOOKED_AT_BYTES_MAX = 1 << 20

_JSON_KINDS: dict[str, Callable[[Any], bool]] = {
    "a report, as --report writes it": lambda held: "midstream" in held and "status" in held,
    "figures of midstream compare or bench": lambda held: str(held.get("schema")).startswith(
        "midstream-"
    ),
    "a trace for the Perfetto UI": lambda held: "traceEvents" in held,
    "a map of missing memory, as --save leaves it": lambda held: "missing" in held,
}


def kind_of(path: Path) -> str:
    """Return what a file is, in words; empty if it is nothing that is known here."""
    try:
        data = read_bounded(path, _LOOKED_AT_BYTES_MAX)
    except OSError:
        return ""
    begin = data[:4096].lstrip()
    if begin[:1] == b"{":
        return _json_kind(data)
    if begin[:9].lower() == b"<!doctype":
        return "a page, as --html writes it"
    if b"[migration]" in data or b"[[step]]" in data:
        return "a scenario, for midstream inject"
    return "no text" if b"\0" in begin else ""


def _json_kind(data: bytes) -> str:
    try:
        held = json.loads(data)
    except (ValueError, RecursionError):
        # A large trace was not read whole.
        return "a trace for the Perfetto UI" if b'"traceEvents"' in data[:4096] else ""
    if not isinstance(held, dict):
        return ""
    return next((kind for kind, is_it in _JSON_KINDS.items() if is_it(held)), "")
