"""What lies in the kernel is overtaken: a link of this host's, a full queue, and an urgent page.

What counts is the order in which packets arrive, as the kernel at the other end saw it, and not
how long anything took.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from guest.streams.stream import GRANTED
from protocol.channels import Channel
from protocol.errors import MigrationError
from scripts.links.link import Link, namespaces_link
from scripts.links.namespaces import ADDRESSES
from scripts.links.shape import RATE_MIN
from scripts.links.spec import FIFO, PFIFO_FAST, LinkSpec
from tests.two_networks import LEFT_BYTES_MIN, URGENT_BYTES, Segment, Sent

# What fills the queue has left it after two seconds; a machine that does not run the source for
# nearly as long, between the background and the page, has shown nothing.
_ATTEMPTS_MAX = 5


class Arrived(NamedTuple):
    """How the urgent page came.

    Attributes:
        sent: What the source knows.
        before_bytes: Background that had arrived when the last byte of the page did.
    """

    sent: Sent
    before_bytes: int


def start(prefix: Sequence[str], *arguments: str) -> subprocess.Popen[str]:
    """Start one end, in its network."""
    command = [*prefix, sys.executable, "-m", "tests.two_networks", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def attempt(link: Link, *more: str) -> Arrived:
    """Have an urgent page go over a crowded link."""
    with start(link.prefixes["dest"], "dest", ADDRESSES["dest"]) as dest:
        assert dest.stdout is not None
        assert dest.stdout.readline() == "here\n"
        with start(link.prefixes["source"], "source", ADDRESSES["dest"], *more) as source:
            assert source.stdout is not None
            sent = Sent(*json.loads(source.stdout.read()))
        segments = [
            Segment(Channel(name), offset, length)
            for name, offset, length in json.loads(dest.stdout.read())
        ]
    page = [at for at, each in enumerate(segments) if each.channel is Channel.POSTCOPY]
    assert sum(segments[at].length for at in page) >= URGENT_BYTES
    # What the network brings twice does not bring it further.
    below = (each for each in segments[: page[-1]] if each.channel is Channel.PRECOPY)
    return Arrived(sent, max((each.offset + each.length for each in below), default=0))


def arrival(spec: LinkSpec, *more: str) -> Arrived:
    """Return how an urgent page comes over a link whose queue was full of background before it."""
    try:
        with namespaces_link(spec) as link:
            for _ in range(_ATTEMPTS_MAX):
                arrived = attempt(link, *more)
                if arrived.sent.left_bytes >= LEFT_BYTES_MIN:
                    return arrived
    except MigrationError as error:
        pytest.skip(f"network namespaces: {error}")
    pytest.fail(f"the queue was empty before the page came, {_ATTEMPTS_MAX} times")


def test_an_urgent_page_overtakes_what_is_in_the_queue() -> None:
    """In the queue that Linux gives a card it is there before what the kernel had in it."""
    arrived = arrival(LinkSpec(RATE_MIN, PFIFO_FAST), "prioritized")
    assert arrived.sent.priority == GRANTED
    assert arrived.sent.overtakes
    assert arrived.before_bytes < arrived.sent.in_queue_bytes


@pytest.mark.parametrize(
    ("queue", "more"), [(FIFO, ["prioritized"]), (PFIFO_FAST, [])], ids=["fifo", "no priority"]
)
def test_without_bands_or_priority_nothing_is_overtaken(queue: str, more: list[str]) -> None:
    """In a plain FIFO the page comes behind it, asked for or not; so it does where nobody asks."""
    arrived = arrival(LinkSpec(RATE_MIN, queue), *more)
    assert not arrived.sent.overtakes
    assert arrived.before_bytes >= arrived.sent.in_queue_bytes
