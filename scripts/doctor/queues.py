"""The queue of a card and the priority of urgent packets, asked of `ip` and `tc`."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

from protocol.errors import MigrationError
from scripts.doctor.feature import Question
from scripts.links.tools import path_of

_TOOL_SECONDS_MAX = 5.0

# Where packets go that have no better way: an address of documentation (RFC 5737).
_ANYWHERE = "192.0.2.1"

# What a queue does with a priority, by the kernel's names (tc(8)).  Those that share a link among
# connections have one that sends little, as requests and single pages do, go before a busy one.
_HEEDED = "goes before all else"
_SPARSE = "goes before a busy connection, as one that sends little, whatever its priority"
_NONE = "waits behind all that is there: a FIFO heeds no priority"
_DOES = {
    "pfifo_fast": _HEEDED,
    "prio": _HEEDED,
    "mqprio": _HEEDED,
    "fq": f"{_HEEDED}, in the bands that it has since Linux 6.7",
    "fq_codel": _SPARSE,
    "cake": _SPARSE,
    "noqueue": "does not wait in this host",
    "pfifo": _NONE,
    "bfifo": _NONE,
}
# A queue that holds others, one for each of the card's own, or shapes one.
_HOLDERS = frozenset({"mq", "tbf", "htb"})


def questions(host: str | None = None) -> list[Question]:
    """Return the question about the queue in front of the card that leads to a host.

    Args:
        host: Where a migration would go; None for wherever the default route leads.
    """
    return [
        Question(
            "urgent packets go first",
            lambda: ask(host),
            _remedy,
            "all works; urgent pages wait behind the background in this host",
        )
    ]


def ask(host: str | None) -> tuple[bool, str]:
    """Return whether urgent packets go first on the way to a host, and what was found.

    Raises:
        MigrationError: It cannot be told, and why.
    """
    address = _address_of(host) if host is not None else _ANYWHERE
    routes = _told("ip", "-j", "route", "get", address)
    device = str(routes[0]["dev"]) if routes else ""
    if not device:
        raise MigrationError(f"there is no way to {host or 'other machines'}")
    kinds = kinds_of(_told("tc", "-j", "qdisc", "show", "dev", device))
    if not kinds:
        raise MigrationError(f"tc tells of no queue at {device}")
    does = [_DOES.get(kind, "nobody here knows what it does with a priority") for kind in kinds]
    detail = "; ".join(
        f"{kind}: what is urgent {what}" for kind, what in zip(kinds, does, strict=True)
    )
    good = all(kind in _DOES and _DOES[kind] is not _NONE for kind in kinds)
    return good, f"{device} has {detail}"


def kinds_of(told: Sequence[dict[str, Any]]) -> list[str]:
    """Return the queues in which packets of an interface wait, each kind once.

    What only holds others is none of them, but where tc tells of nothing in it: that is a FIFO.

    Args:
        told: What `tc -j qdisc show` says of the interface.
    """
    kinds = [str(each["kind"]) for each in told if each["kind"] not in {"ingress", "clsact"}]
    inner = [kind for kind in kinds if kind not in _HOLDERS]
    if not inner and kinds:
        inner = ["bfifo" if "tbf" in kinds else "pfifo"]
    return list(dict.fromkeys(inner))


def _remedy(detail: str) -> str:
    device, has, _ = detail.partition(" has ")
    return f"tc qdisc replace dev {device} root pfifo_fast" if has else "apt install iproute2"


def _address_of(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise MigrationError(f"{host}: {error.strerror}") from error
    return str(found[0][4][0])


def _told(tool: str, *arguments: str) -> list[dict[str, Any]]:
    path = path_of(tool)
    if path is None:
        raise MigrationError(f"this machine lacks {tool}")
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, timeout=_TOOL_SECONDS_MAX, check=True
        )
        found: list[dict[str, Any]] = json.loads(done.stdout or b"[]")
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise MigrationError(f"{tool}: {lines[-1] if lines else '?'}") from error
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise MigrationError(f"{tool} does not say: {error}") from error
    return found
