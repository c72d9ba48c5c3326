"""Sockets' names as users write them, and which of them only this machine has."""

import pytest

from dest.addresses import address_text, is_loopback


@pytest.mark.parametrize(
    ("name", "text", "loopback"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80", True),
        (("127.9.0.1", 0), "127.9.0.1:0", True),
        (("::1", 80, 0, 0), "[::1]:80", True),
        (("0.0.0.0", 80), "0.0.0.0:80", False),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%eth0]:80", False),
    ],
)
def test_a_name(name: tuple[object, ...], text: str, loopback: bool) -> None:
    """Addresses of IPv6 stand in brackets; a listener on all addresses is not on loopback."""
    assert address_text(name) == text
    assert is_loopback(name) is loopback
