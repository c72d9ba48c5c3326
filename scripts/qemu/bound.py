"""`python -m scripts.qemu.bound PARENT COMMAND...`: becomes the command, and ends with PARENT."""

from __future__ import annotations

import os
import sys

from guest.libc import die_with_parent

EXIT_NOT_STARTED = 127


def main() -> None:
    """Bind this process to its parent, then run the command in its place."""
    die_with_parent(int(sys.argv[1]))
    try:
        # The bond outlasts this.
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.stderr.write(f"cannot start {sys.argv[2]}: {error.strerror}\n")
        sys.exit(EXIT_NOT_STARTED)


if __name__ == "__main__":
    main()
