"""What is given for events and is something else is told by its kind."""

import json
from pathlib import Path

import pytest

from protocol.report import assemble_failed
from scripts.views.kinds import kind_of

EVENT = '{"event":"state","side":"dest","t-ns":1,"state":"active"}\n'


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (json.dumps(assemble_failed("failed", "no reason"), indent=2), "a report"),
        ('{"schema": "midstream-compare/1"}', "figures"),
        ('{"traceEvents": []}', "Perfetto"),
        ('{"traceEvents": [' + "1," * (1 << 19) + "1]}", "Perfetto"),
        ("<!DOCTYPE html><p>", "a page"),
        ("[migration]\n", "a scenario"),
        ("\x7fELF\0\0", "no text"),
    ],
)
def test_what_else_it_may_be(tmp_path: Path, text: str, kind: str) -> None:
    """Everything that midstream writes or reads is known by its beginning."""
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    assert kind in kind_of(path)


@pytest.mark.parametrize("text", ["", EVENT, EVENT * 2, "{", "[" * 5000, '{"a":' * 5000])
def test_what_is_nothing_else(tmp_path: Path, text: str) -> None:
    """Of events with a mistake in them, or of anything, no kind is made up."""
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    assert kind_of(path) == ""


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """That it is missing, or a directory, its reader has said already."""
    assert kind_of(tmp_path / "missing") == kind_of(tmp_path) == ""
    assert kind_of(Path("/dev/zero")) == "no text"
