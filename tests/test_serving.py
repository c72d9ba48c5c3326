"""Real sides that serve: what a browser hears of a migration, from its beginning to its end."""

import json
import signal
import socket

import pytest

from protocol.states import State
from scripts.commands import run
from tests.processes import SECONDS_MAX, Lab, Process, until

WATCH = "watch at http://"


def watched_at(process: Process) -> tuple[str, int]:
    """Return where a process says that it can be watched."""
    line = until(lambda: process.errors if process.errors.endswith("/\n") else "")
    host, _, port = line.strip().removeprefix(WATCH).rstrip("/").rpartition(":")
    return host, int(port)


def follow(host: str, port: int) -> list[tuple[str, dict[str, object]]]:
    """Return all messages of a run, until the server has said its last."""
    with socket.create_connection((host, port), timeout=SECONDS_MAX) as near:
        near.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        data = b""
        while part := near.recv(1 << 16):
            data += part
    lines = data.decode().splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    texts = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return list(zip(names, map(json.loads, texts), strict=True))


def stop_reading(host: str, port: int) -> socket.socket:
    """Return a connection that asks for a run's messages, and never reads them."""
    near = socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    near.connect((host, port))
    near.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return near


@pytest.mark.parametrize("side", ["migrate", "dest"])
def test_a_browser_that_stops_reading_holds_nobody_up(lab: Lab, side: str) -> None:
    """The run comes to its good end, and so does whoever serves."""
    busy = ("--size=16MiB", "--page-size=4KiB", "--vcpus=4", "--access-rate=0")
    if side == "migrate":
        server = source = lab.start("migrate", *busy, "--serve=:0")
        browser = stop_reading(*watched_at(server))
    else:
        server = lab.fork("dest", "--listen=127.0.0.1:0", "--serve=127.0.0.1:0")
        address = server.listening()
        browser = stop_reading(*watched_at(server))
        source = lab.fork("source", f"--connect={address}", *busy)
    with browser:
        assert (source.wait(), server.wait()) == (0, 0)


def test_a_signal_ends_who_serves_a_browser_that_does_not_read(lab: Lab) -> None:
    """Ctrl-C does not wait for it."""
    migration = lab.start("migrate", "--size=8MiB", "--max-bandwidth=10kB/s", "--serve=:0")
    with stop_reading(*watched_at(migration)):
        migration.signal(signal.SIGINT)
        assert migration.wait() == 130


def test_both_sides_are_watched(lab: Lab) -> None:
    """`migrate --serve` tells of the whole run: state after state, from the first to the last."""
    migration = lab.start(
        "migrate", "--size=8MiB", "--serve=:0", "--max-bandwidth=8MB/s", "--vcpus=2"
    )
    messages = follow(*watched_at(migration))
    assert migration.wait() == 0, migration.errors
    assert "completed, verified" in migration.output
    assert [messages[0][0], messages[-1][0]] == ["whole", "end"]
    assert {name for name, _ in messages[1:-1]} == {"changes"}
    states = [data["state"] for _, data in messages if "state" in data]
    assert (states[0], states[-1]) == ("none", "completed")
    # Who shows it lets both sides have the processor first, and may come to show few of them.
    order = [state.value for state in State]
    assert states == sorted(states, key=lambda state: order.index(str(state)))


def test_a_destination_is_watched(lab: Lab) -> None:
    """`dest --serve` tells what that side knows."""
    dest = lab.fork("dest", "--listen=127.0.0.1:0", "--serve=127.0.0.1:0")
    address = dest.listening()
    where = watched_at(dest)
    source = lab.fork("source", f"--connect={address}", "--size=8MiB", "--max-bandwidth=8MB/s")
    messages = follow(*where)
    source.succeed()
    assert dest.wait() == 0
    states = [data["state"] for _, data in messages if "state" in data]
    assert states[-1] == "completed"
    assert messages[-1][0] == "end"


def fetch(host: str, port: int) -> str:
    """Return the page that a server has."""
    with socket.create_connection((host, port), timeout=SECONDS_MAX) as near:
        near.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        data = b""
        while part := near.recv(1 << 16):
            data += part
    return data.decode()


@pytest.mark.parametrize("side", ["migrate", "dest"])
def test_the_page_stays_with_the_whole_run(lab: Lab, side: str) -> None:
    """Behind the end it is the page of `--html`, until a signal ends it; that is no failure."""
    stay = ("--serve=127.0.0.1:0", "--serve-after=600s")
    source = None
    if side == "migrate":
        server = lab.start("migrate", "--size=4MiB", *stay)
        where = watched_at(server)
    else:
        server = lab.fork("dest", "--listen=127.0.0.1:0", *stay)
        address = server.listening()
        where = watched_at(server)
        source = lab.fork("source", f"--connect={address}", "--size=4MiB", "--quiet")
    until(lambda: "the whole run is at http://" in server.errors)
    assert source is None or source.wait() == 0
    page = fetch(*where)
    assert page.startswith("HTTP/1.1 200")
    assert 'id="data"' in page
    # Its own script may run, and no other.
    policy = page.partition("content-security-policy: ")[2].partition("\r\n")[0]
    assert policy.split(";")[1] in page.partition("<!DOCTYPE html>")[2].replace("&#x27;", "'")
    server.signal(signal.SIGINT)
    assert server.wait() == 0, server.errors
    assert "completed, verified" in server.output


def test_a_failed_run_stays_to_be_looked_at(lab: Lab) -> None:
    """With its reason in the page; the command then fails as ever."""
    migration = lab.start(
        "migrate", "--size=8MiB", "--postcopy-after=never", "--max-bandwidth=10kB/s",
        "--give-up-after=300ms", "--serve=:0", "--serve-after=600s",
    )  # fmt: skip
    where = watched_at(migration)
    until(lambda: "the whole run is at http://" in migration.errors)
    assert "CANCELLED: " in fetch(*where)
    migration.signal(signal.SIGTERM)
    assert migration.wait() == 1
    assert "given up after" in migration.errors.splitlines()[-1]


def test_a_page_that_is_not_there_cannot_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """`--serve-after` alone is a mistake."""
    assert run(["migrate", "--serve-after=5s"]) == 2
    assert "--serve" in capsys.readouterr().err


def test_a_wrong_address_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no address, and one that is taken, are said before anything is started."""
    assert run(["migrate", "--serve=8080"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run(["migrate", f"--serve={address}"]) == 1
    assert f"cannot serve on {address}" in capsys.readouterr().err
