"""Starts a destination and a source for `midstream migrate`, before anything else is loaded.

Loading takes a process longer than most of what it does afterwards.  So both sides begin with that
while this process has not begun itself: what is imported here is what reading options takes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from guest.whole_file import own_descriptor
from protocol.errors import MidstreamError, MigrationError
from scripts.links.link import Link
from scripts.options import DEST, FILES, SOURCE, Values, options_of, to_arguments
from scripts.reports import (
    STANDARD_OUTPUT,
    STANDARD_OUTPUT_FILE,
    begin_report,
    is_report_file,
    report_error,
)
from scripts.runtime.interrupts import hold_signals, release_signals
from scripts.runtime.parent import Orders
from scripts.runtime.spawn import Spawned, spawn
from scripts.views.spool import Spool


@contextmanager
def both_sides(
    values: Values, secret: bytes, link: Link, spool: Spool | None, *, watched: bool
) -> Iterator[list[Spawned]]:
    """Start a destination and a source; neither is left when the block is.

    From then on signals wait until somebody releases them who can end both in order.

    Args:
        values: The options of `midstream migrate`.
        secret: What both sides prove to each other to know.
        link: What lies between the two.
        spool: Where both leave their events for who watches; None if nobody does.
        watched: What the source says is captured: printed, it would be drawn over.  So is a report
            that is not a file.

    Raises:
        MidstreamError: One cannot be started, or a file of results cannot be written; then the
            report says so.
    """
    given = {"events": None, "report": None, **values}
    values = dict(given)
    has_output = values["events"] == STANDARD_OUTPUT
    if has_output:
        # That of a side may be another.
        values["events"] = STANDARD_OUTPUT_FILE
    sides: list[Spawned] = []
    hold_signals()
    try:
        try:
            _clear_outputs(values)
            # What is no file can be written only once, when all is known.
            is_printed = values["report"] is not None and not is_report_file(values["report"])
            if is_printed:
                values["report"] = "-"
            with Handed() as handed:
                common = Orders(
                    shares_events=values["events"] is not None,
                    spool=handed.path_of(spool.fd) if spool is not None else None,
                )

                def start(side: str, own: list[str], orders: Orders, *, capture: bool) -> None:
                    own += _arguments(side, values, handed)
                    sides.append(
                        spawn(
                            side, own, capture=capture, prefix=link.prefixes[side], secret=secret,
                            inherited=handed.descriptors, heir=True, orders=orders,
                        )
                    )  # fmt: skip

                # It is verbose so that this process hears when it meets a source.
                listen = f"--listen={link.listen_host}:0"
                start(DEST, [listen, "--quiet", "--verbose"], common, capture=True)
                orders = replace(common, link=link.note, prints_table=not has_output)
                start(SOURCE, ["--connect=-"], orders, capture=watched or is_printed)
        except MidstreamError as error:
            _report(error, given)
            raise
        yield sides
    finally:
        for side in sides:
            side.put_down()
        release_signals()


def _report(error: MidstreamError, values: Values) -> None:
    # Imported late: only who fails waits for what it takes.
    from protocol.report import assemble_failed  # noqa: PLC0415

    report_error(error, assemble_failed, {"report": values["report"]})


class Handed:
    """What this process has open and both sides inherit; a context manager, which closes its own.

    A side cannot open it by a path: /proc/PID/fd is for who may trace that process, which a side in
    a user namespace of its own may not, and what is behind it may be another user's, or a socket.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self._copies: dict[int, int] = {}

    @property
    def descriptors(self) -> list[int]:
        """The numbers, here and there."""
        return list(self._copies.values())

    def path_of(self, fd: int) -> str:
        """Return by what path a side knows a descriptor of this process, which stays open here.

        Raises:
            MigrationError: There is none of that number.
        """
        if fd not in self._copies:
            try:
                # A number that is no standard stream's, which is another there.
                self._copies[fd] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            except OSError as error:
                raise MigrationError(f"cannot use /dev/fd/{fd}: {error.strerror}") from error
        return f"/dev/fd/{self._copies[fd]}"

    def __enter__(self) -> Handed:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close what was made for the sides."""
        for fd in self._copies.values():
            os.close(fd)
        self._copies.clear()


def _arguments(side: str, values: Values, handed: Handed) -> list[str]:
    ours = [option for option in options_of(side) if _is_for(side, option.name)]
    given = {name: _for_children(name, value, handed) for name, value in values.items()}
    return to_arguments(given, ours)


def _is_for(side: str, name: str) -> bool:
    """Tell whether an option goes to a side: the source alone prints and reports.

    What shows both sides' events is this process's to make, and of the secret's file what it holds
    was read, and is handed on.
    """
    if name in {"secret_file", "trace", "html", "serve"}:
        return False
    return side == SOURCE or name not in {"report", "quiet", "verbose"}


def _clear_outputs(values: Values) -> None:
    """Let no file of an earlier run be taken for one of this."""
    begin_report(values["report"])
    path = values["events"]
    # What was opened before is for who opened it to begin anew, or not.
    if path is not None and own_descriptor(path) is None and Path(path).is_file():
        try:
            os.truncate(path, 0)
        except OSError as error:
            raise MidstreamError(f"cannot write {path}: {error.strerror}") from error


def _for_children(name: str, value: object, handed: Handed) -> object:
    """Return a value as a child must have it: `/dev/stdin` there means its own, which is empty."""
    if name not in FILES or not isinstance(value, str):
        return value
    fd = own_descriptor(value)
    return value if fd is None else handed.path_of(fd)
