"""The yardstick: a plain socket pair between two processes."""

import subprocess

import pytest

from protocol.errors import MigrationError
from scripts.figures import raw_pair


def test_all_bytes_cross() -> None:
    """The figure is bytes a second of the whole length, over the time until the answer."""
    assert raw_pair.measure(8 << 20, "base") > 0


def test_a_receiver_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the other process ends early nothing hangs, and no figure comes of it."""
    popen = subprocess.Popen
    monkeypatch.setattr(raw_pair, "_CONNECT_SECONDS_MAX", 0.2)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: popen(["true"]))

    with pytest.raises(MigrationError, match="plain socket pair failed"):
        raw_pair.measure(8 << 20, "base")
