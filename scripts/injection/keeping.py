"""The folder of one run of a scenario: its events and its report, gone with the run unless kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guest.whole_file import copy_whole
from protocol.errors import MidstreamError
from scripts.runtime.folders import temporary_folder

_PREFIX = "midstream-inject-"


class RunFolder:
    """The folder of one run; it is gone with the run unless it is kept."""

    def __init__(self, path: Path, target: Path | None) -> None:
        """Use a folder.

        Args:
            path: The folder.
            target: Where it is to be kept; None for a new folder among the temporary ones.
        """
        self.path = path
        self._target = target

    def keep(self) -> Path:
        """Copy what is there by now; return where to.

        Raises:
            MidstreamError: It cannot be written.
        """
        target = self._target
        try:
            if target is None:
                target = self._target = Path(tempfile.mkdtemp(prefix=_PREFIX))
            target.mkdir(parents=True, exist_ok=True)
            for file in self.path.iterdir():
                if file.is_file():
                    copy_whole(file, target / file.name)
        except OSError as error:
            raise MidstreamError(f"cannot write {error.filename}: {error.strerror}") from error
        return target


@contextmanager
def run_folder(keep: str | None, name: str) -> Iterator[RunFolder]:
    """Make a folder for one run.

    Args:
        keep: Where all runs are kept, each in a folder of its own; None if only some are.
        name: The name of that folder.
    """
    target = Path(keep) / name if keep is not None else None
    with temporary_folder("inject") as path:
        folder = RunFolder(path, target)
        try:
            yield folder
        finally:
            if keep is not None:
                folder.keep()
