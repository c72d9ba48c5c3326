"""Nobody uninvited: real processes with secrets and certificates, and strangers at the door."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from protocol.limits import HELLO_CONNECTIONS_MAX
from tests.certificates import write_certificates
from tests.processes import Lab, Process, has_state, read_events, until

SECRET = "correct-horse-battery-staple"
SMALL = ("--size=8MiB", "--program=sequential", "--access-rate=1000", "--quiet")

# It takes longer than any wait here, until it is told to go on.
SLOW = (
    "--size=8MiB", "--program=sequential", "--access-rate=1", "--max-bandwidth=10kB/s",
    "--vcpus=1", "--postcopy-after=never", "--quiet",
)  # fmt: skip


def secret_option(folder: Path, secret: str = SECRET) -> str:
    """Write a secret's file; return the option that names it."""
    path = folder / f"secret-{len(list(folder.glob('secret-*')))}"
    path.touch(0o600)
    path.write_text(f"{secret}\n", encoding="ascii")
    return f"--secret-file={path}"


def let_go_on(lab: Lab, events: Path) -> None:
    """Have a slow migration, whose source's events these are, come to its end."""
    session = until(lambda: read_events(events, "session"))[0]["session"]
    lab.fork("set", "max-bandwidth=0", f"--session={session}").succeed()


def start_dest(lab: Lab, *arguments: str) -> tuple[Process, str]:
    """Start a destination; return it, and the option with which a source finds it."""
    dest = lab.fork("dest", "--listen=127.0.0.1:0", "--quiet", *arguments)
    return dest, f"--connect={dest.listening()}"


def test_who_does_not_know_the_secret_is_refused(lab: Lab) -> None:
    """A source with another secret, or none, ends with status 1; one with the right one may."""
    dest, connect = start_dest(lab, secret_option(lab.folder))
    wrong = lab.fork("source", connect, secret_option(lab.folder, SECRET[::-1]), *SMALL)
    wrong.fail(1, "the secrets of the source and the destination differ")
    lab.fork("source", connect, *SMALL).fail(1, "the destination demands a secret")
    right = lab.fork("source", connect, secret_option(lab.folder), *SMALL)
    assert right.wait() == 0, right.errors
    assert dest.wait() == 0
    assert len(dest.errors.splitlines()) == 2


def test_a_destination_without_a_secret_says_so(lab: Lab) -> None:
    """A source that wants a proof does not migrate to who has none to give."""
    dest, connect = start_dest(lab)
    source = lab.fork("source", connect, secret_option(lab.folder), *SMALL)
    source.fail(1, "the source has a secret and the destination has none")
    lab.fork("source", connect, *SMALL).succeed()
    assert dest.wait() == 0


@pytest.mark.parametrize("policy", ["ordered", "critical-first"])
def test_a_guest_migrates_encrypted(lab: Lab, policy: str) -> None:
    """With certificates of both sides a busy guest comes over whole, by precopy and postcopy."""
    options = {side: write_certificates(lab.folder, side) for side in ("source", "dest")}
    secret = secret_option(lab.folder)
    dest, connect = start_dest(lab, secret, *options["dest"])
    lab.fork("source", connect, *SMALL).fail(1, "the destination speaks TLS only")
    source = lab.fork(
        "source", connect, secret, *options["source"], f"--policy={policy}", "--size=16MiB",
        "--access-rate=0", "--quiet", "--max-postcopy-bandwidth=100MB/s",
    )  # fmt: skip
    source.succeed()
    assert dest.wait() == 0


def test_migrate_takes_certificates(lab: Lab) -> None:
    """`migrate` hands certificates on to both sides."""
    options = write_certificates(lab.folder, "both")
    lab.fork("migrate", *options, *SMALL).succeed()


@pytest.mark.parametrize("name", ["there.example", "192.0.2.1", "2001:db8::1"])
def test_a_certificate_of_another_name(lab: Lab, name: str) -> None:
    """Through a tunnel, or by an address, the source is told what the certificate is for."""
    dest, connect = start_dest(lab, *write_certificates(lab.folder, "dest", name))
    options = write_certificates(lab.folder, "source")
    lab.fork("source", connect, *options, *SMALL).fail(1, "not valid for", "--tls-hostname")
    wrong = lab.fork("source", connect, *options, "--tls-hostname=else.example", *SMALL)
    wrong.fail(1, "not valid for 'else.example'")
    right = lab.fork("source", connect, *options, f"--tls-hostname={name}", *SMALL)
    assert right.wait() == 0, right.errors
    assert dest.wait() == 0


def test_migrate_takes_the_name_of_a_certificate(lab: Lab) -> None:
    """`migrate` hands it on to the source."""
    options = write_certificates(lab.folder, "both", "there.example")
    lab.fork("migrate", *options, *SMALL).fail(1, "not valid for")
    lab.fork("migrate", *options, "--tls-hostname=there.example", *SMALL).succeed()


def test_a_certificate_of_another_authority(lab: Lab) -> None:
    """Both users are told which side's certificate is not accepted."""
    dest, connect = start_dest(lab, *write_certificates(lab.folder, "dest"))
    options = write_certificates(lab.folder, "source", signer="somebody else")
    lab.fork("source", connect, *options, *SMALL).fail(1, "alert unknown ca")
    until(lambda: "the peer's certificate is not accepted" in dest.errors)
    lab.fork("source", connect, *write_certificates(lab.folder, "good"), *SMALL).succeed()
    assert dest.wait() == 0


def test_a_destination_for_all_needs_a_secret(lab: Lab) -> None:
    """Not on loopback, a destination that demands nothing does not start, and says what to add."""
    dest = lab.fork("dest", "--listen=0.0.0.0:0")
    dest.fail(1, "--secret-file", "--tls-cert")
    assert dest.output == ""


def test_strangers_do_not_disturb(lab: Lab) -> None:
    """While a migration runs, silent and loud strangers and a second source harm nobody."""
    secret = secret_option(lab.folder)
    events = lab.folder / "events.jsonl"
    dest, connect = start_dest(lab, secret, f"--events={events}")
    host, port = connect.partition("=")[2].rsplit(":", 1)
    silent = [socket.create_connection((host, int(port))) for _ in range(HELLO_CONNECTIONS_MAX)]
    told = lab.folder / "source.jsonl"
    source = lab.fork("source", connect, secret, *SLOW, f"--events={told}")
    until(lambda: has_state(events, "active", "dest"))
    silent += [socket.create_connection((host, int(port))) for _ in range(HELLO_CONNECTIONS_MAX)]
    for noise in (b"\0\0\0\1\x90", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100_000, b"MSp1" * 50_000):
        with socket.create_connection((host, int(port))) as loud:
            # It may be closed while this is still being said.
            loud.settimeout(1)
            try:
                loud.sendall(noise)
            except OSError:
                continue
    lab.fork("source", connect, secret, *SMALL).fail(1, "a migration is under way here already")
    let_go_on(lab, told)
    source.succeed()
    assert dest.wait() == 0
    for sock in silent:
        sock.close()


def test_nothing_shows_the_secret(lab: Lab) -> None:
    """Neither output, events, report, command lines nor environments have the secret in them."""
    report, events = lab.folder / "report.json", lab.folder / "events.jsonl"
    process = lab.fork(
        "migrate", secret_option(lab.folder), *SLOW[:-1], "--verbose", f"--report={report}",
        f"--events={events}",
    )  # fmt: skip
    until(lambda: has_state(events, "active", "dest"))
    seen = what_processes_show(lab)
    assert len(seen) >= 3
    let_go_on(lab, events)
    assert process.wait() == 0, process.errors
    written = [process.output, process.errors]
    written += [path.read_text(encoding="utf-8") for path in (report, events)]
    for text in [*seen, *written]:
        assert SECRET not in text


def test_nothing_shows_a_fresh_secret(lab: Lab) -> None:
    """Without a file the children get a secret that stands in no command line or environment."""
    events = lab.folder / "events.jsonl"
    process = lab.fork("migrate", *SLOW, f"--events={events}")
    until(lambda: has_state(events, "active", "dest"))
    seen = what_processes_show(lab)
    assert sum("MIDSTREAM_RUN_FD=" in text for text in seen) == 2
    assert not any("--secret-file" in text for text in seen)
    before = os.environ
    for text in seen:
        words = re.findall(r"[0-9a-f]{32}", text)
        assert all(word in str(before) for word in words), text
    let_go_on(lab, events)
    assert process.wait() == 0


def what_processes_show(lab: Lab) -> list[str]:
    """Return command line and environment of every process of a lab."""
    return [
        Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
        for pid in lab.living()
        for name in ("cmdline", "environ")
    ]
