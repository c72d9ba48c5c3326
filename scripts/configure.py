"""From the command line's strings to the two sides' configurations; what is wrong is said here."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import click

from dest.config import PLACEMENT_CHOICES, DestConfig
from dest.script import WrittenStep, find_steps
from guest.spec import (
    BACKING_CHOICES,
    DIRTY_LOG_CHOICES,
    GUEST_CHOICES,
    PROGRAM_NAMES,
    ProgramSpec,
)
from protocol.addresses import parse_host_port
from protocol.credentials import NOTHING, Credentials
from protocol.errors import LocalProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.limits import (
    CHUNK_BYTES_MAX,
    SILENCE_SECONDS_MAX,
    SILENCE_SECONDS_MIN,
)
from protocol.text import did_you_mean, quoted
from protocol.units import parse_bytes, parse_duration_ms, parse_geometry, parse_rate
from scripts.files import check_readable, check_savable, check_twice_readable, check_writable
from scripts.links.spec import LinkSpec, parse_link
from scripts.options import Values, postcopy_after_of, program_text
from scripts.policies import policy_of
from scripts.reports import Outputs
from scripts.run_config import Program
from source.config import SourceConfig
from source.convergence import SwitchRule

T = TypeVar("T")

# Python's float() would take nan, inf, underscores and the digits of every script.
_NUMBER = re.compile(r"[0-9]{1,24}(?:\.[0-9]{0,24})?(?:[eE][+-]?[0-9]{1,3})?")

# An access in a quarter of an hour.  With far less, the time of the next does not fit in 64 bits.
_ACCESS_RATE_MIN = 0.001

# Of a packet's traffic class the upper six bits (RFC 2474), and the names that some values have:
# class selectors (RFC 2474), assured (RFC 2597) and expedited forwarding (RFC 3246), lower effort
# (RFC 8622).
DSCP_MAX = 63
DSCP_NAMES = {
    **{f"CS{number}": 8 * number for number in range(8)},
    **{f"AF{number}{drop}": 8 * number + 2 * drop for number in range(1, 5) for drop in (1, 2, 3)},
    "EF": 46,
    "LE": 1,
}


def parse_address(text: str, option: str, *, port_min: int = 0) -> tuple[str, int]:
    """Return (host, port) of HOST:PORT, or [ADDRESS]:PORT for IPv6; without a host, localhost.

    Raises:
        click.BadParameter: It is not that.
    """
    try:
        return parse_host_port(text, port_min=port_min)
    except ValueError as error:
        raise click.BadParameter(
            f"{quoted(text)} is not HOST:PORT or [ADDRESS]:PORT, the port from {port_min} to 65535",
            param_hint=option,
        ) from error


def source_config(
    values: Values,
    host: str = "",
    port: int = 0,
    credentials: Credentials = NOTHING,
    spec_type: type[ProgramSpec] = ProgramSpec,
) -> SourceConfig:
    """Return the source's configuration.

    Args:
        values: Its options.
        host: Where the destination listens.
        port: On which port.
        credentials: What the source proves itself with.
        spec_type: What its guest's program is told in.

    Raises:
        click.BadParameter: An option's value is none that it can have.
    """
    geometry = _geometry(values)
    return SourceConfig(
        host=host,
        port=port,
        geometry=geometry,
        backing=_choice("--backing", values["backing"], BACKING_CHOICES),
        image=_image(values["image"], geometry),
        spec=parsed("--program", lambda: program_of(values, spec_type).spec(geometry, spec_type)),
        policy=parsed("--policy", lambda: policy_of(values["policy"])),
        chunk_bytes=_chunk_bytes(values["chunk_size"]),
        rule=_switch_rule(values),
        bandwidth=parsed("--max-bandwidth", lambda: parse_rate(values["max_bandwidth"])),
        dirty_log=_choice("--dirty-log", values["dirty_log"], DIRTY_LOG_CHOICES),
        guest=_choice("--guest", values["guest"], GUEST_CHOICES),
        hold=bool(values["start_paused"]),
        checksum=bool(values["checksum"]),
        dscp=_dscp(values["dscp"]),
        reconnect_seconds=seconds_of("--reconnect-timeout", values["reconnect_timeout"]),
        silence_seconds_max=_silence_seconds(values["keepalive_timeout"]),
        credentials=credentials,
        postcopy_bandwidth=parsed(
            "--max-postcopy-bandwidth", lambda: parse_rate(values["max_postcopy_bandwidth"])
        ),
    )


def dest_config(
    values: Values, host: str = "", port: int = 0, credentials: Credentials = NOTHING
) -> DestConfig:
    """Return the destination's configuration.

    Raises:
        click.BadParameter: An option's value is none that it can have.
    """
    if values["save"] is not None:
        check_savable("--save", values["save"])
    return DestConfig(
        host=host,
        port=port,
        backing=_choice("--backing", values["backing"], BACKING_CHOICES),
        placement=_choice("--placement", values["placement"], PLACEMENT_CHOICES),
        save=Path(values["save"]) if values["save"] is not None else None,
        steps=_steps(values["steps"]),
        wait_seconds=seconds_of("--recover-timeout", values["recover_timeout"]),
        dscp=_dscp(values["dscp"]),
        silence_seconds_max=_silence_seconds(values["keepalive_timeout"]),
        credentials=credentials,
    )


def outputs_of(values: Values) -> Outputs:
    """Return what is wanted of a run; not every command has all of it.

    Raises:
        click.BadParameter: A file could not be written in the end, or there is no such address.
    """
    known = {field.name: values[field.name] for field in fields(Outputs) if field.name in values}
    if known.get("serve") is not None:
        known["serve"] = parse_address(known["serve"], "--serve")
    if "serve_after" in known:
        known["serve_after"] = seconds_of("--serve-after", known["serve_after"])
        if known["serve_after"] and known["serve"] is None:
            raise click.BadParameter("there is no --serve to stay", param_hint="--serve-after")
    outputs = Outputs(**known)
    for name, path in outputs.files.items():
        check_writable(f"--{name}", path)
    return outputs


def check_program(values: Values) -> None:
    """Refuse a trace that comes out of a pipe, for `migrate`: a side reads it again.

    Raises:
        click.BadParameter: That is so.
    """
    program, _, path = program_text(values).partition(":")
    if program == "trace" and path:
        check_twice_readable("--program", path)


def check_steps(source: SourceConfig, dest: DestConfig) -> None:
    """Check what only both sides' options together can tell.

    Raises:
        click.BadParameter: Steps without a guest that takes them, or outside its memory.
    """
    if dest.steps:
        parsed("--steps", lambda: find_steps(dest.steps, source.geometry, source.spec.name))


def _geometry(values: Values) -> Geometry:
    option = "--size or --page-size"
    return parsed(option, lambda: parse_geometry(values["size"], values["page_size"]))


def _steps(path: str | None) -> tuple[WrittenStep, ...]:
    if path is None:
        return ()
    # Imported late, as below: most runs start without it, and it takes its time.
    from scripts.injection.steps import read_steps  # noqa: PLC0415

    return parsed("--steps", lambda: read_steps(Path(path)))


def _image(path: str | None, geometry: Geometry) -> Path | None:
    if path is None:
        return None
    status = check_readable("--image", path)
    # Of a pipe or a device nobody knows the size.
    if stat.S_ISREG(status.st_mode) and status.st_size > geometry.length_bytes:
        raise click.BadParameter(
            f"{path!r}: {status.st_size} bytes do not fit in a guest of "
            f"{geometry.length_bytes} bytes",
            param_hint="--image",
        )
    return Path(path)


def link_spec(text: str) -> LinkSpec:
    """Return what `--link` says.

    Raises:
        click.BadParameter: It says it wrongly, or no link can be so.
    """
    return parsed("--link", lambda: parse_link(text))


def seconds_of(option: str, text: str) -> float:
    """Return a time in seconds, 0 where an option's help says what that means.

    Raises:
        click.BadParameter: It is no time.
    """
    return 0.0 if text == "0" else parsed(option, lambda: parse_duration_ms(text)) / 1000


def _dscp(text: str | None) -> int | None:
    if text is None:
        return None
    found = DSCP_NAMES.get(text.upper())
    if found is None and not (text.isascii() and text.isdigit() and int(text[:9]) <= DSCP_MAX):
        raise click.BadParameter(
            f"{quoted(text)} is not 0 to {DSCP_MAX}, nor one of {', '.join(DSCP_NAMES)}",
            param_hint="--dscp",
        )
    return int(text) if found is None else found


def _silence_seconds(text: str) -> float:
    seconds = seconds_of("--keepalive-timeout", text)
    if not SILENCE_SECONDS_MIN <= seconds <= SILENCE_SECONDS_MAX:
        raise click.BadParameter(
            f"{quoted(text)} is not {SILENCE_SECONDS_MIN:g} s to {SILENCE_SECONDS_MAX:g} s",
            param_hint="--keepalive-timeout",
        )
    return seconds


def program_of(values: Values, spec_type: type[ProgramSpec] = ProgramSpec) -> Program:
    """Return what a guest's vCPUs do.

    Args:
        values: Its options.
        spec_type: What that will be told in.

    Raises:
        click.BadParameter: An option's value is none that it can have.
    """
    name, _, path = program_text(values).partition(":")
    if (name == "trace") != bool(path):
        raise click.BadParameter(
            f"{quoted(values['program'])} is not a program's name or trace:FILE",
            param_hint="--program",
        )
    _choice("--program", name, PROGRAM_NAMES)
    vcpus = _whole("--vcpus", values["vcpus"])
    rates = tuple(_access_rate(rate) for rate in values["access_rate"].split(","))
    ratio = _number("--write-ratio", values["write_ratio"])
    seed = _whole("--seed", values["seed"])
    # Each for itself, so that a complaint names the option that it is about.
    parsed("--vcpus", lambda: spec_type(vcpu_count=vcpus))
    parsed("--access-rate", lambda: spec_type(vcpu_count=vcpus, access_rates=rates))
    parsed("--write-ratio", lambda: ProgramSpec(write_ratio=ratio))
    parsed("--seed", lambda: ProgramSpec(seed=seed))
    return Program(
        name=name, vcpu_count=vcpus, access_rates=rates, write_ratio=ratio, seed=seed,
        image=values["image"] is not None, trace=path or None,
    )  # fmt: skip


def _chunk_bytes(text: str) -> int:
    count = parsed("--chunk-size", lambda: parse_bytes(text))
    if not 0 < count <= CHUNK_BYTES_MAX or count % TARGET_PAGE_BYTES:
        raise click.BadParameter(
            f"{quoted(text)} is not a multiple of 4KiB up to {CHUNK_BYTES_MAX >> 20}MiB",
            param_hint="--chunk-size",
        )
    return count


def _switch_rule(values: Values) -> SwitchRule:
    after_time = _optional_seconds("--postcopy-after-time", values.get("postcopy_after_time"))
    return SwitchRule(
        postcopy_after=_postcopy_after(postcopy_after_of(values)),
        downtime_ms_max=parsed(
            "--downtime-limit", lambda: parse_duration_ms(values["downtime_limit"])
        ),
        postcopy_after_seconds=after_time,
        give_up_after_seconds=_give_up_after(values.get("give_up_after")),
    )


def _give_up_after(text: str | None) -> float | None:
    seconds = _optional_seconds("--give-up-after", text)
    if seconds == 0:
        raise click.BadParameter(f"{quoted(str(text))} is no time", param_hint="--give-up-after")
    return seconds


def _optional_seconds(option: str, text: str | None) -> float | None:
    return None if text is None else seconds_of(option, text)


def _postcopy_after(text: str) -> int | None:
    return None if text == "never" else _whole("--postcopy-after", text)


def _whole(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise click.BadParameter(f"{quoted(text)} is not a whole number from 0", param_hint=option)
    return int(text)


def _number(option: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise click.BadParameter(f"{quoted(text)} is not a number from 0", param_hint=option)
    return float(text)


def _access_rate(text: str) -> float:
    rate = _number("--access-rate", text)
    # What is too small for a float would come out as 0, which means without pause.
    if rate < _ACCESS_RATE_MIN and text.strip("0."):
        raise click.BadParameter(
            f"{quoted(text)} is neither 0 nor from {_ACCESS_RATE_MIN}", param_hint="--access-rate"
        )
    return rate


def _choice(option: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise click.BadParameter(
            f"{quoted(text)} is not one of {', '.join(choices)}{did_you_mean(text, choices)}",
            param_hint=option,
        )
    return text


def parsed(option: str, parse: Callable[[], T]) -> T:
    """Return what a parser makes of an option, its complaint turned into the command line's.

    Raises:
        click.BadParameter: The parser has raised a `LocalProtocolError`.
    """
    try:
        return parse()
    except LocalProtocolError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
