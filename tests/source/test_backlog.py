"""Tests of source/backlog.py: how long the background leaves the link to urgent bytes."""

from __future__ import annotations

import pytest

from guest.streams.stream import Delivery
from source.backlog import SLACK_BYTES, wait_seconds
from tests.helpers import MIB

RATE = 125_000_000


def test_what_is_nearly_gone_is_not_waited_for() -> None:
    """The background begins while a little is left, so that the link stays busy."""
    assert wait_seconds(Delivery(0, 0, 0)) == 0
    assert wait_seconds(Delivery(SLACK_BYTES, RATE, 0)) == 0
    assert wait_seconds(Delivery(SLACK_BYTES + 50_000, RATE, 0)) == pytest.approx(0.0004)


def test_what_is_on_the_wire_is_not_waited_for() -> None:
    """A long link holds bytes that stand in nobody's way: a round trip's worth of them."""
    on_wire = RATE // 50
    assert wait_seconds(Delivery(SLACK_BYTES + on_wire, RATE, 20_000)) == 0
    assert wait_seconds(Delivery(SLACK_BYTES + on_wire + 1, RATE, 20_000)) > 0


def test_waits_are_neither_too_short_nor_too_long() -> None:
    """A wait that costs more than it brings is longer, and one for a page and more is looked at."""
    assert wait_seconds(Delivery(SLACK_BYTES + 1, RATE, 0)) == pytest.approx(0.0002)
    assert wait_seconds(Delivery(64 * MIB, RATE, 0)) == pytest.approx(0.005)
    # Where nobody knows the rate it is asked for again soon.
    assert wait_seconds(Delivery(64 * MIB, 0, 0)) == pytest.approx(0.0002)
