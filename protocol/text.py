"""One line of printable text: all that may cross the wire, or reach a terminal, as words.

Reasons come out of exceptions, and from a peer.  A line break would make a second line of standard
error, a control character could drive the user's terminal, and half a surrogate pair has no UTF-8.
"""

from __future__ import annotations

from protocol.limits import REASON_CHARS_MAX


def one_line(text: str) -> str:
    """Return a text as one line that may be sent: printable, single-spaced, not too long."""
    spaced = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(spaced.split())[:REASON_CHARS_MAX].rstrip()


def is_one_line(text: str) -> bool:
    """Tell whether a text from the peer is short and printable, line breaks being not."""
    return len(text) <= REASON_CHARS_MAX and text.isprintable()
