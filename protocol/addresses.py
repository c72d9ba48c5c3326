"""HOST:PORT as people write it, and what an address says of itself; nothing is looked up here."""

from __future__ import annotations

import ipaddress
import re

# A host's name or address as it may stand before the port.
_HOST_CHARS_MAX = 253


def host_port(host: str, port: int) -> str:
    """Return HOST:PORT as it can be typed again: an address of IPv6 stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_host_port(text: str, *, port_min: int = 0) -> tuple[str, int]:
    """Return (host, port) of HOST:PORT, or [ADDRESS]:PORT for IPv6; without a host, localhost.

    Raises:
        ValueError: It is not that.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not (
        colon
        and re.fullmatch(r"[0-9]{1,5}", port)
        and port_min <= int(port) <= 65535
        and bracketed == (":" in host)
        and is_host(host)
    ):
        raise ValueError("no HOST:PORT")
    return host or "localhost", int(port)


def is_host(text: str) -> bool:
    """Return whether a name is one that the resolver can be asked for without complaining."""
    try:
        return text.isprintable() and len(text.encode("idna")) <= _HOST_CHARS_MAX
    except UnicodeError:
        return False


def unmapped(host: str) -> str:
    """Return the IPv4 address that an address of IPv6 only wraps; any other text as it is.

    `::ffff:192.0.2.1` is how a socket of IPv6 writes 192.0.2.1: it is reached by IPv4 alone.
    """
    try:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return host if mapped is None else str(mapped)


def is_loopback_address(host: str) -> bool:
    """Return whether only this machine reaches, or has, an IP address.

    Raises:
        ValueError: It is no IP address.
    """
    return ipaddress.ip_address(unmapped(host.partition("%")[0])).is_loopback
