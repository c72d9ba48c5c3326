"""Folders of the tests' own for control sockets; a small memory, and guests without processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.memory import GuestMemory
from source import control_paths
from tests.guests import FakeGuest, FakeGuests, fake_guest, patterned_memory, small_geometry


@pytest.fixture(autouse=True)
def control_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have control sockets be in folders of the test's own; a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="m") as name:
        runtime, fallback = Path(name, "runtime"), Path(name, "fallback")
        runtime.mkdir(mode=0o700)
        fallback.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        monkeypatch.setattr(control_paths, "LOGINS", Path(name, "logins"))
        monkeypatch.setattr(control_paths, "FALLBACK", fallback)
        yield runtime / "midstream"


@pytest.fixture
def fallback(control_folder: Path) -> Path:
    """The folder that is used where the first cannot be had."""
    return control_folder.parents[1] / "fallback" / f"midstream-{os.geteuid()}"


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch) -> FakeGuests:
    """Guests without processes, for all sessions of a test."""
    guests = FakeGuests()
    monkeypatch.setattr("source.session.open_guest", guests.open)
    monkeypatch.setattr("source.session.start_process", guests.start)
    return guests


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Four huge pages and 32 base pages."""
    with patterned_memory(small_geometry()) as made:
        yield made


@pytest.fixture
def guest() -> Iterator[FakeGuest]:
    """A guest that does nothing by itself."""
    with fake_guest(small_geometry()) as made:
        yield made
