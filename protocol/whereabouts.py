"""Whereabouts of a guest whose migration ended before its time: the words for lines and reports.

A report has the side (`guest-side`); whoever reads a line has the words that go with it.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE, DEST = "source", "dest"
# It was handed over, and nobody has said that it runs there.
UNKNOWN = "unknown"
# None has run so far.
NOWHERE = "nowhere"

_WORDS = {
    SOURCE: "the guest stays at the source",
    DEST: "the guest is at the destination",
    UNKNOWN: "whether the destination runs the guest is not known",
    NOWHERE: "there is no guest yet",
}


@dataclass(frozen=True)
class Whereabouts:
    """Whereabouts of a guest.

    Attributes:
        side: SOURCE, DEST, UNKNOWN or NOWHERE.
        memory: What is to be said of its memory, in words; empty for nothing.
    """

    side: str
    memory: str = ""

    def __str__(self) -> str:  # type: ignore[explicit-override]
        """Return them as a clause."""
        return f"{_WORDS[self.side]}, {self.memory}" if self.memory else _WORDS[self.side]

    def added_to(self, reason: str) -> str:
        """Return the reason of an end with these behind it, unless it tells them already."""
        if _WORDS[self.side] in reason:
            return reason
        return f"{reason}; {self}" if reason else str(self)


def told_in(reason: str) -> str:
    """Return what the reason of an end says of where the guest is; empty for nothing."""
    begins = [reason.index(words) for words in _WORDS.values() if words in reason]
    return reason[min(begins) :] if begins else ""


def sentence_on(side: str, reason: str) -> str:
    """Return a sentence on where the guest is.

    Args:
        side: As of `Whereabouts`, or something else where nobody knows any.
        reason: Why it ended; what that says is not said again.

    Returns:
        Nothing where there is nothing to add.
    """
    words = _WORDS.get(side, "")
    return "" if not words or words in reason else f"{words[0].upper()}{words[1:]}."
