"""How a source answers a page request, in the words that it tells the destination."""

from __future__ import annotations

# It waits for its turn, behind older requests.
QUEUED = "queued"
# Likewise, and in its turn the page went on from the byte where it had been broken off.
BOOSTED = "boosted"
# The page was being sent in the background, and became urgent on its way.
URGENT_IN_PLACE = "urgent-in-place"
# All of it was with the socket before the request came.
ALREADY_SENT = "already-sent"
# The policy leaves it to the background.
POSTPONED = "postponed"
# It was being sent for another request already.
DUPLICATE = "duplicate"

ANSWERS = (QUEUED, BOOSTED, URGENT_IN_PLACE, ALREADY_SENT, POSTPONED, DUPLICATE)
