"""HOST:PORT and addresses, as people write them."""

import pytest

from protocol.addresses import host_port, is_loopback_address, parse_host_port, unmapped


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("127.0.0.1", "127.0.0.1:80"),
        ("there.example", "there.example:80"),
        ("::", "[::]:80"),
        ("fe80::1%eth0", "[fe80::1%eth0]:80"),
    ],
)
def test_an_address_can_be_typed_again(host: str, text: str) -> None:
    """Addresses of IPv6 stand in brackets, with their interface; nothing else does."""
    assert host_port(host, 80) == text


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:c000:0201", "192.0.2.1"),
        ("::1", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("there.example", "there.example"),
    ],
)
def test_an_address_of_ipv4_in_one_of_ipv6(host: str, plain: str) -> None:
    """What IPv6 only wraps is the address of IPv4 that it wraps."""
    assert unmapped(host) == plain


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.9.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
        ("::", False), ("::ffff:0.0.0.0", False), ("::ffff:192.0.2.1", False),
        ("fe80::1%lo", False),
    ],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    """Loopback is loopback in either family, also where one wraps the other."""
    assert is_loopback_address(host) is loopback


def test_a_name_is_no_address() -> None:
    """Nobody can tell of a name what it stands for."""
    with pytest.raises(ValueError, match="localhost"):
        is_loopback_address("localhost")


@pytest.mark.parametrize(
    ("text", "target"), [("there:5", ("there", 5)), ("[::1]:65535", ("::1", 65535))]
)
def test_host_and_port(text: str, target: tuple[str, int]) -> None:
    """A host and a port are told apart, brackets or none, and put together again."""
    assert parse_host_port(text, port_min=1) == target
    assert host_port(*target) == text


def test_a_port_alone() -> None:
    """Without a host it is this machine's."""
    assert parse_host_port(":5") == ("localhost", 5)


@pytest.mark.parametrize(
    "text", ["", "there", "there:", "there:0", "there:99999", "a:²", "::1:5", "[::1]"]
)
def test_what_is_no_host_and_port(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="no HOST:PORT"):
        parse_host_port(text, port_min=1)
