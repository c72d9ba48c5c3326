"""Starts a destination and a source for `midstream migrate`, before anything else is loaded.

Loading takes a process longer than most of what it does afterwards.  So both sides begin with that
while this process has not begun itself: what is imported here is what reading options takes.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

from guest.whole_file import own_descriptor
from protocol.errors import MidstreamError, MigrationError
from scripts.links.link import Link
from scripts.options import DEST, SOURCE
from scripts.reports import (
    STANDARD_OUTPUT,
    STANDARD_OUTPUT_FILE,
    Outputs,
    begin_report,
    is_report_file,
    report_error,
)
from scripts.run_config import Access, DestRun, SourceRun, to_json
from scripts.runtime.interrupts import hold_signals, release_signals
from scripts.runtime.parent import Orders
from scripts.runtime.spawn import Spawned, spawn
from scripts.screen.earlier import holds_earlier
from scripts.screen.output import output_columns
from scripts.views.spool import Spool

P = TypeVar("P", bound=str | Path | None)


@contextmanager
def both_sides(
    source: SourceRun, dest: DestRun, link: Link, spool: Spool | None, *, watched: bool
) -> Iterator[list[Spawned]]:
    """Start a destination and a source; neither is left when the block is.

    From then on signals wait until somebody releases them who can end both in order.

    Args:
        source: What the source is to do; what the user wants of the run are its outputs.
        dest: What the destination is to do; where it listens is the link's to say.
        link: What lies between the two.
        spool: Where both leave their events for who watches; None if nobody does.
        watched: What the source says is captured: printed, it would be drawn over.  So is a report
            that is not a file.

    Raises:
        MidstreamError: One cannot be started, or a file of results cannot be written; then the
            report says so.
    """
    wanted = source.outputs
    # That of a side may be another.
    events = STANDARD_OUTPUT_FILE if wanted.events == STANDARD_OUTPUT else wanted.events
    sides: list[Spawned] = []
    hold_signals()
    try:
        try:
            begin_report(wanted.report)
            holds_events = _holds_events(events)
            # What is no file can be written only once, when all is known.
            is_printed = wanted.report is not None and not is_report_file(wanted.report)
            with Handed() as handed:
                events = handed.path(events)
                common = Orders(
                    shares_events=events is not None,
                    holds_events=holds_events,
                    spool=handed.path_of(spool.fd) if spool is not None else None,
                )
                # It is verbose so that this process hears when it meets a source.
                dest = replace(
                    handed.dest(dest, link.listen_host),
                    outputs=Outputs(events=events, quiet=True, verbose=True),
                )
                # What shows both sides' events is this process's to make.
                report = STANDARD_OUTPUT if is_printed else handed.path(wanted.report)
                outputs = replace(
                    wanted, report=report, events=events, perfetto=None, html=None, serve=None
                )
                source = replace(handed.source(source), outputs=outputs)

                def start(side: str, run: bytes, orders: Orders, *, capture: bool) -> None:
                    sides.append(
                        spawn(
                            side, capture=capture, prefix=link.prefixes[side], run=run,
                            inherited=handed.descriptors, heir=True, orders=orders,
                        )
                    )  # fmt: skip

                start(DEST, to_json(DEST, dest), common, capture=True)
                orders = replace(
                    common, link=link.note, prints_table=wanted.events != STANDARD_OUTPUT,
                    columns=output_columns(),
                )  # fmt: skip
                start(SOURCE, to_json(SOURCE, source), orders, capture=watched or is_printed)
        except MidstreamError as error:
            _report(error, wanted.report)
            raise
        yield sides
    finally:
        for side in sides:
            side.put_down()
        release_signals()


def _report(error: MidstreamError, target: str | None) -> None:
    # Imported late: only who fails waits for what it takes.
    from protocol.report import assemble_failed  # noqa: PLC0415

    report_error(error, assemble_failed, target)


class Handed:
    """Descriptors that this process has open and both sides inherit; a context manager.

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

    def path(self, path: P) -> P:
        """Return a file's name as a side must have it: `/dev/stdin` there is its own, and empty."""
        fd = own_descriptor(path) if path is not None else None
        if path is None or fd is None:
            return path
        return cast(P, type(path)(self.path_of(fd)))

    def source(self, run: SourceRun) -> SourceRun:
        """Return a run with the files that it reads as the source must have them."""
        config = {**run.config, "image": self.path(run.config["image"])}
        program = replace(run.program, trace=self.path(run.program.trace))
        return replace(run, config=config, program=program, access=self._access(run.access))

    def dest(self, run: DestRun, host: str) -> DestRun:
        """Return a run with the file that it writes as the destination must have it.

        Args:
            run: The run.
            host: Where it listens, on a port of its own.
        """
        config = {**run.config, "save": self.path(run.config["save"]), "host": host, "port": 0}
        return replace(run, config=config, access=self._access(run.access))

    def _access(self, access: Access) -> Access:
        if access.tls is None:
            return access
        certificate, key, authority = map(self.path, access.tls)
        return replace(access, tls=(certificate, key, authority))

    def __enter__(self) -> Handed:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what was made for the sides."""
        for fd in self._copies.values():
            os.close(fd)
        self._copies.clear()


def _holds_events(path: str | None) -> bool:
    """Return whether the file of events holds those of an earlier run.

    What was opened before this process is for who opened it to begin anew, or not.

    Raises:
        MidstreamError: It cannot be written.
    """
    if path is None or not holds_earlier(Path(path)):
        return False
    if not os.access(path, os.W_OK):
        raise MidstreamError(f"cannot write {path}: {os.strerror(errno.EACCES)}")
    return True
