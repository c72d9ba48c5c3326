"""HOST:PORT as people write it, and what an address says of itself; nothing is looked up here."""

from __future__ import annotations

import ipaddress


def host_port(host: str, port: int) -> str:
    """Return HOST:PORT as it can be typed again: an address of IPv6 stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
    """Tell whether only this machine reaches, or has, an IP address.

    Raises:
        ValueError: It is no IP address.
    """
    return ipaddress.ip_address(unmapped(host.partition("%")[0])).is_loopback
