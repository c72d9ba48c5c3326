"""`midstream dest --peer qemu`: from the command line's strings to the run of a destination."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import click

from dest.config import QemuDestConfig
from dest.qemu.peer import QemuPeer
from dest.session import DestSession
from protocol.addresses import unmapped
from protocol.errors import LocalProtocolError
from protocol.units import parse_bytes
from scripts.configure import dest_config, program_of
from scripts.credentials import SECRET_OPTION, TLS_OPTIONS
from scripts.files import check_readable
from scripts.options import OPTIONS, Values
from scripts.processes.dest_side import run_session, say_listening
from scripts.reports import Outputs, settled_report
from scripts.run_config import DestRun, Plain, Program, config_of, from_plain
from scripts.screen.output import tell

# Less, and QEMU would wait for each target page; more is what nobody could tell from no limit.
_WINDOW_BYTES_MIN, _WINDOW_BYTES_MAX = 16 << 10, 64 << 20


def qemu_dest_config(values: Values, host: str = "", port: int = 0) -> QemuDestConfig:
    """Return the destination's configuration.

    Raises:
        click.BadParameter: An option's value is none that it can have.
    """
    config, program = dest_config(values, host, port), qemu_program_of(values)
    return QemuDestConfig(
        host=host,
        port=port,
        window_bytes=window_bytes(values["socket_buffer"]),
        spec_of=program.spec,
        only_from=_only_from(values["allow_from"]),
        backing=config.backing,
        placement=config.placement,
        wait_seconds=config.wait_seconds,
        save=config.save,
        steps=config.steps,
        touches=config.touches,
    )


def qemu_program_of(values: Values) -> Program:
    """Return what vCPUs do with memory that QEMU alone knows.

    Nothing is checked, and nothing written that would keep the memory from being compared with
    QEMU's afterwards.

    Raises:
        click.BadParameter: An option's value is none that it can have, or there is no such trace.
    """
    program = replace(program_of({**values, "write_ratio": "0", "image": None}), image=True)
    if program.trace is not None:
        # Which blocks and pages it may name, nobody knows before QEMU has come.
        check_readable("--program", program.trace)
    return program


def check_heeded(values: Values) -> None:
    """Refuse what a QEMU could not answer.

    Raises:
        click.BadParameter: It is to prove that it knows a secret, speak TLS, or never be silent.
    """
    for option in (SECRET_OPTION, *TLS_OPTIONS):
        if values[option.removeprefix("--").replace("-", "_")] is not None:
            raise click.BadParameter(
                "a QEMU proves nothing here and is read in the clear; see --allow-from",
                param_hint=option,
            )
    for known in OPTIONS:
        if known.flag == "--keepalive-timeout" and values[known.name] != known.default:
            raise click.BadParameter("a QEMU may be silent", param_hint=known.flag)


def _only_from(text: str | None) -> str | None:
    try:
        return None if text is None else unmapped(str(ip_address(text)))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no IP address", param_hint="--allow-from") from error


def window_bytes(text: str) -> int:
    """Return what may lie in each connection's sockets, 0 for as much as the kernel lets.

    Raises:
        click.BadParameter: It is no size, or one that makes no sense.
    """
    try:
        count = parse_bytes(text)
    except LocalProtocolError as error:
        raise click.BadParameter(str(error), param_hint="--socket-buffer") from error
    if count and not _WINDOW_BYTES_MIN <= count <= _WINDOW_BYTES_MAX:
        raise click.BadParameter(
            f"{text!r} is neither 0 nor from {_WINDOW_BYTES_MIN >> 10}KiB to "
            f"{_WINDOW_BYTES_MAX >> 20}MiB",
            param_hint="--socket-buffer",
        )
    return count


def run_started(run: Plain) -> None:
    """Run the destination for a QEMU that this process was started for.

    Raises:
        MidstreamError: It failed or was cancelled.
    """
    given: DestRun = from_plain(DestRun, run)
    assert given.program is not None, "a QEMU says nothing of vCPUs"
    with settled_report(given.outputs.report):
        config = config_of(QemuDestConfig, given.config, spec_of=given.program.spec)
        run_qemu_dest(config, given.outputs)


def run_qemu_dest(config: QemuDestConfig, outputs: Outputs) -> None:
    """Run a destination for a QEMU to its end.

    Raises:
        MidstreamError: It failed or was cancelled.
    """
    run_session(
        outputs,
        lambda emit: DestSession(
            config, QemuPeer(config, emit), emit, say_listening(outputs), tell
        ),
    )
