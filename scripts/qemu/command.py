"""`midstream qemu`: a real QEMU as the source of a migration."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from guest.image import load_image
from guest.memory import GuestMemory
from guest.pattern import Pattern
from guest.saving import check_room, save_image
from guest.slices import in_loop, in_thread, in_threads
from protocol.errors import LocalProtocolError, MidstreamError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.units import parse_bytes, parse_geometry, parse_rate
from scripts.configure import outputs_of, parse_address, seconds_of
from scripts.files import check_readable, check_savable
from scripts.named_files import Command, Use, file_option
from scripts.options import SOURCE, Values
from scripts.processes.sides import run_side
from scripts.qemu.configure import window_bytes
from scripts.qemu.drive import Orders, Shortened, migrate
from scripts.qemu.machine import MachineSpec, check_block, open_machine
from scripts.reports import Outputs, Report, settled_report
from scripts.run_config import Plain, config_of, from_plain
from scripts.screen.recorder import Recorder

PROGRAM = "qemu-system-x86_64"
ACCELS = ("auto", "kvm", "tcg")

# Of a report whose fields are those of query-migrate, but for the object `midstream`.
SCHEMA = "midstream-qemu/1"


@dataclass(frozen=True)
class QemuSource:
    """A migration out of QEMU.

    Attributes:
        machine: What is started.
        geometry: Its memory, one block.
        image: Fills the memory; None for the pattern.
        seed: Of the pattern.
        orders: How it migrates.
        window_bytes: What each connection's sockets may hold, about; 0 for what the kernel lets.
        save: Where its memory is written in the end; None for nowhere.
    """

    machine: MachineSpec
    geometry: Geometry
    image: Path | None
    seed: int
    orders: Orders
    window_bytes: int
    save: Path | None


@click.command(cls=Command)
@click.option(
    "--connect", required=True, metavar="HOST:PORT",
    help="Where the destination listens: midstream dest --peer qemu, or another.",
)  # fmt: skip
@file_option(
    "--qemu", default=PROGRAM, show_default=True, metavar="FILE", use=Use.READ, help="QEMU itself."
)
@click.option(
    "--accel", default="auto", show_default=True, type=click.Choice(ACCELS),
    help="What runs its vCPU; auto: KVM where it can be had.",
)  # fmt: skip
@click.option("--preempt/--no-preempt", default=True, show_default=True, help="postcopy-preempt.")
@click.option(
    "--compress", is_flag=True,
    help="Its capability compress (before 9.1): pages go deflated; not with --preempt.",
)  # fmt: skip
@click.option("--running", is_flag=True, help="Let its firmware run; else it never does a step.")
@click.option("--size", default="256MiB", show_default=True, metavar="SIZE", help="Its memory.")
@click.option(
    "--page-size", default="2MiB", show_default=True, metavar="SIZE",
    help="4KiB, or 2MiB, which takes huge pages that are set aside (hugetlb).",
)  # fmt: skip
@file_option(
    "--image", metavar="FILE", use=Use.READ, help="Fill the memory from this file, not a pattern."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, (1 << 64) - 1))
@click.option("--postcopy-after", default=0, show_default=True, type=click.IntRange(0, 1000))
@click.option(
    "--precopy", default="0", show_default=True, metavar="SIZE",
    help="Switch over when precopy, at --max-bandwidth, has sent so much.",
)  # fmt: skip
@click.option("--max-bandwidth", default="0", show_default=True, metavar="RATE")
@click.option("--max-postcopy-bandwidth", default="0", show_default=True, metavar="RATE")
@click.option(
    "--reconnect-timeout", default="0", show_default=True, metavar="TIME",
    help="How long to keep trying to resume when postcopy is interrupted; 0: not at all.",
)  # fmt: skip
@click.option(
    "--socket-buffer", default="0", show_default=True, metavar="SIZE",
    help="What each of its connections' sockets may hold, about; 0: as much as the kernel lets it.",
)  # fmt: skip
@file_option("--save", metavar="FILE", use=Use.SAVE, help="Write its memory here when all is done.")
@file_option(
    "--report", metavar="FILE", use=Use.WRITE, help="Write what query-migrate says; - for here."
)
@file_option(
    "--events",
    metavar="FILE",
    use=Use.WRITE,
    help="Write its states as they are entered; - for standard output.",
)
@click.option("--quiet", is_flag=True, help="Print nothing when all is well.")
@click.option("--verbose", is_flag=True, help="Log every state change.")
def qemu(connect: str, **values: Any) -> None:  # noqa: ANN401 - click's values
    """Start a QEMU of its own and migrate its memory to a destination, with postcopy.

    Its memory holds a pattern, or a file's bytes, so that what arrives can be compared with it.
    """
    host, port = parse_address(connect, "--connect", port_min=1)
    outputs = outputs_of(values)
    migrate_out(qemu_source(values), host, port, outputs)


@dataclass(frozen=True, kw_only=True)
class QemuRun:
    """The run of a QEMU that this program starts.

    Attributes:
        config: The `QemuSource`.
        address: Where the destination listens.
        outputs: What is written and shown.
    """

    config: Plain
    address: tuple[str, int]
    outputs: Outputs


def run_started(run: Plain) -> None:
    """Run the QEMU that this process was started for.

    Raises:
        MidstreamError: It failed or was cancelled.
    """
    given: QemuRun = from_plain(QemuRun, run)
    with settled_report(given.outputs.report):
        migrate_out(config_of(QemuSource, given.config), *given.address, given.outputs)


def migrate_out(source: QemuSource, host: str, port: int, outputs: Outputs) -> None:
    """Migrate out of a QEMU to its end; print and write what came of it.

    Raises:
        MidstreamError: It failed or was cancelled.
    """

    async def run(recorder: Recorder) -> tuple[dict[str, Any], None]:
        told = await run_qemu(source, host, port, recorder)
        return {**told, "midstream": {"schema": SCHEMA}}, None

    run_side(SOURCE, outputs, run, to_text=_line_of)


def _line_of(told: Report) -> str:
    requests = told.get("ram", {}).get("postcopy-requests", 0)
    return (
        f"QEMU: {told['status']}, total {told.get('total-time')} ms, "
        f"downtime {told.get('downtime')} ms, {requests} page requests\n"
    )


def qemu_source(values: Values) -> QemuSource:
    """Return the migration that the options' values say.

    Raises:
        click.BadParameter: One is none that it can have.
    """
    try:
        geometry = parse_geometry(values["size"], values["page_size"])
        if len(geometry.blocks) > 1 or geometry.blocks[0].name != "ram":
            raise LocalProtocolError("a QEMU here has one RAMBlock, its name is ram")
        check_block(geometry.blocks[0])
        rates = [parse_rate(values[key]) for key in ("max_bandwidth", "max_postcopy_bandwidth")]
    except MidstreamError as error:
        hint = "--size, --page-size, --max-bandwidth or --max-postcopy-bandwidth"
        raise click.BadParameter(str(error), param_hint=hint) from error
    precopy_bytes = _precopy_bytes(values, rates[0])
    if values["save"] is not None:
        check_savable("--save", values["save"])
    if values["image"] is not None:
        status = check_readable("--image", values["image"])
        if stat.S_ISREG(status.st_mode) and status.st_size > geometry.length_bytes:
            raise click.BadParameter("it does not fit in the memory", param_hint="--image")
    accel = "kvm:tcg" if values["accel"] == "auto" else values["accel"]
    return QemuSource(
        MachineSpec(program=values["qemu"], accel=accel, paused=not values["running"]),
        geometry,
        Path(values["image"]) if values["image"] is not None else None,
        int(values["seed"]),
        Orders(
            preempt=bool(values["preempt"]),
            postcopy_after=int(values["postcopy_after"]),
            bandwidth=rates[0],
            postcopy_bandwidth=rates[1],
            precopy_bytes=precopy_bytes,
            compress=bool(values.get("compress")),
            reconnect_seconds=seconds_of("--reconnect-timeout", values["reconnect_timeout"]),
        ),
        window_bytes(values["socket_buffer"]),
        Path(values["save"]) if values["save"] is not None else None,
    )


def _precopy_bytes(values: Values, bandwidth: int) -> int:
    """Return how much is to be sent before the switch-over, 0 for nothing.

    Raises:
        click.BadParameter: It is no size, or nobody could say when it has been sent.
    """
    try:
        count = parse_bytes(values["precopy"])
    except LocalProtocolError as error:
        raise click.BadParameter(str(error), param_hint="--precopy") from error
    if count and (int(values["postcopy_after"]) or not bandwidth):
        reason = "it takes --postcopy-after 0, and a --max-bandwidth at which it is not all over"
        raise click.BadParameter(reason, param_hint="--precopy")
    return count


async def run_qemu(source: QemuSource, host: str, port: int, emit: Recorder) -> dict[str, Any]:
    """Fill a memory, start QEMU over it, migrate, save; return what `query-migrate` says.

    Raises:
        MidstreamError: It failed.
    """
    if source.save is not None:
        check_room(source.save, source.geometry.length_bytes)
    huge = source.geometry.blocks[0].page_bytes > TARGET_PAGE_BYTES
    # QEMU takes a page size from the file: of transparent huge pages it knows nothing.
    with GuestMemory.create(source.geometry, "hugetlb" if huge else "base") as memory:
        await in_threads(memory.populate_slice, memory.slices())
        if source.image is not None:
            await in_thread(load_image(source.image, memory))
        else:
            await in_loop(Pattern(source.seed).fill(memory))
        async with open_machine(source.machine, memory) as machine:
            shortened = Shortened(emit, machine.pid, port, source.window_bytes)
            told = await migrate(machine.qmp, host, port, source.orders, shortened)
        if source.save is not None:
            await in_thread(save_image(memory, source.save))
    return told
