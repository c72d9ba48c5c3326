"""Sockets' names as users write them, and which of them only this machine has."""

import socket

import pytest

from dest.addresses import address_text, host_text, is_loopback


@pytest.mark.parametrize(
    ("name", "text", "loopback"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80", True),
        (("127.9.0.1", 0), "127.9.0.1:0", True),
        (("::1", 80, 0, 0), "[::1]:80", True),
        (("::", 80, 0, 0), "[::]:80", False),
        (("0.0.0.0", 80), "0.0.0.0:80", False),
        (("::ffff:127.0.0.1", 80, 0, 0), "127.0.0.1:80", True),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1:80", False),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%eth0]:80", False),
        # No machine has so many interfaces.
        (("fe80::1", 80, 0, 1 << 30), f"[fe80::1%{1 << 30}]:80", False),
    ],
)
def test_a_name(name: tuple[object, ...], text: str, loopback: bool) -> None:
    """Addresses of IPv6 stand in brackets; a listener on all addresses is not on loopback."""
    assert address_text(name) == text
    assert is_loopback(name) is loopback


def test_a_link_local_address_names_its_interface() -> None:
    """The system tells the interface by its number; what is printed can be typed again."""
    number, interface = socket.if_nameindex()[0]
    assert host_text(("fe80::1", 80, 0, number)) == f"fe80::1%{interface}"
    assert address_text(("fe80::1", 80, 0, number)) == f"[fe80::1%{interface}]:80"
