"""One line of printable text: all that may cross the wire, or reach a terminal, as words.

Reasons come out of exceptions, and from a peer.  A line break would make a second line of standard
error, a control character could drive the user's terminal, and half a surrogate pair has no UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.limits import REASON_CHARS_MAX

# The longest word for which one that was meant is looked for.
_WORD_CHARS_MAX = 40

# What a complaint repeats of a value.
_QUOTED_CHARS_MAX = 60


def one_line(text: str) -> str:
    """Return a text as one line that may be sent: printable, single-spaced, not too long."""
    spaced = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(spaced.split())[:REASON_CHARS_MAX].rstrip()


def is_one_line(text: str) -> bool:
    """Return whether a text from the peer is short and printable, line breaks being not."""
    return len(text) <= REASON_CHARS_MAX and text.isprintable()


def quoted(text: str) -> str:
    """Return a user's text as it goes into a message: in quotes, and short enough to read."""
    return repr(text) if len(text) <= _QUOTED_CHARS_MAX else f"{text[:_QUOTED_CHARS_MAX]!r}..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'size'?)` for a word that is like a known one, else nothing."""
    # Imported late: only who is wrong waits for what it takes.
    from difflib import get_close_matches  # noqa: PLC0415

    # A longer word is no slip of anybody's; to compare it would take its time.
    close = get_close_matches(word, known, n=1) if len(word) <= _WORD_CHARS_MAX else []
    return f" (did you mean {close[0]!r}?)" if close else ""
