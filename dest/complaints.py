"""What is told of connections that were refused: a crowd of strangers must not fill the log.

Pure: who calls it brings the time.
"""

from __future__ import annotations

from collections.abc import Callable

# More in a second than a person can read; what comes on top is counted.
LINES_A_SECOND_MAX = 20


class Complaints:
    """Passes lines on, not too many in any second."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """Take who writes lines."""
        self._log = log
        self._second: int | None = None
        self._lines = 0
        self._untold = 0

    def say(self, line: str, now: float) -> None:
        """Tell a line, or count it.

        Args:
            line: About one connection.
            now: The time in seconds.
        """
        if int(now) != self._second:
            self._second, self._lines = int(now), 0
            if self._untold:
                self._log(f"{self._untold} more connections came to nothing")
                self._untold = 0
        self._lines += 1
        if self._lines <= LINES_A_SECOND_MAX:
            self._log(line)
        else:
            self._untold += 1
