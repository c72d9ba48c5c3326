"""Listening sockets: one for each address of a name, all on one port, and what they accept.

A name may have several addresses, of both families, and a source may try any of them.  `::` stands
for every address of the machine, so IPv4 is served beside it, by a socket of its own: a connection
over IPv4 then has an address of IPv4, which is what people write where they allow or refuse one.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import trio

from protocol.addresses import host_port, is_loopback_address, unmapped
from protocol.errors import MigrationError

# Connections that the kernel holds until they are accepted, which is done at once.
_BACKLOG = 128

# How often another port is picked because the one that one address got is taken at another.
_PICKS_MAX = 16

# This machine does not have the address, or not its family: others of the same name may serve.
_NOT_HERE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


@dataclass(frozen=True)
class Place:
    """An address to listen on.

    Attributes:
        family: AF_INET or AF_INET6.
        name: As the system names it; port 0 stands for any.
    """

    family: int
    name: tuple[Any, ...]


class _PortTaken(Exception):
    """The port that one address got by chance cannot be had at another."""


async def places_of(host: str, port: int) -> list[Place]:
    """Return every address that a name stands for, each once.

    Args:
        host: A name or address.
        port: A TCP port; 0 for any.

    Raises:
        MigrationError: There is none.
    """
    try:
        found = await trio.socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        reason = error.strerror or error
        raise MigrationError(f"cannot listen on {host_port(host, port)}: {reason}") from error
    places = [_place(family, name) for family, _, _, _, name in found]
    if any(place.name[0] == "::" for place in places):
        places.append(Place(socket.AF_INET, ("0.0.0.0", port)))
    return list(dict.fromkeys(places))


def _place(family: int, name: tuple[Any, ...]) -> Place:
    host = unmapped(str(name[0]))
    # No socket of IPv6 alone can listen on what is an address of IPv4.
    return Place(family, name) if host == name[0] else Place(socket.AF_INET, (host, name[1]))


def listen_on(
    places: Sequence[Place], typed: str, log: Callable[[str], None]
) -> list[trio.socket.SocketType]:
    """Return sockets that listen on these addresses, in their order, all on the same port.

    Args:
        places: What `places_of` found.
        typed: What they are the addresses of, for messages.
        log: Takes a line about each address but the first, and about what this machine has not.

    Raises:
        MigrationError: One cannot be listened on, or this machine has none of them.
    """
    for _ in range(_PICKS_MAX):
        try:
            return _listen_on(places, typed, log)
        except _PortTaken:
            continue
    raise MigrationError(f"cannot listen on {typed}: no port is free at all of its addresses")


def _listen_on(
    places: Sequence[Place], typed: str, log: Callable[[str], None]
) -> list[trio.socket.SocketType]:
    socks: list[socket.socket] = []
    absent: list[str] = []
    port = 0
    with ExitStack() as opened:
        for place in places:
            wanted = place.name[1] or port
            name = (place.name[0], wanted, *place.name[2:])
            try:
                sock = opened.enter_context(_listening(place.family, name))
            except OSError as error:
                reason = f"{address_text(name)}: {_words(error)}"
                if error.errno in _NOT_HERE:
                    absent.append(reason)
                    continue
                if error.errno == errno.EADDRINUSE and wanted != place.name[1]:
                    raise _PortTaken from error
                raise MigrationError(_refusal(typed, reason)) from error
            port = sock.getsockname()[1]
            socks.append(sock)
        if not socks:
            raise MigrationError(_refusal(typed, absent[0]))
        opened.pop_all()
    for line in absent:
        log(f"not listening on {line}")
    for sock in socks[1:]:
        log(f"also listening on {address_text(sock.getsockname())}")
    return [trio.socket.from_stdlib_socket(sock) for sock in socks]


def _listening(family: int, name: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # What ended a moment ago does not keep its port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _refusal(typed: str, reason: str) -> str:
    """Return the complaint; the address stands in it once if it is what was typed."""
    inner = reason.removeprefix(f"{typed}: ")
    return f"cannot listen on {typed}: {inner}"


# Where a name of IPv6 has the number of the interface that its address is of; 0 for none.
_SCOPE = 3


def host_text(name: tuple[Any, ...]) -> str:
    """Return the address of a socket's name, with the %INTERFACE that a link-local one needs."""
    host = unmapped(str(name[0]))
    scope = name[_SCOPE] if len(name) > _SCOPE else 0
    if not scope or "%" in host:
        return host
    try:
        return f"{host}%{socket.if_indextoname(scope)}"
    except OSError:
        # The interface is gone; its number can be typed, too.
        return f"{host}%{scope}"


def address_text(name: tuple[Any, ...]) -> str:
    """Return HOST:PORT of a socket's name, as it can be typed again."""
    return host_port(host_text(name), name[1])


def is_loopback(name: tuple[Any, ...]) -> bool:
    """Tell whether only this machine reaches, or has, such an address."""
    return is_loopback_address(str(name[0]))


# When the system is out of something, it needs a moment to have it again.
_PAUSE_SECONDS = 0.1


async def accept(
    sock: trio.socket.SocketType, complain: Callable[[str], None]
) -> tuple[trio.socket.SocketType, tuple[Any, ...]]:
    """Wait for a connection; return it and where it is from.

    Args:
        sock: Listens.
        complain: Takes a line about each that could not be accepted.
    """
    while True:
        try:
            return await sock.accept()
        except OSError as error:
            # Out of descriptors, or a client that gave up: none of that is ours to die of.
            complain(f"a connection could not be accepted: {error.strerror or error}")
            await trio.sleep(_PAUSE_SECONDS)
