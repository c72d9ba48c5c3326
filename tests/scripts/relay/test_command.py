"""`midstream relay` as a person starts it, between ends that a test plays."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from guest.trace import read_trace
from protocol.geometry import Geometry, RamBlock
from protocol.qemu.returns import PageRequests, encode_pong, encode_shut
from scripts import commands
from scripts.configure import parse_address
from scripts.views.saved import read_all
from tests import qemu_streams as qemu
from tests.processes import Lab, Process, read_events, until
from tests.qemu_streams import TARGET
from tests.relayed import OPENING, PAGES, SWITCH_OVER, record
from tests.reports import read_report


@contextmanager
def ends_of(lab: Lab, *arguments: str) -> Iterator[tuple[Process, socket.socket, socket.socket]]:
    """Start a relay with these arguments; yield it, and both ends of a connection through it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        process = lab.fork(
            "relay", "--listen=127.0.0.1:0", f"--connect=127.0.0.1:{port}", *arguments
        )
        source = socket.create_connection(parse_address(process.listening(), ""))
        dest, _ = listener.accept()
        with source, dest:
            yield process, source, dest


def pass_on(near: socket.socket, far: socket.socket, data: bytes) -> None:
    """Say something at one end, and hear it at the other."""
    near.sendall(data)
    heard = b""
    while len(heard) < len(data):
        more = far.recv(len(data) - len(heard))
        assert more
        heard += more
    assert heard == data


def migrate(source: socket.socket, dest: socket.socket) -> None:
    """Play a migration with a page request, to its end."""
    pass_on(source, dest, OPENING + SWITCH_OVER)
    pass_on(dest, source, encode_pong(3) + PageRequests().encode("ram", 3 * TARGET, TARGET))
    pass_on(source, dest, qemu.part(*map(record, (3, 4)), last=True) + b"\0")
    pass_on(dest, source, encode_shut(failed=False))


def test_a_migration_is_told(lab: Lab) -> None:
    """What passed stands in the events, the report, the trace, the page, and in two lines."""
    files = {name: lab.folder / name for name in ("events", "report", "perfetto", "html")}
    arguments = [f"--{name}={path}" for name, path in files.items()]
    with ends_of(lab, *arguments) as (process, source, dest):
        migrate(source, dest)
    process.succeed()
    assert "relayed: completed" in process.output
    assert "page requests: 1, unanswered: 0" in process.output
    report = read_report(files["report"])
    assert report["status"] == "completed"
    assert report["requests"]["on-precopy-channel"] == 1
    assert report["latency"]["count"] == 1
    told = list(read_all(files["events"]))
    assert {each["side"] for each in told} == {"relay"}
    assert [each["name"] for each in told if each["event"] == "peer-message"] == [
        "configuration", "open-return-path", "advise", "blocks", "discard", "package-begin",
        "package", "pong", "stream-end", "shut",
    ]  # fmt: skip
    (served,) = (each for each in told if each["event"] == "request-served")
    assert (served["page"], served["channel"]) == (3, "precopy")
    assert files["html"].read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert json.loads(files["perfetto"].read_text(encoding="utf-8"))["traceEvents"]
    shown = lab.run("report", files["events"])
    assert shown.status == 0, shown.errors


def test_requests_are_saved_as_accesses(lab: Lab) -> None:
    """Each page that was asked for is an access of a trace that any run reads, when it was due."""
    saved = lab.folder / "accesses"
    with ends_of(lab, f"--save-accesses={saved}") as (process, source, dest):
        migrate(source, dest)
    process.succeed()
    trace = read_trace(saved, Geometry((RamBlock("ram", PAGES * TARGET, TARGET),)), 1)
    assert trace.flat_pages.tolist() == [3]
    assert trace.times_ns is not None


def test_a_full_disk_stops_nothing(lab: Lab) -> None:
    """Where events cannot be written the migration passes all the same; one line says so."""
    with ends_of(lab, "--events=/dev/full") as (process, source, dest):
        migrate(source, dest)
    assert process.wait() == 1
    assert "relayed: completed" in process.output
    assert process.errors.splitlines() == [
        "relay: from here on events are lost: No space left on device",
        "midstream: cannot write /dev/full: No space left on device",
    ]


def test_a_relay_is_cancelled(lab: Lab) -> None:
    """A signal ends it, with what has passed in its report; both ends hear a reset."""
    report = lab.folder / "report"
    with ends_of(lab, f"--report={report}") as (process, source, dest):
        pass_on(source, dest, OPENING)
        process.signal(signal.SIGINT)
        process.fail(130, "cancelled by SIGINT")
        for end in (source, dest):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    told = read_report(report)
    assert told["status"] == "cancelled"
    assert told["bytes"]["precopy"] == len(OPENING)


def test_a_step_that_was_not_due_is_told(lab: Lab) -> None:
    """A migration that ends before a step was due ends well, and the step is named."""
    steps = lab.folder / "steps.toml"
    steps.write_text(
        '[[step]]\nwhen = { requested = "ram:3" }\nnetwork = { do = "heal" }\n'
        '[[step]]\nwhen = { requested = "ram:9" }\nnetwork = { do = "cut" }\n',
        encoding="utf-8",
    )
    events = lab.folder / "events"
    with ends_of(lab, f"--steps={steps}", f"--events={events}") as (process, source, dest):
        migrate(source, dest)
    process.fail(1, "were due: 2")
    assert [each["step"] for each in read_events(events, "inject")] == [1]


def test_a_run_is_watched_while_it_goes_on(lab: Lab) -> None:
    """Events are written as they come, before the migration has ended."""
    events = lab.folder / "events"
    with ends_of(lab, f"--events={events}") as (process, source, dest):
        pass_on(source, dest, OPENING)
        until(lambda: any(each["event"] == "ram-block" for each in read_events(events)))
        pass_on(source, dest, SWITCH_OVER + b"\0")
        pass_on(dest, source, encode_shut(failed=False))
    process.succeed()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--listen=:0",), "--connect"),
        (("--listen=here", "--connect=:5"), "--listen"),
        (("--listen=:0", "--connect=:0"), "--connect"),
        (("--listen=:0", "--connect=:5", "--socket-buffer=1"), "--socket-buffer"),
        (("--listen=:0", "--connect=:5", "--steps=/nowhere"), "No such file"),
        (("--listen=:0", "--connect=:5", "--events=a", "--html=a"), "name one file"),
        (("--listen=:0", "--connect=:5", "--events=/no/where"), "--events"),
    ],
)
def test_a_wrong_command_line(
    arguments: tuple[str, ...], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is said in one line, with status 2."""
    assert commands.run(["relay", *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert reason in line


def test_an_address_that_is_taken(lab: Lab) -> None:
    """Where somebody listens already, one line says so."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        process = lab.fork("relay", f"--listen=127.0.0.1:{port}", "--connect=127.0.0.1:1")
        process.fail(1, "cannot listen on", "in use")
