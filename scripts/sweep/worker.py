"""A worker of a sweep, a process of its own: reads jobs, a line each, and answers with lines.

`python -m scripts.sweep.worker`; it ends with its standard input, and with who has started it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys

from protocol.errors import MigrationCancelled
from scripts.runtime.interrupts import EXIT_CANCELLED
from scripts.runtime.loading import loading, spare_threads
from scripts.runtime.parent import follow_parent


def main() -> None:
    """Run jobs until there are no more."""
    faulthandler.enable(2)
    spare_threads()
    follow_parent()
    # Ctrl-C is for who has started this; that one ends it, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A policy of the user's may print; it is not to stand between the lines.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with loading():
        from scripts.sweep.kinds import Job  # noqa: PLC0415
        from scripts.sweep.running import run_job  # noqa: PLC0415
    for line in sys.stdin.buffer:
        try:
            done = run_job(Job(**json.loads(line)))
        except MigrationCancelled:
            sys.exit(EXIT_CANCELLED)
        answers.write(json.dumps(done).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
