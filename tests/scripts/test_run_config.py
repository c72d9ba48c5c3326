"""What a started process is to do: it arrives as it was made, and what is none is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dest.config import DestConfig, QemuDestConfig
from dest.script import PageName, WrittenStep
from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry, RamBlock
from scripts.configure import dest_config, program_of, source_config
from scripts.options import OPTIONS
from scripts.qemu.command import QemuRun, QemuSource
from scripts.qemu.drive import Orders
from scripts.qemu.machine import MachineSpec
from scripts.reports import Outputs
from scripts.run_config import (
    Access,
    DestRun,
    Program,
    SourceRun,
    WrongTrace,
    config_of,
    from_plain,
    started_by,
    to_json,
    to_plain,
)
from scripts.runtime.spawn import package_environment, spawn
from source.config import SourceConfig
from tests.certificates import write_certificates

SECRET = b"\0 any bytes \xff"
OUTPUTS = Outputs(report="-", events="e", html="h", serve=("::1", 8080), quiet=True)


def values(**given: str | bool) -> dict[str, Any]:
    """Return the values of a command line on which these were given."""
    return {option.name: option.default for option in OPTIONS} | given


def crossed(kind: str, run: Any) -> Any:  # noqa: ANN401 - of the run's type
    """Return a run as another process reads it."""
    given = started_by(to_json(kind, run))
    assert given.kind == kind
    return from_plain(type(run), given.run)


def source_run(config: SourceConfig, program: Program, **more: Any) -> SourceRun:  # noqa: ANN401
    """Return a source's run as another process reads it."""
    run = replace(SourceRun.of(config, program, Access(secret=SECRET), OUTPUTS), **more)
    return crossed("source", run)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {
            "size": "ram=4MiB@2MiB,a b=8KiB@4KiB", "policy": "split", "vcpus": "3",
            "start_paused": True, "access_rate": "0,1.5,1e3", "write_ratio": "0.25",
            "seed": "18446744073709551615",
            "postcopy_after_time": "30s", "give_up_after": "10min", "checksum": True,
            "max_bandwidth": "1Gbit/s", "keepalive_timeout": "2.5s", "dirty_log": "software",
        },
        {"image": __file__, "program": "zipf", "postcopy_after": "never"},
    ],
)  # fmt: skip
def test_a_source_does_what_was_configured(given: dict[str, str | bool]) -> None:
    """Whatever its options, the other process has the very configuration that was made of them."""
    made, program = source_config(values(**given)), program_of(values(**given))
    run = source_run(made, program)
    assert run.outputs == OUTPUTS
    assert (run.program, run.address) == (program, None)
    configured = run.configure("there", 7)
    assert configured.credentials.secret == SECRET
    assert configured == replace(made, host="there", port=7, credentials=configured.credentials)


def test_a_trace_is_read_where_it_is_used(tmp_path: Path) -> None:
    """The file's name crosses; that it has changed meanwhile is told."""
    trace = tmp_path / "trace"
    trace.write_text("0 ram 1 r\n", encoding="utf-8")
    given = values(program=f"trace:{trace}", vcpus="1")
    run = source_run(source_config(given), program_of(given), address=("::1", 1))
    assert run.address == ("::1", 1)
    recorded = run.configure("there", 7).spec.trace
    assert recorded is not None
    assert recorded.flat_pages.tolist() == [512]
    trace.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(WrongTrace, match="trace:1") as caught:
        run.configure("there", 7)
    assert caught.value.exit_status == 2


def test_a_destination_does_what_was_configured(tmp_path: Path) -> None:
    """Its script and the files that it uses are there, too."""
    steps = (
        WrittenStep(
            "received", PageName("", 5), (PageName("rom", 9), PageName("", 1)), 0.25, "f:1"
        ),
        WrittenStep("placed", PageName("2", 10**17), (PageName("", 1),)),
    )
    made = replace(
        dest_config(values(placement="simulated", recover_timeout="0")),
        save=tmp_path / "saved", steps=steps, touches=tmp_path / "pipe", host="::", port=1,
    )  # fmt: skip
    run: DestRun = crossed("dest", DestRun.of(made, Access(), OUTPUTS))
    assert run.program is None
    assert run.configure() == made
    assert type(run.configure()) is DestConfig


def test_certificates_cross_by_their_names(tmp_path: Path) -> None:
    """Each side makes its own context of them."""
    files = tuple(option.partition("=")[2] for option in write_certificates(tmp_path, "side"))
    certificate, key, authority = files
    access = Access(tls=(certificate, key, authority), server_name="there")
    run: DestRun = crossed("dest", DestRun.of(dest_config(values()), access, Outputs()))
    assert run.access == access
    assert run.configure().credentials.tls is not None
    assert run.configure().credentials.server_name is None
    assert access.credentials(server=False).server_name == "there"


def test_a_qemu_does_what_was_configured(tmp_path: Path) -> None:
    """Of its source and of the destination for it all is there."""
    geometry = Geometry((RamBlock("ram", 4 << 20, 2 << 20),))
    orders = Orders(preempt=True, postcopy_after=3, bandwidth=5, postcopy_bandwidth=0)
    machine = MachineSpec(program="qemu", accel="tcg", paused=False)
    source = QemuSource(machine, geometry, tmp_path, 1 << 63, orders, 64 << 10, None)
    run: QemuRun = crossed(
        "qemu", QemuRun(config=to_plain(source), address=("here", 1), outputs=OUTPUTS)
    )
    assert config_of(QemuSource, run.config) == source
    assert (run.address, run.outputs) == (("here", 1), OUTPUTS)
    program = program_of(values(vcpus="3"))
    config = QemuDestConfig(host="h", port=1, spec_of=program.spec, window_bytes=1 << 20)
    dest: DestRun = crossed("qemu-dest", DestRun.of(config, Access(), OUTPUTS, program))
    assert dest.program == program
    assert config_of(QemuDestConfig, dest.config, spec_of=program.spec) == config


def test_a_secret_is_in_no_text() -> None:
    """What is made of a run for a person does not tell it."""
    made = SourceRun.of(
        source_config(values()), program_of(values()), Access(secret=SECRET), OUTPUTS
    )
    assert "any bytes" not in repr(made)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b'{"kind": "dest"}', b'{"kind": "other", "run": {}}',
        b'{"kind": "dest", "run": {}}', b'{"kind": "dest", "run": {"config": 7}}',
        b'{"kind": "dest", "run": {"config": {}, "outputs": {"quiet": "yes"}}}',
    ],
)  # fmt: skip
def test_what_is_no_run_is_refused(data: bytes) -> None:
    """It is told what it should have been."""
    with pytest.raises(LocalProtocolError, match=r"^this is no (Started|DestRun): "):
        from_plain(DestRun, started_by(data).run)


@pytest.mark.parametrize("change", [{"wait_seconds": "long"}, {"steps": 7}, {"save": 7}])
def test_what_is_no_configuration_is_refused(change: dict[str, object]) -> None:
    """A field of another type is told with the type that it should have."""
    run = DestRun.of(dest_config(values()), Access(), OUTPUTS)
    with pytest.raises(LocalProtocolError, match=r"^this is no "):
        replace(run, config=run.config | change).configure()


@pytest.mark.parametrize(
    "data", [b"", b"frob", b'{"kind": "source", "run": {"config": {}}}', b'{"kind": "x", "run": 1}']
)
def test_what_is_nothing_to_do_is_one_line(data: bytes) -> None:
    """It ends before it begins anything, and its parent hears why."""
    started = spawn("source", capture=True, run=data)
    with closing(started):
        assert started.process.wait(60) == 1
        assert (started.reason.read() or b"").startswith(b"this is no ")
        assert started.process.stderr is not None
        assert started.process.stderr.read() == b""


def test_a_command_line_does_not_count_beside_it() -> None:
    """Whoever is handed something does that, whatever else its command line says."""
    fd = os.memfd_create("run")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scripts", "--help"], pass_fds=[fd], check=False, timeout=60,
        env={**package_environment(), "MIDSTREAM_RUN_FD": str(fd)}, capture_output=True,
    )  # fmt: skip
    os.close(fd)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"midstream: this is no ")
