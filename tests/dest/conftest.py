"""Fixtures that sessions of the destination share."""

import pytest

from tests.guests import FakeGuests


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch) -> FakeGuests:
    """Guests without processes, for all sessions of a test."""
    guests = FakeGuests()
    monkeypatch.setattr("dest.session.open_guest", guests.open)
    monkeypatch.setattr("dest.session.start_process", guests.start)
    return guests
