"""What binds a side to the process that started it, if one did.

A side ends with that process, even if it is killed.  And it does not tell the user why it fails:
it tells that process, over a pipe, which hears of both sides and says the one thing that matters.
"""

from __future__ import annotations

import contextlib
import os

# The process to end with.
PARENT_VARIABLE = "MIDSTREAM_PARENT_PID"
# The descriptor to write the reason to.
REASON_VARIABLE = "MIDSTREAM_REASON_FD"
# The file that it leaves for that process to read when it has ended.
LEFT_VARIABLE = "MIDSTREAM_LEFT_FD"

# Read once: all are taken out of the environment, which other processes inherit.
_REASON_FD = int(os.environ.get(REASON_VARIABLE, "-1"))
_LEFT_FD = int(os.environ.get(LEFT_VARIABLE, "-1"))


def has_listener() -> bool:
    """Whether the reason of a failure goes to the parent and not to the user."""
    return _REASON_FD >= 0


def tell_parent(reason: str) -> None:
    """Say why this side fails; call it once, at its end."""
    with contextlib.suppress(OSError):
        os.write(_REASON_FD, reason.encode(errors="replace"))


def has_heir() -> bool:
    """Whether the parent reads what this side leaves, and says it with what the other side does."""
    return _LEFT_FD >= 0


def leave_to_parent(text: str) -> None:
    """Leave something that is not for the user; what was left before is replaced."""
    with contextlib.suppress(OSError):
        os.ftruncate(_LEFT_FD, 0)
        os.pwrite(_LEFT_FD, text.encode(), 0)


def follow_parent() -> None:
    """End with the process that the environment names, if it names one."""
    os.environ.pop(REASON_VARIABLE, None)
    os.environ.pop(LEFT_VARIABLE, None)
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is not None:
        # Late: Ctrl-C must find its handler before anything else is loaded.
        from guest.libc import die_with_parent  # noqa: PLC0415

        die_with_parent(int(parent))
