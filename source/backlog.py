"""How long urgent bytes that the kernel has taken will still keep the link to themselves.

Whatever the background sends meanwhile shares the link with them, though a vCPU waits for them and
for it nobody does.  What is on the wire is no backlog: the background may follow it closely.
"""

from __future__ import annotations

from guest.streams.stream import Delivery

# The background begins again when so much is left, so that the link does not fall idle until it has
# begun.  At 1 Gbit/s this is a millisecond, which is as long as a busy machine takes to run it.
SLACK_BYTES = 128 * 1024

# No wait is so short that its end costs more than it is worth, ...
_SECONDS_MIN = 0.0002
# ... and none so long that a rate which was taken for too low matters.
_SECONDS_MAX = 0.005


def wait_seconds(delivery: Delivery) -> float:
    """Return how long the background had better wait behind urgent bytes, 0 if it need not.

    Then ask anew: it may have to wait some more.
    """
    on_wire_bytes = delivery.bytes_per_second * delivery.round_trip_us // 10**6
    excess_bytes = delivery.unacknowledged_bytes - on_wire_bytes - SLACK_BYTES
    if excess_bytes <= 0:
        return 0.0
    seconds = excess_bytes / delivery.bytes_per_second if delivery.bytes_per_second else 0.0
    return min(max(seconds, _SECONDS_MIN), _SECONDS_MAX)
