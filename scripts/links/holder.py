"""`python -m scripts.links.holder`: does nothing, so that the namespaces that it is in stay.

Ends when its standard input does, or with the process that started it.
"""

from __future__ import annotations

import os
import sys

from guest.libc import die_with_parent
from scripts.runtime.parent import PARENT_VARIABLE


def main() -> None:
    """Say that this process is there, then wait."""
    die_with_parent(int(os.environ[PARENT_VARIABLE]))
    sys.stdout.write("here\n")
    sys.stdout.flush()
    while sys.stdin.buffer.read(1):
        pass


if __name__ == "__main__":
    main()
