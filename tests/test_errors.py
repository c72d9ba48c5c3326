"""Whatever goes wrong: one line on standard error, the right exit status, and nothing left behind.

The fixture `lab` checks the last: no process may outlive a test, and with the last of its processes
a guest's memory and sockets are gone.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.processes import launcher
from tests.midway import END_SECONDS_MAX, Migration, Pair
from tests.processes import (
    GONE_SECONDS_MAX,
    Lab,
    is_listening,
    kill,
    until,
)
from tests.reports import read_report

# What `migrate` waits for a side before it kills it: an end before that has another reason.
PATIENCE_SECONDS = launcher.END_SECONDS_MAX


def test_the_side_that_is_left_says_so(lab: Lab) -> None:
    """A side whose peer is killed ends with 1, and with 4 when it holds a guest without memory."""
    names = ("source in precopy", "source in postcopy", "dest in precopy")
    phases = {"precopy": "active", "postcopy": "postcopy-active"}
    pairs = {name: Pair(lab, phases[name.split()[-1]], name) for name in names}
    for name, pair in pairs.items():
        pair.reach_phase()
        kill(pair.source.pid if name.startswith("source") else pair.dest.pid)
    in_precopy, in_postcopy, other = pairs.values()
    in_precopy.dest.fail(1, "the source", seconds_max=END_SECONDS_MAX)
    in_postcopy.dest.fail(
        4, "the source", "memory of the guest is lost", seconds_max=END_SECONDS_MAX
    )
    other.source.fail(1, "connection", seconds_max=END_SECONDS_MAX)
    lab.expect_nobody()
    assert not any(is_listening(pair.port) for pair in pairs.values())
    report = read_report(in_postcopy.dest_report)
    assert report["status"] == "failed"
    assert "memory of the guest is lost" in report["midstream"]["reason"]
    assert report["midstream"]["placement"]


def test_a_side_that_hangs_is_not_waited_for(lab: Lab) -> None:
    """A second Ctrl-C ends `migrate` though the source does not answer the first."""
    migration = Migration(lab, "active", "events")
    source = migration.reach_phase()["source"]
    kill(source, signal.SIGSTOP)
    # The kernel would let a signal that comes before the process has stopped overtake the stop.
    until(lambda: is_stopped(source))
    migration.launcher.signal(signal.SIGINT)
    # The first has been handed on; two at once would count as one.
    until(lambda: has_signal(source, "ShdPnd", signal.SIGINT))
    migration.launcher.signal(signal.SIGINT)
    migration.fail(130, "cancelled by SIGINT", seconds_max=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("phase", "victims"),
    [
        (
            "active",
            {
                "source": (1, "the source was killed by SIGKILL"),
                "source's guest": (1, "the guest process was killed by SIGKILL"),
            },
        ),
        (
            "postcopy-active",
            {
                "dest": (1, "the destination was killed by SIGKILL"),
                "destination's guest": (1, "the guest process was killed by SIGKILL"),
            },
        ),
    ],
)
def test_migrate_outlives_its_processes(
    lab: Lab, phase: str, victims: dict[str, tuple[int, str]]
) -> None:
    """Whichever of its processes is killed, `migrate` ends soon, with one line for one cause."""
    migrations = {victim: Migration(lab, phase, victim) for victim in victims}
    for victim, migration in migrations.items():
        kill(migration.reach_phase()[victim])
        status, words = victims[victim]
        migration.fail(status, words)


def test_nothing_outlives_migrate(lab: Lab) -> None:
    """When `migrate` itself is killed, the kernel ends its four processes."""
    migration = Migration(lab, "active", "events")
    migration.reach_phase()
    kill(migration.launcher.pid)
    assert migration.launcher.wait() == -signal.SIGKILL
    lab.expect_nobody()


def test_ctrl_c_while_modules_load(lab: Lab) -> None:
    """As soon as this project's first line has run, Ctrl-C prints one line and no traceback."""
    commands = (
        ("migrate", "--size=4MiB"), ("dest", "--listen=127.0.0.1:0"),
        ("source", "--connect=127.0.0.1:1"),
    )  # fmt: skip
    for command in commands:
        process = lab.start(*command)
        until(lambda: has_signal(process.pid, "SigCgt", signal.SIGTERM))  # noqa: B023 - called now
        process.signal(signal.SIGINT)
        process.fail(130, "cancelled by SIGINT", seconds_max=END_SECONDS_MAX)


def test_a_wrong_command_line_starts_nothing(lab: Lab, tmp_path: Path) -> None:
    """What is wrong with a command line is told in one line before anything is started."""
    (tmp_path / "large").write_bytes(bytes((2 << 20) + 1))
    wrong: dict[tuple[str, ...], str] = {
        ("--no-such-option",): "--no-such-option",
        ("--size=3MiB",): "3145728 bytes are not one or more pages",
        ("--image=large", "--size=2MiB"): "do not fit",
    }
    processes = {arguments: lab.start("migrate", *arguments) for arguments in wrong}
    for arguments, words in wrong.items():
        processes[arguments].fail(2, words)


def test_an_image_may_turn_out_too_large(lab: Lab, tmp_path: Path) -> None:
    """A pipe that holds more than the guest is refused when that is known; it is no hang."""
    os.mkfifo(tmp_path / "pipe")
    source = lab.fork("source", "--connect=127.0.0.1:1", "--size=2MiB", "--image=pipe")
    with (tmp_path / "pipe").open("wb") as pipe, pytest.raises(BrokenPipeError):
        pipe.write(bytes(4 << 20))
    source.fail(1, "image pipe: its bytes do not fit in a guest of 2097152 bytes")


def test_nobody_listens(lab: Lab) -> None:
    """A source without a destination says where it looked for one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    source = lab.fork("source", f"--connect=127.0.0.1:{port}", "--size=2MiB")
    source.fail(1, f"cannot connect to 127.0.0.1:{port}: Connection refused")


def test_a_port_in_use(lab: Lab) -> None:
    """A destination that cannot listen says on what address, and why."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        dest = lab.fork("dest", f"--listen=127.0.0.1:{port}")
        dest.fail(1, f"cannot listen on 127.0.0.1:{port}: Address already in use")


def test_a_server_of_another_kind(lab: Lab) -> None:
    """A source that meets a web server says that this is no midstream destination."""
    with web_server() as address:
        source = lab.fork("source", f"--connect={address}", "--size=2MiB")
        source.fail(1, f"{address} is no midstream destination")


def test_strangers_do_not_disturb_a_destination(lab: Lab) -> None:
    """Who sends garbage is told off in one line of log; the real source is served all the same."""
    dest = lab.fork("dest", "--listen=127.0.0.1:0", "--quiet")
    host, _, port = dest.listening().rpartition(":")
    for number, garbage in enumerate((b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 9), 1):
        with socket.create_connection((host, int(port)), timeout=GONE_SECONDS_MAX) as stranger:
            stranger.sendall(garbage)
            while stranger.recv(4096):
                pass
        until(lambda: len(dest.errors.splitlines()) >= number)  # noqa: B023 - called at once
    lab.fork("source", f"--connect={host}:{port}", "--size=2MiB", "--quiet").succeed()
    assert dest.wait() == 0
    lines = dest.errors.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"refused a connection from {host}:") for line in lines)


def is_stopped(pid: int) -> bool:
    """Tell whether every thread of a process stands still."""
    states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state.rpartition(")")[2].split()[0] == "T" for state in states)


def has_signal(pid: int, field: str, number: signal.Signals) -> bool:
    """Tell whether a signal is in one of the sets that the kernel shows of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines)
    return bool(int(fields[field], 16) >> (number - 1) & 1)


@contextmanager
def web_server() -> Iterator[str]:
    """Answer every connection like a web server that understands nothing; yield the address."""

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
