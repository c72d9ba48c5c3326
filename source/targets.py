"""Addresses as a user types them."""

from __future__ import annotations

from protocol.errors import MigrationError


def parse_target(text: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT.

    Raises:
        MigrationError: It is none.
    """
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise MigrationError("that is no HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def target_text(host: str, port: int) -> str:
    """Return HOST:PORT as it can be typed."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
