"""Questions about the machine: a no comes out with its reason, whatever this machine can do."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.errors import MigrationError
from scripts.doctor import machine
from scripts.doctor.feature import Feature


def answer(name: str) -> Feature:
    """Ask one question."""
    (question,) = (each for each in machine.questions() if each.name == name)
    return question.answer()


@pytest.fixture
def sysctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Settings of a kernel that has none; the function makes one."""
    monkeypatch.setattr(machine, "SYSCTL", tmp_path)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("this machine lacks tc", "apt install iproute2 util-linux"),
        ("the attempt failed: Error: Unknown device type.", "modprobe veth"),
        ("the attempt failed: Error: Specified qdisc kind is unknown.", "modprobe sch_tbf"),
        ("unshare: unshare failed: No space left on device", "sysctl user.max_user_namespaces"),
        ("unshare: unshare failed: Operation not permitted", "--cap-add SYS_ADMIN"),
    ],
)
def test_why_there_is_no_namespace_decides_what_helps(
    monkeypatch: pytest.MonkeyPatch, sysctl: object, reason: str, remedy: str
) -> None:
    """Each reason has its own remedy, and without it there is still a link."""

    def refuse() -> str:
        raise MigrationError(reason)

    monkeypatch.setattr(machine, "try_namespaces", refuse)
    found = answer("network namespaces (--link)")

    assert (found.ok, found.detail) == (False, reason)
    assert remedy in found.remedy
    assert "proxy" in found.without


def test_a_switch_against_user_namespaces_is_named(
    monkeypatch: pytest.MonkeyPatch, sysctl: Callable[[str, str], None]
) -> None:
    """Where an administrator's switch may be the reason, it is what to type."""

    def refuse() -> str:
        raise MigrationError("Operation not permitted")

    monkeypatch.setattr(machine, "try_namespaces", refuse)
    sysctl("kernel/unprivileged_userns_clone", "1\n")
    sysctl("kernel/apparmor_restrict_unprivileged_userns", "1\n")
    found = answer("network namespaces (--link)")

    assert found.remedy == "sysctl kernel.apparmor_restrict_unprivileged_userns=0"


def test_a_pacing_congestion_control_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bbr is what makes figures noisy; its name is told."""
    monkeypatch.setattr(socket.socket, "getsockopt", lambda *_: b"bbr\0\0\0")
    found = answer("TCP that does not pace itself")

    assert (found.ok, found.detail) == (False, "bbr")
    assert "cubic" in found.remedy


def test_small_buffers_are_found(sysctl: Callable[[str, str], None]) -> None:
    """The smaller of both limits counts; without any there is no knowing."""
    assert not answer("TCP buffers of 1 MiB").ok
    sysctl("net/ipv4/tcp_wmem", "4096 16384 4194304\n")
    sysctl("net/ipv4/tcp_rmem", "4096 65536 524288\n")
    found = answer("TCP buffers of 1 MiB")

    assert (found.ok, found.detail) == (False, "up to 4 MiB to send, 512 KiB to receive")
    sysctl("net/ipv4/tcp_rmem", "4096 65536 1048576\n")
    assert answer("TCP buffers of 1 MiB").ok


def test_few_processors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process may use counts, not what the machine has."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 7})
    assert answer("4 processors").detail == "2 for this process"
    assert not answer("4 processors").ok
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert answer("4 processors").ok


def test_privileges_are_capabilities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A root whose capabilities were taken away has none."""
    (tmp_path / "status").write_text("Name:\tpython\nCapEff:\t0000000000001000\n")
    monkeypatch.setattr(machine, "STATUS", tmp_path / "status")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    found = answer("root's privileges")

    assert (found.ok, found.detail) == (False, "root, capabilities: NET_ADMIN")


def test_no_loopback_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What midstream cannot do without is marked so."""

    def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", refuse)
    found = answer("connections on loopback")

    assert (found.ok, found.is_needed) == (False, True)
