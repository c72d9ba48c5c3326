"""One thing that a machine can or cannot do, and how it is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.errors import MidstreamError

SCHEMA = "midstream-doctor/1"

_NAME_CHARS = 31
_ANSWER_CHARS = 5


@dataclass(frozen=True)
class Feature:
    """One thing, as it was found.

    Attributes:
        name: What it is called.
        ok: Whether it is there for this user, now.
        detail: What was found, or why it is not there; one line.
        remedy: What to type, or to do, to get it; empty where it is there.
        without: What midstream does without it.
        is_needed: Without it midstream does nothing at all.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    without: str = ""
    is_needed: bool = False


@dataclass(frozen=True)
class Question:
    """A thing that can be looked for.

    Attributes:
        name: What it is called.
        ask: Tries it; returns whether it is there, and a line of detail.  May raise anything.
        remedy: What to type to get it, as `Feature` has it; or how to tell from the detail.
        without: What midstream does without it.
        is_needed: Without it midstream does nothing at all.
    """

    name: str
    ask: Callable[[], tuple[bool, str]]
    remedy: str | Callable[[str], str] = ""
    without: str = ""
    is_needed: bool = False

    def answer(self) -> Feature:
        """Try it; what fails in a way that nobody foresaw is not there either."""
        try:
            ok, detail = self.ask()
        except Exception as error:  # noqa: BLE001 - the diagnosis goes on, and says what it was
            ok, detail = False, _told(error)
        if ok:
            return Feature(self.name, ok, detail, is_needed=self.is_needed)
        remedy = self.remedy if isinstance(self.remedy, str) else self.remedy(detail)
        return Feature(self.name, ok, detail, remedy, self.without, self.is_needed)


def can_run(features: Sequence[Feature]) -> bool:
    """Return whether midstream runs at all where these were found."""
    return all(feature.ok for feature in features if feature.is_needed)


def to_plain(features: Sequence[Feature]) -> dict[str, Any]:
    """Return all findings as JSON can hold them."""
    return {
        "schema": SCHEMA,
        "can-run": can_run(features),
        "features": [
            {
                "name": feature.name,
                "ok": feature.ok,
                "needed": feature.is_needed,
                "detail": feature.detail,
                "to-get-it": feature.remedy,
                "without-it": feature.without,
            }
            for feature in features
        ],
    }


def to_lines(feature: Feature, yes: str = "yes", no: str = "no") -> list[str]:
    """Return a finding for a person; commands are never broken, so that they can be copied.

    Args:
        feature: What was found.
        yes: How "yes" is written, colours and all.
        no: How "no" is.
    """
    answer, chars = (yes, len("yes")) if feature.ok else (no, len("no"))
    lines = [
        f"{feature.name:<{_NAME_CHARS}}{answer}{' ' * (_ANSWER_CHARS - chars)}{feature.detail}"
    ]
    indent = " " * (_NAME_CHARS + _ANSWER_CHARS)
    if feature.remedy:
        lines.append(f"{indent}to get it:  {feature.remedy}")
    if feature.without:
        lines.append(f"{indent}without it: {feature.without}")
    return [line.rstrip() for line in lines]


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) if isinstance(error, MidstreamError) else f"{type(error).__name__}: {error}"
