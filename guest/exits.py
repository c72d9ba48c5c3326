"""Waits for the end of a child process, without a thread and without asking again and again."""

from __future__ import annotations

import os
import subprocess

import trio

# How often a process is looked after where the kernel does not tell of its end.
_POLL_SECONDS = 0.02


async def wait_exit(process: subprocess.Popen[bytes]) -> int:
    """Wait until a child process has ended; return its exit status, negative for a signal."""
    while (status := process.poll()) is None:
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            # Some sandboxes do not let anybody have one, and descriptors may have run out.
            await trio.sleep(_POLL_SECONDS)
            continue
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
    return status
