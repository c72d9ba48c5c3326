"""What an engine and its guest process tell each other: small msgpack arrays, a packet each.

Two sockets (AF_UNIX, SOCK_SEQPACKET) connect them.  On the *control* socket:

    engine -> guest   start   [vcpu_count, kinds, block_count, service], with all descriptors
                      touch   [vcpu, flat_page]           "scripted" programs only
    guest -> engine   ready   [reason, addresses, thread_ids], with the service's descriptors
                                                          after start (guest/services.py)
                      parked  [vcpu, generation]          each vCPU, after each pause
                      failed  [reason]                    the process is about to exit

and on the *events* socket, from guest to engine, the fields of the dataclasses below.  To run and
to pause, the engine writes the board's run generation and wakes the vCPUs: no message stands in the
way.  The two are processes of one user and one version; what they say is trusted.
"""

from __future__ import annotations

import socket
from dataclasses import astuple, dataclass
from typing import Any

import msgpack

MESSAGE_BYTES_MAX = 4096

# The kernel counts nearly a kilobyte for the smallest packet.  A mismatch report, a fault and a
# wake-up of each of 64 vCPUs must fit, so that they can be paused though nobody receives; the usual
# 208 KiB would just do.  The kernel gives what its limit allows.
_SEND_BUFFER_BYTES = 512 << 10


@dataclass(frozen=True)
class Faulted:
    """A vCPU sleeps until a flat target page is present.  Times are of CLOCK_MONOTONIC.

    The page may have become present while this was under way: then wake the vCPU at once, nobody
    else will.  `Woke` follows, unless the guest is paused before that.
    """

    vcpu: int
    flat_page: int
    t_fault_ns: int


@dataclass(frozen=True)
class Woke:
    """A vCPU that had faulted goes on: the page is present."""

    vcpu: int
    flat_page: int
    t_fault_ns: int
    t_woke_ns: int


@dataclass(frozen=True)
class Mismatch:
    """A vCPU read what must not be there; the first few of each vCPU, the rest is only counted."""

    vcpu: int
    flat_page: int
    step: int
    expected: int
    seen: int


@dataclass(frozen=True)
class Touched:
    """A vCPU has done what `GuestHandle.touch` asked for."""

    vcpu: int
    flat_page: int


GuestEvent = Faulted | Woke | Mismatch | Touched

_EVENT_KINDS: dict[str, type[GuestEvent]] = {
    "faulted": Faulted,
    "woke": Woke,
    "mismatch": Mismatch,
    "touched": Touched,
}
_KIND_NAMES = {kind: name for name, kind in _EVENT_KINDS.items()}


def encode_event(event: GuestEvent) -> bytes:
    """Return the packet that carries an event."""
    return pack(_KIND_NAMES[type(event)], *astuple(event))


def decode_event(data: bytes) -> GuestEvent:
    """Return the event that a packet carries."""
    name, *values = unpack(data)
    return _EVENT_KINDS[name](*values)


def pack(*message: object) -> bytes:
    """Return the packet of a control message: its name, then its values."""
    data: bytes = msgpack.packb(message)
    return data


def unpack(data: bytes) -> list[Any]:
    """Return the name and values that a packet carries."""
    message: list[Any] = msgpack.unpackb(data)
    return message


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that keep packets whole and report the other's end."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return pair
