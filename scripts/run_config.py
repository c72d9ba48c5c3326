"""A side's run, as data: this program hands it to a process that it starts.

A side that a user starts reads it off its command line.  One that this program starts gets what was
read and checked already, in a file that it inherits: JSON of these records, which is read back as
what it was (`run`).  So nothing is said twice, and no option is there for this program alone.
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from dest.config import DestConfig, HostConfig
from guest.spec import ProgramSpec
from protocol.credentials import Credentials
from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry
from scripts.policies import policy_of
from scripts.reports import Outputs
from scripts.runtime.loading import loading
from scripts.runtime.parent import follow_parent, take_orders
from scripts.screen.output import end_of_failure
from source.config import SourceConfig

T = TypeVar("T")

# The fields of a configuration, as they are or as JSON has them.
Plain = dict[str, Any]


class WrongTrace(LocalProtocolError):
    """A trace of accesses is none, or none for this guest."""

    exit_status = 2


@dataclass(frozen=True, kw_only=True)
class Program:
    """The program of a guest's vCPUs; a trace is read when it is known for which guest.

    Attributes:
        name: One of `guest.spec.PROGRAM_NAMES`.
        image: The guest is filled from a file.
        trace: The file of the recorded accesses, for the program "trace" and only for it.
    """

    name: str
    vcpu_count: int
    access_rates: tuple[float, ...]
    write_ratio: float
    seed: int
    image: bool
    trace: str | None

    def spec(self, geometry: Geometry, spec_type: type[ProgramSpec] = ProgramSpec) -> ProgramSpec:
        """Return what the vCPUs of that guest do.

        Args:
            geometry: The guest's blocks.
            spec_type: What it is told in.

        Raises:
            WrongTrace: The trace is none, or none for it.
        """
        trace = None
        if self.trace is not None:
            from guest.trace import read_trace  # noqa: PLC0415 - NumPy, which no other program takes

            try:
                trace = read_trace(self.trace, geometry, self.vcpu_count)
            except LocalProtocolError as error:
                raise WrongTrace(str(error)) from error
        return spec_type(
            self.name, self.vcpu_count, self.access_rates, self.write_ratio, self.seed, self.image,
            trace,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Access:
    """The secret of a side, and the files of its certificates.

    Attributes:
        secret: Both sides' secret; None for none.
        tls: The files of this side's certificate, its key and the other side's authority.
        server_name: As in `Credentials`.
    """

    secret: bytes | None = field(default=None, repr=False)
    tls: tuple[str, str, str] | None = None
    server_name: str | None = None

    def credentials(self, *, server: bool) -> Credentials:
        """Return what a side proves itself with, its certificates read.

        Args:
            server: For the destination.

        Raises:
            click.BadParameter: A file does not hold what it should.
        """
        if self.tls is None:
            return Credentials(secret=self.secret)
        from scripts.credentials import tls_context  # noqa: PLC0415 - few runs are encrypted

        context = tls_context(*self.tls, server=server)
        name = None if server else self.server_name
        return Credentials(secret=self.secret, tls=context, server_name=name)


@dataclass(frozen=True, kw_only=True)
class SourceRun:
    """The run of a source that this program starts.

    Attributes:
        config: Its `SourceConfig`, but for the address.
        policy: What `--policy` says, where `config` cannot hold it: a user's code is loaded where
            it runs.
        address: Where the destination listens; None if it is told on standard input.
        program: What the guest's vCPUs do.
        access: What it proves itself with.
        outputs: What it writes and shows.
    """

    config: Plain
    program: Program
    access: Access = field(default_factory=Access)
    outputs: Outputs = field(default_factory=Outputs)
    address: tuple[str, int] | None = None
    policy: str = ""

    @classmethod
    def of(
        cls, config: SourceConfig, program: Program, access: Access, outputs: Outputs
    ) -> SourceRun:
        """Return it of a configuration whose credentials do not count."""
        plain = to_plain(config, "spec", "credentials")
        origin: str = getattr(config.policy, "origin", "")
        if origin:
            del plain["policy"]
        return cls(config=plain, program=program, access=access, outputs=outputs, policy=origin)

    def configure(self, host: str, port: int) -> SourceConfig:
        """Return the configuration, for a destination at an address.

        Raises:
            WrongTrace: The trace has changed meanwhile.
            WrongPolicy: The file of a user's policy has.
        """
        plain = {**self.config, "host": host, "port": port}
        spec = self.program.spec(from_plain(Geometry, plain["geometry"]))
        credentials = self.access.credentials(server=False)
        policy = {"policy": policy_of(self.policy)} if self.policy else {}
        return config_of(SourceConfig, plain, spec=spec, credentials=credentials, **policy)


@dataclass(frozen=True, kw_only=True)
class DestRun:
    """The run of a destination that this program starts.

    Attributes:
        config: Its `DestConfig`, or, for the source that is a QEMU, its `QemuDestConfig`.
        program: What vCPUs do where the source does not say it; None where it does.
        access: What it proves itself with.
        outputs: What it writes and shows.
    """

    config: Plain
    program: Program | None = None
    access: Access = field(default_factory=Access)
    outputs: Outputs = field(default_factory=Outputs)

    @classmethod
    def of(
        cls, config: HostConfig, access: Access, outputs: Outputs, program: Program | None = None
    ) -> DestRun:
        """Return it of a configuration whose credentials, or whose vCPUs, do not count."""
        plain = to_plain(config, "credentials", "spec_of")
        return cls(config=plain, program=program, access=access, outputs=outputs)

    def configure(self) -> DestConfig:
        """Return the configuration."""
        credentials = self.access.credentials(server=True)
        return config_of(DestConfig, self.config, credentials=credentials)


def to_plain(config: object, *left_out: str) -> Plain:
    """Return a configuration's fields but for some."""
    assert not isinstance(config, type)
    named = fields(config)  # type: ignore[arg-type] # all are dataclasses
    return {each.name: getattr(config, each.name) for each in named if each.name not in left_out}


def config_of(kind: type[T], plain: Mapping[str, Any], **others: object) -> T:
    """Return the configuration that JSON holds, with the fields that it could not hold."""
    hints = get_type_hints(kind)
    return kind(**{name: from_plain(hints[name], plain[name]) for name in plain}, **others)


def to_json(kind: str, run: object) -> bytes:
    """Return a run as it is handed on; `kind` says which process it is for."""
    plain = {"kind": kind, "run": asdict(run)}  # type: ignore[call-overload] # all are dataclasses
    return json.dumps(plain, default=_plain).encode()


def _plain(value: object) -> object:
    match value:
        case Path():
            return str(value)
        case Enum():
            return value.value
        case bytes():
            return b2a_base64(value, newline=False).decode()
    raise TypeError(f"{type(value).__name__} is nothing that a process is handed")


def from_plain(kind: Any, plain: object) -> Any:  # noqa: ANN401 - of that kind
    """Return a value of a type of which this is what JSON has; what is of that type stays.

    Raises:
        LocalProtocolError: It is none.
    """
    # Slow to load, and only a process that was started reads anything.
    import msgspec  # noqa: PLC0415

    try:
        return msgspec.convert(plain, kind, dec_hook=_converted)
    except msgspec.ValidationError as error:
        name = getattr(kind, "__name__", kind)
        raise LocalProtocolError(f"this is no {name}: {error}") from error


def _converted(_: type, value: Any) -> Path:  # noqa: ANN401 - whatever JSON holds
    # The only type that a configuration has and JSON does not; of anything else it is none.
    return Path(value)


# By its kind, which module has the `run_started` that takes a run.
_KINDS = {
    "source": "scripts.processes.source_side",
    "dest": "scripts.processes.dest_side",
    "qemu-dest": "scripts.qemu.configure",
    "qemu": "scripts.qemu.command",
}


@dataclass(frozen=True)
class Started:
    """A run, and which process it is for.

    Attributes:
        kind: Which process it is for.
        run: What it is to do: a record of that kind.
    """

    kind: Literal["source", "dest", "qemu-dest", "qemu"]
    run: Plain


def started_by(data: bytes) -> Started:
    """Return what JSON, as `to_json` makes it, says.

    Raises:
        LocalProtocolError: It is none.
    """
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise LocalProtocolError(f"this is no Started: {error}") from error
    started: Started = from_plain(Started, plain)
    return started


def run(data: bytes) -> int:
    """Do what a process was handed; return the exit status, with every failure told in one line."""
    follow_parent()
    try:
        take_orders()
        given = started_by(data)
        with loading():
            module = import_module(_KINDS[given.kind])
        module.run_started(given.run)
    except Exception as error:  # noqa: BLE001 - told in one line, whatever it is
        return end_of_failure(error, verbose=False)
    return 0
