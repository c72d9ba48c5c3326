"""`python -m tests.zygote`: has everything loaded, and forks midstream commands that are at once.

Loading modules takes several times as long as a small migration, and tests start processes by the
hundred.  What is forked is a process like any other: it reads its command line, and goes its way.

Orders come on standard input and answers go to standard output, one JSON value a line:

    {"arguments": [...], "environment": {...}, "stem": "...", "rig": "..."}   answers the pid
    {"status": PID}                       answers its exit status, null as long as it runs
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from scripts.cli import main
from tests.rigged import rig_up


def become(order: dict[str, Any]) -> None:
    """Turn this process into a midstream command."""
    stem = Path(order["stem"])
    os.setsid()
    os.chdir(stem.parent)
    names = (Path(os.devnull), stem.with_suffix(".out"), stem.with_suffix(".err"))
    for number, name in enumerate(names):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY, 0o666)
        os.dup2(fd, number)
        os.close(fd)
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]
    if order["rig"]:
        rig_up(order["rig"])
    main()


def status_of(pid: int) -> int | None:
    """Return a child's exit status if it has ended."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def serve() -> None:
    """Follow orders until they end."""
    for line in sys.stdin:
        order = json.loads(line)
        if "status" in order:
            answer = status_of(order["status"])
        else:
            answer = os.fork()
            if not answer:
                become(order)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
