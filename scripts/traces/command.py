"""`midstream trace`: makes traces of what other tools record, shows them, and cuts them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from guest.access_line import WrongLineError
from guest.trace import read_accesses
from guest.whole_file import WholeFile, is_regular_target, open_named, write_all
from protocol.errors import LocalProtocolError, MidstreamError
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.units import format_bytes, parse_bytes
from scripts.configure import parsed
from scripts.files import check_readable, check_twice_readable, check_writable
from scripts.named_files import Command, FileArgument, Use, file_option
from scripts.screen.output import tell
from scripts.screen.words import time_us
from scripts.traces.csv_table import MEANINGS
from scripts.traces.cutting import Cut, Mark, parse_mark, parse_vcpus
from scripts.traces.figures import TraceFigures, density, figures_of
from scripts.traces.found import ADDRESS_MAX, Wishes, parse_address
from scripts.traces.importing import IMPORTERS, Imported, Window, import_file
from scripts.traces.layout import as_size, fitting, read_for
from scripts.traces.own_events import EVENTS

_EXIT_USAGE = 2
_PICTURE_ENDINGS = (".svg", ".png", ".pdf")

# Of the picture in text: what fits beside nothing on a terminal.
_TEXT_CELLS = (12, 64)
_NAME_CHARS = 16

# A trace of millions of lines is written in pieces.
_LINES_AT_ONCE = 10_000


def _epilog(*example: str) -> str:
    """Return what stands below a command's options: an example, as it is typed."""
    lines = "\n".join(f"  {line}" for line in example)
    return (
        f"\b\nExample:\n{lines}\n\n"
        "Exit status: 0 done; 1 the result cannot be written; 2 wrong command line, or file."
    )


@click.group(invoke_without_command=True)
@click.pass_context
def trace(context: click.Context) -> None:
    """Make traces of what other tools record, show what they are like, and cut parts out.

    A trace is what --program trace:FILE of migrate and source replays, and --accesses of compare.
    """
    if context.invoked_subcommand is None:
        tell(context.get_help())
        context.exit(_EXIT_USAGE)


def _source(function: click.decorators.FC) -> click.decorators.FC:
    return click.argument("file", metavar="FILE", cls=FileArgument, use=Use.READ)(function)


def _target(function: click.decorators.FC) -> click.decorators.FC:
    return file_option(
        "--out", "-o", metavar="FILE", use=Use.WRITE, required=True,
        help="Write the trace here; it is there when it is whole.",
    )(function)  # fmt: skip


@trace.command(
    "import", cls=Command,
    epilog=_epilog(
        "perf script -F comm,tid,time,event,addr > faults.txt",
        "midstream trace import --from perf faults.txt -o faults.trace --pack 2MiB",
    ),
)  # fmt: skip
@_source
@click.option(
    "--from", "kind", required=True, type=click.Choice(tuple(IMPORTERS)),
    help="What wrote it: csv, a table with named columns; perf, the text of perf script; damon, of "
    "damo report access in its raw form, or of its trace point; qemu, a log with "
    "postcopy_ram_fault_thread_request; events, what --events of midstream wrote.",
)  # fmt: skip
@_target
@click.option(
    "--base", default="0", show_default=True, metavar="ADDRESS",
    help="The address there of the guest's first byte, as 0x7f0000000000.",
)  # fmt: skip
@click.option(
    "--size", metavar="SIZE", help="How much from there is the guest's; what is outside goes."
)
@click.option(
    "--pack", metavar="SIZE",
    help="Lay the touched pieces of this size together, so that addresses far apart make a small "
    "guest, such as 2MiB.",
)  # fmt: skip
@click.option(
    "--block", default="", metavar="NAME",
    help="The RAMBlock that addresses count in, where the file names none; else the whole guest.",
)  # fmt: skip
@click.option(
    "--column", "columns", multiple=True, metavar="MEANING=HEADER",
    help=f"With csv: a column that is called otherwise. Of {', '.join(MEANINGS)}.",
)  # fmt: skip
@click.option(
    "--page-size", default="4KiB", show_default=True, metavar="SIZE",
    help="With csv: what the column page counts in.",
)  # fmt: skip
@click.option(
    "--step", default="2MiB", show_default=True, metavar="SIZE",
    help="With damon: one access stands for so much of a region.",
)  # fmt: skip
@click.option(
    "--event", default=EVENTS[0], show_default=True, type=click.Choice(EVENTS),
    help="With events: the pages that vCPUs waited for, or all that were asked for.",
)  # fmt: skip
def import_trace(  # noqa: PLR0913, PLR0917 - one argument an option
    file: str,
    kind: str,
    out: str,
    base: str,
    size: str | None,
    pack: str | None,
    block: str,
    columns: tuple[str, ...],
    page_size: str,
    step: str,
    event: str,
) -> None:
    """Make a trace of a file that another tool wrote.

    Times count from the first access, threads become vCPUs in the order in which they appear.
    """
    check_readable("FILE", file)
    check_writable("--out", out, beside=True)
    wishes = Wishes(
        _columns(columns), _piece("--page-size", page_size), _piece("--step", step), event
    )
    window = Window(
        parsed("--base", lambda: _address(base)),
        ADDRESS_MAX + 1 if size is None else parsed("--size", lambda: parse_bytes(size)),
        block,
        0 if pack is None else _piece("--pack", pack),
    )
    imported = parsed("FILE", lambda: import_file(file, kind, wishes, window))
    head = f"# {_plain(Path(file).name)}, by midstream trace import --from {kind}\n"
    _write(out, head, imported.lines())
    click.echo(_told_import(out, imported))


def _address(text: str) -> int:
    try:
        return parse_address(text)
    except WrongLineError as error:
        raise LocalProtocolError(str(error)) from None


def _piece(option: str, text: str) -> int:
    count = parsed(option, lambda: parse_bytes(text))
    if not TARGET_PAGE_BYTES <= count <= ADDRESS_MAX or count % TARGET_PAGE_BYTES:
        raise click.BadParameter(f"{text!r} is not a multiple of 4KiB", param_hint=option)
    return count


def _columns(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in texts:
        meaning, equals, header = text.partition("=")
        if meaning not in MEANINGS or not equals:
            raise click.BadParameter(
                f"{text!r} is not MEANING=HEADER, the first of {', '.join(MEANINGS)}",
                param_hint="--column",
            )
        pairs.append((meaning, header))
    return tuple(pairs)


def _told_import(out: str, imported: Imported) -> str:
    count, vcpus = len(imported.vcpus), int(imported.vcpus.max()) + 1
    span = ""
    if imported.times_ns is not None:
        span = f" in {time_us(float(imported.times_ns[-1]) / 1000)}"
    size = as_size(fitting(imported.ends(), 2 << 20))
    outside = f"; {imported.outside_count} outside" if imported.outside_count else ""
    return (
        f"{out}: {_count(count, 'access', 'accesses')} of {_count(vcpus, 'vCPU', 'vCPUs')}{span}"
        f"{outside}; fits --size {size} --vcpus {vcpus}"
    )


@trace.command(
    "show", cls=Command,
    epilog=_epilog("midstream trace show faults.trace --page-size 4KiB --picture faults.svg"),
)  # fmt: skip
@_source
@click.option(
    "--size", metavar="SIZE", help="Of the guest, as migrate has it; default: as large as it needs."
)
@click.option("--page-size", default="2MiB", show_default=True, metavar="SIZE", help="Its pages.")
@file_option(
    "--picture", metavar="FILE", use=Use.WRITE,
    help="Draw the footprint, addresses over time: .svg, .png, .pdf.",
)  # fmt: skip
def show(file: str, size: str | None, page_size: str, picture: str | None) -> None:
    """Show what a trace is like: counts, footprint, how often it comes back, a picture of it."""
    check_twice_readable("FILE", file)
    if picture is not None:
        _check_picture(picture)
    geometry, read = parsed("FILE", lambda: read_for(file, size, page_size))
    if not read.access_count:
        click.echo(f"{file}: no accesses")
        return
    click.echo(_table(figures_of(read, geometry), as_size(geometry), page_size))
    # Imported late: drawing takes its time, and what is wrong has been said by now.
    from scripts.traces.drawing import (  # noqa: PLC0415
        draw_footprint,
        draw_in_text,
        picture_cells,
    )

    grid, end = density(read, geometry, *_TEXT_CELLS)
    is_timed = read.times_ns is not None
    click.echo("\n".join(f"|{line:<{_TEXT_CELLS[1]}}|" for line in draw_in_text(grid)))
    until = f"{end:.4g} s" if is_timed else f"{end:.0f} accesses"
    click.echo(f" low addresses below, high above; from 0 to {until}")
    if picture is not None:
        from scripts.figures.plots import save  # noqa: PLC0415

        grid, end = density(read, geometry, *picture_cells(geometry.page_count))
        figure = draw_footprint(
            grid, end, geometry.length_bytes, is_timed=is_timed, title=_plain(Path(file).name)
        )
        save(figure, Path(picture))


def _check_picture(path: str) -> None:
    check_writable("--picture", path)
    if Path(path).suffix not in _PICTURE_ENDINGS:
        raise click.BadParameter(
            f"{path!r} does not end in {', '.join(_PICTURE_ENDINGS)}", param_hint="--picture"
        )


def _table(figures: TraceFigures, size: str, page_size: str) -> str:
    reads = figures.accesses - figures.writes
    per_vcpu = ", ".join(f"{vcpu}: {count:,}" for vcpu, count in figures.vcpu_counts.items())
    per_page = figures.accesses / figures.target_pages
    rows = {
        "accesses": f"{figures.accesses:,}: {_count(reads, 'read', 'reads')}, "
        f"{_count(figures.writes, 'write', 'writes')}",
        "by vCPU": per_vcpu,
        "time": _span(figures),
        "guest": f"{size}, pages of {page_size}",
        "footprint": f"{format_bytes(figures.footprint_bytes)} in 4 KiB, "
        f"{figures.pages} of {_count(figures.pages_all, 'page', 'pages')}",
        "reuse": f"{per_page:.3g} accesses a touched 4 KiB, "
        f"{100 * figures.reuses / figures.accesses:.3g} % to what was touched before",
        "reuse distance": "none"
        if figures.reuse_distance is None
        else f"{_accesses(figures.reuse_distance)} in the median",
        "sequential": f"{100 * figures.nexts / figures.accesses:.3g} % go on at the same 4 KiB or "
        "the next",
    }
    return "\n".join(f"{name:<{_NAME_CHARS}}{text}" for name, text in rows.items()) + "\n"


def _span(figures: TraceFigures) -> str:
    if figures.span_ns is None:
        return "not recorded"
    if not figures.span_ns:
        return "all at once"
    rate = figures.accesses / (figures.span_ns / 1e9)
    return f"{time_us(figures.span_ns / 1000)}, {rate:.4g} accesses a second"


def _accesses(count: float) -> str:
    return f"{count:,.10g} {'access' if count == 1 else 'accesses'}"


@trace.command(
    "cut", cls=Command,
    epilog=_epilog(
        "midstream trace cut faults.trace -o part.trace --from 2s --to 5s --vcpus 0,1"
    ),
)  # fmt: skip
@_source
@_target
@click.option(
    "--from", "start", metavar="PLACE",
    help="Drop what is before a time, such as 2.5s, or before an access, by its number from 0.",
)  # fmt: skip
@click.option("--to", "stop", metavar="PLACE", help="Drop what is from there on.")
@click.option("--vcpus", metavar="LIST", help="Keep only these, such as 0,2-4; numbered anew.")
def cut(file: str, out: str, start: str | None, stop: str | None, vcpus: str | None) -> None:
    """Cut a part out of a trace; its times count from where it begins."""
    check_twice_readable("FILE", file)
    check_writable("--out", out, beside=True)
    wanted = Cut(
        _mark("--from", start),
        _mark("--to", stop),
        None if vcpus is None else parsed("--vcpus", lambda: parse_vcpus(vcpus)),
    )
    first = parsed("FILE", lambda: next(read_accesses(file), None))
    if wanted.needs_times and first is not None and first.time_ns is None:
        raise click.BadParameter(
            f"{file}: its accesses have no times; their numbers say where to cut, without a unit",
            param_hint="--from or --to",
        )
    counted = _Counted(wanted.lines(lambda: read_accesses(file)))
    head = f"# a part of {_plain(Path(file).name)}, by midstream trace cut\n"
    parsed("FILE", lambda: _write(out, head, counted))
    if not counted.count:
        tell(f"midstream: {out} has no accesses: nothing of {file} is in that part")
    click.echo(f"{out}: {_count(counted.count, 'access', 'accesses')}")


def _mark(option: str, text: str | None) -> Mark | None:
    return None if text is None else parsed(option, lambda: parse_mark(text))


class _Counted:
    """Lines that are counted as they are taken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = lines
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.count += 1
            yield line


def _write(out: str, head: str, lines: Iterable[str]) -> None:
    """Write a trace; what is there stays as it is until all of the new one is there.

    Raises:
        MidstreamError: It cannot be written.
    """
    try:
        if not is_regular_target(out):
            # A pipe or a device has no old contents to keep.
            fd = open_named(out, os.O_WRONLY)
            try:
                _write_to(fd, head, lines)
            finally:
                os.close(fd)
            return
        with WholeFile(out) as file:
            _write_to(file.fd, head, lines)
            file.publish()
    except OSError as error:
        raise MidstreamError(f"cannot write {out}: {error.strerror}") from error


def _write_to(fd: int, head: str, lines: Iterable[str]) -> None:
    rest = iter(lines)
    write_all(fd, head.encode())
    while part := "".join(islice(rest, _LINES_AT_ONCE)):
        write_all(fd, part.encode())


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _plain(name: str) -> str:
    """Return a file's name as it may stand in a line."""
    return "".join(each if each.isprintable() else "?" for each in name)
