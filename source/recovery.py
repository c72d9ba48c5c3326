"""What a break costs: which pages go again, and when to try to connect again.  Pure.

The destination says what it misses, by the target page.  That is what is sent from then on, neither
more nor less: what the source thought it had sent decides nothing (`ram_dirty_bitmap_reload` in
QEMU's `migration/ram.c` does the same with whole pages).  It is compared with it, though: a
destination that misses what it had before, or holds what never went, is not the one that was left.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.missing import HeldParts, span_of_part
from protocol.pageset import PageSet

# The first attempt comes at once, the others later and later: what is gone for a moment costs no
# more than the moment, and what is gone for long is not asked every moment.
RETRY_SECONDS_FIRST = 0.05
RETRY_SECONDS_MAX = 2.0


@dataclass(frozen=True)
class Lacking:
    """What a destination lacks after a break, as it says.

    Attributes:
        missing: Every target page that is not here whole.
        held: How many bytes are here of which of them.
    """

    missing: PageSet
    held: HeldParts

    def untouched(self) -> PageSet:
        """Return the target pages of which nothing is there."""
        result = self.missing.copy()
        for key in self.held:
            result.remove(span_of_part(key))
        return result


def lost_bytes(
    handed_over: PageSet, unsent: PageSet, rests: HeldParts, lacking: Lacking, *, goes_twice: bool
) -> int:
    """Return how many bytes went and did not arrive.

    Args:
        handed_over: What was missing there when the guest was handed over.
        unsent: What no byte was sent of yet.
        rests: Target pages of which no more was sent since the last break, and what was there then.
        lacking: What is missing now, as the destination says.
        goes_twice: What is unsent may have gone before, and be there: the policy sends pages again
            of which the destination holds a part, or the guest was handed over anew.

    Raises:
        RemoteProtocolError: It misses more than it was left to miss, or holds what was never sent.
    """
    missing = lacking.missing
    more = missing.count_beyond(handed_over)
    if more:
        raise RemoteProtocolError(f"{more} target pages are said to be missing that never were")
    never_sent = unsent.count_beyond(missing)
    if never_sent and not goes_twice:
        raise RemoteProtocolError(f"{never_sent} target pages are said to be there that never went")
    if not rests.items() <= lacking.held.items():
        raise RemoteProtocolError("other parts of target pages are said to be there than were")
    if not goes_twice and any(unsent.holds_any(span_of_part(key)) for key in lacking.held):
        raise RemoteProtocolError("parts of target pages are said to be there that never went")
    unsent_bytes = sum(TARGET_PAGE_BYTES - held_bytes for held_bytes in rests.values())
    there_bytes = sum(lacking.held.values())
    # What goes twice may be there before it goes again.
    return max(missing.count_beyond(unsent) * TARGET_PAGE_BYTES - there_bytes - unsent_bytes, 0)


@dataclass
class Retries:
    """When to try again after a break; made anew when memory has arrived since the last one."""

    _delay: float = 0.0

    def next_delay(self, seconds_left: float) -> float | None:
        """Return how long to wait before the next attempt, None when it is too late for one.

        Args:
            seconds_left: How much longer attempts may be made.
        """
        if seconds_left <= 0:
            return None
        delay = self._delay
        self._delay = min(max(2 * delay, RETRY_SECONDS_FIRST), RETRY_SECONDS_MAX)
        return min(delay, seconds_left)
