"""What the system calls a socket's name, as users write it and as a listener judges it."""

from __future__ import annotations

import socket
from typing import Any

from protocol.addresses import host_port, is_loopback_address, unmapped

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
