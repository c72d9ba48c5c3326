"""The programs that make and show links: where they are."""

from __future__ import annotations

import shutil


def path_of(tool: str) -> str | None:
    """Return where a tool is; an ordinary user's PATH often lacks the folders for root's."""
    folders = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
    return shutil.which(tool) or shutil.which(tool, path=folders)
