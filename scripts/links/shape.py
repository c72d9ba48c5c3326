"""What a link's rate makes of it: how much passes at once, how much queues, which rates there are.

Both kinds of link, the kernel's token bucket (link.py) and the proxy (throttle.py, and that of
scripted faults), are sized here, so that they behave alike.  Nothing here is fixed in bytes but a
packet: what is a moment at 1 Gbit/s would be a quarter of a minute at 64 kbit/s.
"""

from __future__ import annotations

from protocol.errors import LocalProtocolError
from protocol.units import parse_rate

# A full packet of Ethernet.
PACKET_BYTES = 1514

# What passes at once when nothing has passed for long.  As much as a network card hands over in one
# go (64 KiB) is half of it at 1 Gbit/s; less starves the bucket between two timer ticks.
_BURST_US = 1050
# The kernel drops for ever what is longer than its bucket is deep; a packet, and room for rounding.
_BURST_BYTES_MIN = 2048

# What may queue in front of the link.  Its time is added to that of every urgent page.
_QUEUE_MS = 10
# With room for fewer packets TCP has little to tell a loss by, and waits for its timer instead: at
# 10 Mbit/s every tenth fault of a 4 KiB page took 0.24 s with room for 8, and 0.04 s with 16.
_QUEUE_PACKETS_MIN = 16
# A connection lies in its host's queue with a few packets of up to 64 KiB (TCP small queues), so no
# queue of packets need be longer; for each of them the kernel sets a pointer aside.
_QUEUE_PACKETS_MAX = 10_000

# What the kernel may hold on each side of a proxy, in each direction; it doubles the value.
_BUFFER_BYTES_MAX = 64 * 1024

# 64 kbit/s: a queue of _QUEUE_PACKETS_MIN packets passes in 3 s.  Behind one that takes much longer
# what says that a side is alive comes too late.
RATE_MIN = 8_000
# 1000 Gbit/s: more than any memory is copied at, so more than any link that is made here.
RATE_MAX = 125_000_000_000


def parse_link_rate(text: str) -> int:
    """Return a link's rate in bytes a second, 0 for plain loopback.

    Raises:
        LocalProtocolError: It is no rate, or none that a link here can have.
    """
    rate = parse_rate(text)
    if rate and not RATE_MIN <= rate <= RATE_MAX:
        low = f"{RATE_MIN * 8 // 1000}kbit/s"
        why = (
            f"a packet of {PACKET_BYTES} bytes would take {PACKET_BYTES / rate:.1f} s"
            if rate < RATE_MIN
            else "no machine copies so fast"
        )
        raise LocalProtocolError(
            f"a link has {low} to {RATE_MAX * 8 // 10**9}Gbit/s, or 0 for plain loopback; "
            f"at {text.strip()} {why}"
        )
    return rate


def burst_bytes(bytes_per_second: int) -> int:
    """Return how much passes at once on a link that was idle."""
    return max(bytes_per_second * _BURST_US // 10**6, _BURST_BYTES_MIN)


def queue_bytes(bytes_per_second: int) -> int:
    """Return how much may wait in front of a link, in each direction."""
    return max(bytes_per_second * _QUEUE_MS // 1000, _QUEUE_PACKETS_MIN * PACKET_BYTES)


def queue_packets(bytes_per_second: int) -> int:
    """Return the same for a queue that counts packets: how many full ones, in each of its bands."""
    return min(queue_bytes(bytes_per_second) // PACKET_BYTES, _QUEUE_PACKETS_MAX)


def buffer_bytes(bytes_per_second: int) -> int:
    """Return how large each socket's buffers are at a proxy; 0 stands for no limit of the rate."""
    if not bytes_per_second:
        return _BUFFER_BYTES_MAX
    # The kernel doubles it.
    return min(queue_bytes(bytes_per_second) // 2, _BUFFER_BYTES_MAX)


def piece_bytes(bytes_per_second: int) -> int:
    """Return how much takes its place in a proxy's queue as one: a millisecond, or a packet."""
    return max(bytes_per_second // 1000, PACKET_BYTES)


assert _QUEUE_PACKETS_MIN * PACKET_BYTES < 4 * RATE_MIN
