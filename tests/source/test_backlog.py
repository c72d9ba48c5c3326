"""Tests of source/backlog.py: how long the background leaves the link to urgent bytes."""

from __future__ import annotations

import socket

import pytest

from source.backlog import SLACK_BYTES, TCP_INFO_BYTES, Backlog
from tests.helpers import KIB, MIB, tcp_pair

RATE = 125_000_000


def test_what_is_nearly_gone_is_not_waited_for() -> None:
    """The background begins while a little is left, so that the link stays busy."""
    assert Backlog(0, 0, 0).wait_seconds() == 0
    assert Backlog(SLACK_BYTES, RATE, 0).wait_seconds() == 0
    assert Backlog(SLACK_BYTES + 50_000, RATE, 0).wait_seconds() == pytest.approx(0.0004)


def test_what_is_on_the_wire_is_not_waited_for() -> None:
    """A long link holds bytes that stand in nobody's way: a round trip's worth of them."""
    on_wire = RATE // 50
    assert Backlog(SLACK_BYTES + on_wire, RATE, 20_000).wait_seconds() == 0
    assert Backlog(SLACK_BYTES + on_wire + 1, RATE, 20_000).wait_seconds() > 0


def test_waits_are_neither_too_short_nor_too_long() -> None:
    """A wait that costs more than it brings is longer, and one for a page and more is looked at."""
    assert Backlog(SLACK_BYTES + 1, RATE, 0).wait_seconds() == pytest.approx(0.0002)
    assert Backlog(64 * MIB, RATE, 0).wait_seconds() == pytest.approx(0.005)
    # Where nobody knows the rate it is asked for again soon.
    assert Backlog(64 * MIB, 0, 0).wait_seconds() == pytest.approx(0.0002)


async def test_the_kernel_says_what_a_connection_does() -> None:
    """The fields are where the kernel has them: a round trip, and a rate once something went."""
    with tcp_pair() as (near, far):
        for _ in range(20):
            await near.send(bytes(64 * KIB))
            left = 64 * KIB
            while left:
                left -= len(await far.recv(left))
        info = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        backlog = Backlog.of_tcp_info(7, info)
        assert backlog.unacknowledged_bytes == 7
        # Loopback: less than a second, more than a megabyte a second.
        assert 0 < backlog.round_trip_us < 10**6
        assert backlog.bytes_per_second > 10**6


def test_a_kernel_that_says_less_is_taken_at_its_word() -> None:
    """Before Linux 4.9 there was no rate: then nothing is known but what was not acknowledged."""
    assert Backlog.of_tcp_info(5, bytes(104)) == Backlog(5, 0, 0)
