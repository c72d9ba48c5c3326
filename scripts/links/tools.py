"""The programs that make and show links: where they are, and what they say."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence

from protocol.errors import MigrationError

TOOL_SECONDS_MAX = 10.0


def path_of(tool: str) -> str | None:
    """Return where a tool is; an ordinary user's PATH often lacks the folders for root's."""
    folders = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
    return shutil.which(tool) or shutil.which(tool, path=folders)


def tool_path(tool: str) -> str:
    """Return where a tool is that was looked for before."""
    path = path_of(tool)
    assert path is not None, "all of them were looked for first"
    return path


def run_tool(command: list[str], name: str = "") -> None:
    """Run a tool to its end.

    Args:
        command: What to run.
        name: What it is called in a complaint; else the end of the command.

    Raises:
        MigrationError: It failed; says why, in its words.
    """
    name = name or " ".join(command[-6:])
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TOOL_SECONDS_MAX, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        raise MigrationError(f"{name} took over {TOOL_SECONDS_MAX:g} s") from None
    except OSError as error:
        raise MigrationError(f"cannot start {command[0]}: {error.strerror}") from error
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise MigrationError(f"{name} failed: {reason[-1] if reason else '?'}")


def overlimits(prefix: Sequence[str]) -> int | None:
    """Return how often a packet had to wait for the rate at an end; None if tc does not say."""
    try:
        done = subprocess.run(
            [*prefix, tool_path("tc"), "-s", "-j", "qdisc", "show", "dev", "mig"],
            capture_output=True, timeout=TOOL_SECONDS_MAX, check=True,
        )  # fmt: skip
        (count,) = (each["overlimits"] for each in json.loads(done.stdout) if each["kind"] == "tbf")
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return None
    return int(count)
