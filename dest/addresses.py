"""What the system calls a socket's name, as users write it and as a listener judges it."""

from __future__ import annotations

import ipaddress
from typing import Any


def address_text(name: tuple[Any, ...]) -> str:
    """Return HOST:PORT of a socket's name."""
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(name: tuple[Any, ...]) -> bool:
    """Tell whether only this machine reaches, or has, such an address."""
    return ipaddress.ip_address(name[0].partition("%")[0]).is_loopback
