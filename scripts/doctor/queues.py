"""The queue of a card and the priority of urgent packets, as the kernel tells."""

from __future__ import annotations

import socket

from guest.streams import queues
from protocol.errors import MigrationError
from scripts.doctor.feature import Question

# Where packets go that have no better way: an address of documentation (RFC 5737).
_ANYWHERE = "192.0.2.1"

# What a queue does with a priority, by the kernel's names (tc(8)).  Those that share a link among
# connections have one that sends little, as requests and single pages do, go before a busy one.
_HEEDED = "goes before all else"
_SPARSE = "goes before a busy connection, as one that sends little, whatever its priority"
_NONE = "waits behind all that is there: a FIFO heeds no priority"
_DOES = {
    **dict.fromkeys(queues.HEEDING, _HEEDED),
    "fq": f"{_HEEDED}, in the bands that it has since Linux 6.7",
    "fq_codel": _SPARSE,
    "cake": _SPARSE,
    "noqueue": "does not wait in this host",
    "pfifo": _NONE,
    "bfifo": _NONE,
}


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
    try:
        index = queues.device_to(address)
        device, kinds = socket.if_indextoname(index), queues.kinds_of(queues.kinds_at(index))
    except OSError as error:
        where = host or "other machines"
        raise MigrationError(f"the way to {where}: {error.strerror or error}") from error
    if not kinds:
        raise MigrationError(f"the kernel tells of no queue at {device}")
    does = [_DOES.get(kind, "nobody here knows what it does with a priority") for kind in kinds]
    detail = "; ".join(
        f"{kind}: what is urgent {what}" for kind, what in zip(kinds, does, strict=True)
    )
    good = all(kind in _DOES and _DOES[kind] is not _NONE for kind in kinds)
    return good, f"{device} has {detail}"


def _remedy(detail: str) -> str:
    device, has, _ = detail.partition(" has ")
    return f"tc qdisc replace dev {device} root pfifo_fast" if has else "ip route"


def _address_of(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise MigrationError(f"{host}: {error.strerror}") from error
    return str(found[0][4][0])
