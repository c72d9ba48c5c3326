"""Listening on every address of a name, on one port, and how sockets' names are written."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from guest.streams import binding
from guest.streams.binding import Place, address_text, host_text, is_loopback, listen_on, places_of
from protocol.errors import MigrationError
from tests.bounds import bounded, nothing_left
from tests.sockets import knowing, unused_port

V4, V6 = socket.AF_INET, socket.AF_INET6
BOTH = [Place(V4, ("127.0.0.1", 0)), Place(V4, ("127.0.0.2", 0))]


def has_ipv6() -> bool:
    """Tell whether this machine has IPv6 on loopback."""
    try:
        with socket.socket(V6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextmanager
def listening(places: Sequence[Place], log: Callable[[str], None]) -> Iterator[list[str]]:
    """Listen; yield the addresses."""
    with nothing_left():
        socks = listen_on(places, "typed:1", log)
        try:
            yield [address_text(sock.getsockname()) for sock in socks]
        finally:
            for sock in socks:
                sock.close()


async def is_served(host: str, port: int) -> bool:
    """Tell whether a connection is taken there."""
    try:
        await (await trio.open_tcp_stream(host, port)).aclose()
    except OSError:
        return False
    return True


@needs_ipv6
async def test_all_addresses_of_the_machine() -> None:
    """`::` serves both families, each by a socket of its own; 0.0.0.0 serves one."""
    assert await places_of("::", 5) == [Place(V6, ("::", 5, 0, 0)), Place(V4, ("0.0.0.0", 5))]
    assert await places_of("0.0.0.0", 5) == [Place(V4, ("0.0.0.0", 5))]
    log: list[str] = []
    with bounded(), listening(await places_of("::", 0), log.append) as (first, second):
        port = int(first.rpartition(":")[2])
        assert (first, second) == (f"[::]:{port}", f"0.0.0.0:{port}")
        assert log == [f"also listening on 0.0.0.0:{port}"]
        assert [await is_served(host, port) for host in ("127.0.0.1", "::1")] == [True, True]
        # A source that writes IPv4 as IPv6 does comes over IPv4.
        assert await is_served("::ffff:127.0.0.1", port)


async def test_an_address_of_ipv4_that_ipv6_wraps() -> None:
    """It is listened on as what it is, and so it is told."""
    places = await places_of("::ffff:127.0.0.1", 0)
    assert places == [Place(V4, ("127.0.0.1", 0))]
    with bounded(), listening(places, pytest.fail) as (address,):
        assert address.startswith("127.0.0.1:")


async def test_a_name_with_two_addresses() -> None:
    """Both are listened on, on the same port; who connects to either is taken."""
    with knowing("two.example", "127.0.0.1", "127.0.0.2", "127.0.0.1"):
        places = await places_of("two.example", 0)
    assert places == BOTH
    log: list[str] = []
    with bounded(), listening(places, log.append) as addresses:
        port = int(addresses[0].rpartition(":")[2])
        assert addresses == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
        assert log == [f"also listening on 127.0.0.2:{port}"]
        assert [await is_served(f"127.0.0.{n}", port) for n in (1, 2)] == [True, True]


async def test_another_port_is_picked_when_one_is_not_free_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A port that one address got by chance may be taken at the next: both get another."""
    real, tried = binding._listening, list[tuple[Any, ...]]()

    def listening_first_in_vain(family: int, name: tuple[Any, ...]) -> socket.socket:
        tried.append(name)
        if len(tried) == 2:
            raise OSError(errno.EADDRINUSE, "in use")
        return real(family, name)

    monkeypatch.setattr(binding, "_listening", listening_first_in_vain)
    with listening(BOTH, lambda _: None) as addresses:
        ports = {address.rpartition(":")[2] for address in addresses}
        assert len(ports) == 1
    assert [name[0] for name in tried] == ["127.0.0.1", "127.0.0.2"] * 2
    assert [name[1] for name in tried[::2]] == [0, 0]


async def test_that_is_tried_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no port is free at both addresses is told of, and nothing stays open."""
    real = binding._listening

    def in_vain(family: int, name: tuple[Any, ...]) -> socket.socket:
        if name[0] == "127.0.0.2":
            raise OSError(errno.EADDRINUSE, "in use")
        return real(family, name)

    monkeypatch.setattr(binding, "_listening", in_vain)
    with nothing_left(), pytest.raises(MigrationError, match="no port is free at all of its"):
        listen_on(BOTH, "typed:0", pytest.fail)


def test_a_port_in_use_at_one_address() -> None:
    """A port that was asked for must be free at all of them; the message says where it is not."""
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        places = [Place(V4, (f"127.0.0.{n}", port)) for n in (1, 2)]
        wanted = rf"cannot listen on typed:1: 127\.0\.0\.2:{port}: Address already in use"
        with nothing_left(), pytest.raises(MigrationError, match=wanted):
            listen_on(places, "typed:1", pytest.fail)


async def test_what_this_machine_has_not() -> None:
    """One address that is not here leaves the others; none at all is an error."""
    port = unused_port()
    places = [Place(V4, ("192.0.2.1", port)), Place(V4, ("127.0.0.1", port))]
    log: list[str] = []
    with listening(places, log.append) as (address,):
        assert address == f"127.0.0.1:{port}"
    assert log == [f"not listening on 192.0.2.1:{port}: Cannot assign requested address"]
    with pytest.raises(MigrationError, match=r"^cannot listen on 192\.0\.2\.1:1: Cannot assign"):
        listen_on([Place(V4, ("192.0.2.1", 1))], "192.0.2.1:1", pytest.fail)


async def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """`::` is then every address of IPv4; that the other family is missing is told."""
    real = binding._listening

    def without(family: int, name: tuple[Any, ...]) -> socket.socket:
        if family == V6:
            raise OSError(errno.EAFNOSUPPORT, "none")
        return real(family, name)

    monkeypatch.setattr(binding, "_listening", without)
    log: list[str] = []
    places = [Place(V6, ("::", 0, 0, 0)), Place(V4, ("0.0.0.0", 0))]
    with listening(places, log.append) as (address,):
        assert address.startswith("0.0.0.0:")
    assert log == ["not listening on [::]:0: Address family not supported by protocol"]


async def test_a_name_that_nobody_knows() -> None:
    """The complaint names what was typed, and what the resolver says."""
    with bounded(), pytest.raises(MigrationError, match=r"cannot listen on \[::1%nosuch\]:80: "):
        await places_of("::1%nosuch", 80)


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
