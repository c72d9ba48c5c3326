"""How long urgent bytes that the kernel has taken will still keep the link to themselves.

Whatever the background sends meanwhile shares the link with them, though a vCPU waits for them and
for it nobody does.  What is on the wire is no backlog: the background may follow it closely.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

# `struct tcp_info` (include/uapi/linux/tcp.h) as far as it is needed; it only ever grows.
_TCP_INFO = struct.Struct("=148xI8xQ")
TCP_INFO_BYTES = _TCP_INFO.size

# The background begins again when so much is left, so that the link does not fall idle until it has
# begun.  At 1 Gbit/s this is a millisecond, which is as long as a busy machine takes to run it.
SLACK_BYTES = 128 * 1024

# No wait is so short that its end costs more than it is worth, ...
_SECONDS_MIN = 0.0002
# ... and none so long that a rate which was taken for too low matters.
_SECONDS_MAX = 0.005


class Backlog(NamedTuple):
    """What a connection has not delivered.

    Attributes:
        unacknowledged_bytes: Taken by the kernel and not acknowledged.
        bytes_per_second: What the connection has delivered of late; 0 if nobody knows.
        round_trip_us: The shortest that was seen.
    """

    unacknowledged_bytes: int
    bytes_per_second: int
    round_trip_us: int

    @classmethod
    def of_tcp_info(cls, unacknowledged_bytes: int, info: bytes) -> Self:
        """Read it out of what the kernel says of a connection; an old one says less.

        Args:
            unacknowledged_bytes: As the ioctl SIOCOUTQ says.
            info: The beginning of a `struct tcp_info`.
        """
        if len(info) < TCP_INFO_BYTES:
            return cls(unacknowledged_bytes, 0, 0)
        round_trip_us, bytes_per_second = _TCP_INFO.unpack_from(info)
        return cls(unacknowledged_bytes, bytes_per_second, round_trip_us)

    def wait_seconds(self) -> float:
        """Return how long the background had better wait, 0 if it need not.

        Then ask anew: it may have to wait some more.
        """
        on_wire_bytes = self.bytes_per_second * self.round_trip_us // 10**6
        excess_bytes = self.unacknowledged_bytes - on_wire_bytes - SLACK_BYTES
        if excess_bytes <= 0:
            return 0.0
        seconds = excess_bytes / self.bytes_per_second if self.bytes_per_second else 0.0
        return min(max(seconds, _SECONDS_MIN), _SECONDS_MAX)
