"""The machine beside its memory and guests: processors, networks, rights."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from protocol.units import format_bytes
from scripts.doctor.feature import Question
from scripts.links.namespaces import try_namespaces

SYSCTL = Path("/proc/sys")
STATUS = Path("/proc/self/status")

_CONNECT_SECONDS_MAX = 1.0

# Source, destination, and a vCPU of each: with fewer they wait for each other.
_CPUS_WANTED = 4

# One connection at 10 Gbit/s and a millisecond has as much on its way.
_TCP_BUFFER_BYTES = 1 << 20
_CONGESTION_CHARS_MAX = 16

# Paces by an estimate of the path, which loopback does not have.
_NOISY = frozenset({"bbr", "bbr2", "bbr3"})

# <linux/capability.h>: those that open something that midstream uses.
_CAPABILITIES = {12: "NET_ADMIN", 19: "SYS_PTRACE", 21: "SYS_ADMIN"}


def questions() -> list[Question]:
    """Return all questions about the machine, in the order in which they are told."""
    return [
        Question(
            "connections on loopback", _loopback, "ip link set lo up",
            "nothing runs on this machine alone", is_needed=True,
        ),
        Question(
            "network namespaces (--link)", _namespaces, _namespaces_remedy,
            "--link goes through a proxy in one process",
        ),
        Question(
            "TCP that does not pace itself", _congestion,
            "sysctl net.ipv4.tcp_congestion_control=cubic",
            "all works; figures on loopback are lower, and noisier",
        ),
        Question(
            "TCP buffers of 1 MiB", _buffers,
            'sysctl net.ipv4.tcp_wmem="4096 16384 4194304" net.ipv4.tcp_rmem="4096 131072 6291456"',
            "fast or distant links are not filled",
        ),
        Question(
            f"{_CPUS_WANTED} processors", _processors, "more processors for this machine",
            "both sides and their guests wait for each other: figures are noisy",
        ),
        Question(
            "root's privileges", _privileges, "sudo, or a container with --privileged",
            "only what is told as missing here",
        ),
    ]  # fmt: skip


def _loopback() -> tuple[bool, str]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=_CONNECT_SECONDS_MAX),
    ):
        return True, "127.0.0.1"


def _namespaces() -> tuple[bool, str]:
    return True, f"a veth pair and a token bucket, {try_namespaces()}"


def _namespaces_remedy(detail: str) -> str:
    """Return what helps against what a tool said; the words are the tools' own."""
    if "lacks" in detail:
        return "apt install iproute2 util-linux"
    if "Unknown device type" in detail:
        return "modprobe veth"
    if "qdisc kind is unknown" in detail:
        return "modprobe sch_tbf"
    if "No space left" in detail:
        return "sysctl user.max_user_namespaces=1000 user.max_net_namespaces=1000"
    switches = {
        "kernel/unprivileged_userns_clone": 1,
        "kernel/apparmor_restrict_unprivileged_userns": 0,
    }
    wrong = [
        f"{name.replace('/', '.')}={right}"
        for name, right in switches.items()
        if _read(name) not in ("", str(right))
    ]
    return f"sysctl {' '.join(wrong)}" if wrong else "in a container: --cap-add SYS_ADMIN"


def _congestion() -> tuple[bool, str]:
    with socket.socket() as sock:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_CHARS_MAX)
    name = raw.rstrip(b"\0").decode(errors="replace")
    return name not in _NOISY, name


def _buffers() -> tuple[bool, str]:
    most = [int(_read(f"net/ipv4/{name}").split()[-1]) for name in ("tcp_wmem", "tcp_rmem")]
    detail = f"up to {format_bytes(most[0])} to send, {format_bytes(most[1])} to receive"
    return min(most) >= _TCP_BUFFER_BYTES, detail


def _processors() -> tuple[bool, str]:
    count = len(os.sched_getaffinity(0))
    return count >= _CPUS_WANTED, f"{count} for this process"


def _privileges() -> tuple[bool, str]:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    held = [name for bit, name in _CAPABILITIES.items() if mask >> bit & 1]
    who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    detail = f"{who}, capabilities: {', '.join(held) if held else 'none that matter here'}"
    return len(held) == len(_CAPABILITIES), detail


def _read(name: str) -> str:
    """Return a setting of the kernel's, empty if there is none of that name."""
    try:
        return (SYSCTL / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
