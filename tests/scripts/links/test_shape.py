"""A link's sizes are in proportion to its rate, and only rates that a link can have are taken."""

import pytest

from protocol.errors import LocalProtocolError
from scripts.links.shape import (
    PACKET_BYTES,
    RATE_MAX,
    RATE_MIN,
    buffer_bytes,
    burst_bytes,
    parse_link_rate,
    piece_bytes,
    queue_bytes,
)

RATES = [RATE_MIN, 125_000, 1_250_000, 12_500_000, 125_000_000, 5_000_000_000, RATE_MAX]


@pytest.mark.parametrize("rate", RATES)
def test_sizes_are_in_proportion_to_the_rate(rate: int) -> None:
    """What passes at once takes about a millisecond, what waits ten, or as many packets."""
    assert PACKET_BYTES < burst_bytes(rate) <= max(rate * 0.0011, 2 * PACKET_BYTES)
    assert queue_bytes(rate) == max(rate // 100, 16 * PACKET_BYTES)
    assert piece_bytes(rate) <= burst_bytes(rate)
    # What the proxy's kernel doubles is no more than what the other kind of link queues.
    assert 2 * buffer_bytes(rate) <= queue_bytes(rate)
    # tc's numbers of bytes have 32 bits.
    assert burst_bytes(rate) + queue_bytes(rate) < 1 << 32


def test_no_rate_is_no_limit() -> None:
    """A proxy that only spoils has the largest of buffers."""
    assert buffer_bytes(0) == max(map(buffer_bytes, RATES))


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("0", 0), ("64kbit/s", RATE_MIN), (" 1Gbit/s", 125_000_000), ("1000Gbit/s", RATE_MAX),
        ("125GB/s", RATE_MAX),
    ],
)  # fmt: skip
def test_the_rates_that_a_link_can_have(text: str, rate: int) -> None:
    """Both bounds, what is between them, and none."""
    assert parse_link_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("63kbit/s", "at 63kbit/s a packet of 1514 bytes would take 0.2 s"),
        ("1kbit/s", "at 1kbit/s a packet of 1514 bytes would take 12.1 s"),
        ("8bit/s", "would take 1514.0 s"),
        ("1001Gbit/s", "no machine copies so fast"),
        ("999999999999999999999999Gbit/s", "no machine copies so fast"),
        ("1Mbit", "is not a rate"),
        ("1bit/s", "less than one byte"),
    ],
)
def test_what_no_link_can_have_is_refused(text: str, words: str) -> None:
    """The complaint names the bounds, and why there is one."""
    with pytest.raises(LocalProtocolError, match=words) as caught:
        parse_link_rate(text)
    if "rate" not in words and "byte" not in words:
        assert "a link has 64kbit/s to 1000Gbit/s" in str(caught.value)
