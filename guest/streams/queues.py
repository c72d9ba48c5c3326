"""Which queues packets wait in on their way out of this host, asked of the kernel (rtnetlink(7)).

What goes first there overtakes what lies before it only where the queue heeds a priority, and how
much of the background may lie there depends on that.  No privilege is needed to ask.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

# <linux/netlink.h>, <linux/rtnetlink.h>
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_GET_ROUTE, _GET_QDISC = 26, 38
_ROUTE_DST, _ROUTE_OIF, _QDISC_KIND = 1, 4, 1

_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
# Family, lengths of prefixes, and what is 0 in a question; flags.
_ROUTE = struct.Struct("=8BI")
# Family and padding, interface, handle, parent, what it is about.
_QDISC = struct.Struct("=BxxxiIII")
_INDEX = struct.Struct("=I")
_NUMBER = struct.Struct("=i")

_ANSWER_BYTES_MAX = 1 << 16
_SECONDS_MAX = 1.0

# A queue that holds others, one for each of the card's own, or shapes one.
_HOLDERS = frozenset({"mq", "tbf", "htb"})
# What waits for incoming packets, or for none.
_NO_QUEUES = frozenset({"ingress", "clsact"})
# A packet with a priority goes before all else in them (tc(8)); in `fq` since Linux 6.7.
HEEDING = frozenset({"pfifo_fast", "prio", "mqprio", "fq"})


def heed_priority(address: str) -> bool:
    """Return whether a packet with a priority overtakes others in this host's queues.

    Args:
        address: Where it goes, a numeric IPv4 or IPv6 address.

    Returns:
        False too where the kernel does not tell.
    """
    try:
        kinds = kinds_of(kinds_at(device_to(address)))
    except (OSError, ValueError):
        return False
    return bool(kinds) and HEEDING.issuperset(kinds)


def kinds_of(told: Sequence[str]) -> list[str]:
    """Return the queues in which packets of an interface wait, each kind once.

    What only holds others is none of them, but where nothing is in it: that is a FIFO.

    Args:
        told: All that an interface has, by the kernel's names.
    """
    kinds = [kind for kind in told if kind not in _NO_QUEUES]
    inner = [kind for kind in kinds if kind not in _HOLDERS]
    if not inner and kinds:
        inner = ["bfifo" if "tbf" in kinds else "pfifo"]
    return list(dict.fromkeys(inner))


def device_to(address: str) -> int:
    """Return the index of the interface by which packets go to an address.

    Raises:
        OSError: There is no way there, or the kernel does not tell.
        ValueError: It is no numeric address.
    """
    there = ip_address(address.partition("%")[0])
    if there.version == 6 and (mapped := there.ipv4_mapped) is not None:
        there = mapped
    family = socket.AF_INET if there.version == 4 else socket.AF_INET6
    question = _ROUTE.pack(family, there.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    question += _attribute(_ROUTE_DST, there.packed)
    for answer in _ask(_GET_ROUTE, _REQUEST, question):
        for kind, value in _attributes(answer[_ROUTE.size :]):
            if kind == _ROUTE_OIF:
                return int(_INDEX.unpack(value)[0])
    raise OSError(f"the kernel names no way to {address}")


def kinds_at(device: int) -> list[str]:
    """Return what an interface has for queues, the outermost first.

    Args:
        device: Its index.

    Raises:
        OSError: The kernel does not tell.
    """
    kinds = []
    for answer in _ask(_GET_QDISC, _REQUEST | _DUMP, _QDISC.pack(0, device, 0, 0, 0)):
        if _QDISC.unpack_from(answer)[1] == device:
            named = dict(_attributes(answer[_QDISC.size :])).get(_QDISC_KIND, b"")
            kinds.append(named.rstrip(b"\0").decode("ascii", "replace"))
    return kinds


def _ask(kind: int, flags: int, question: bytes) -> Iterator[bytes]:
    """Yield what the kernel answers, each answer without its head."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_SECONDS_MAX)
        sock.sendto(_HEAD.pack(_HEAD.size + len(question), kind, flags, 1, 0) + question, (0, 0))
        while True:
            told = sock.recv(_ANSWER_BYTES_MAX)
            while told:
                length, kind_told, *_ = _HEAD.unpack_from(told)
                body, told = told[_HEAD.size : length], told[_aligned(length) :]
                if kind_told == _DONE:
                    return
                if kind_told == _ERROR:
                    number = -_NUMBER.unpack_from(body)[0]
                    raise OSError(number, os.strerror(number))
                yield body
            if not flags & _DUMP:
                return


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _attributes(told: bytes) -> Iterator[tuple[int, bytes]]:
    while len(told) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(told)
        if length < _ATTRIBUTE.size:
            return
        yield kind, told[_ATTRIBUTE.size : length]
        told = told[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
