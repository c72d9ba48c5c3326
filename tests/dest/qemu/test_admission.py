"""QEMU's two connections are told apart by their first bytes, and strangers are turned away."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest
import trio
import trio.testing

from dest.listening import Listener, open_listener
from dest.qemu.admission import QemuAdmission, Trial
from dest.qemu.handshakes import Line
from guest.streams.network import TcpNetwork
from protocol.errors import ConnectionLost, MigrationError, RemoteProtocolError
from protocol.limits import HELLO_CONNECTIONS_MAX
from tests import qemu_streams as qemu
from tests.bounds import bounded, nothing_left
from tests.guest.streams.test_binding import needs_ipv6

TAKEN = "it is taken"


class Rig:
    """A listener and what it logs."""

    def __init__(self, only_from: str | None = None) -> None:
        """Start with nothing."""
        self.admission = QemuAdmission(only_from)
        self.listener: Listener
        self.log: list[str] = []
        self.streams: list[trio.SocketStream] = []

    async def say(self, data: bytes, *, from_host: str = "127.0.0.1") -> trio.SocketStream:
        """Connect and say something."""
        host, _, port = self.listener.address.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port), local_address=from_host)
        self.streams.append(stream)
        await stream.send_all(data)
        return stream


@asynccontextmanager
async def make_rig(window_bytes: int = 0, only_from: str | None = None) -> AsyncIterator[Rig]:
    """Listen on loopback; no socket may stay, and the block is bounded."""
    rig = Rig(only_from)
    network = TcpNetwork(silence_seconds_max=0, window_bytes=window_bytes)
    with nothing_left(), bounded():
        try:
            async with open_listener(
                "127.0.0.1", 0, rig.log.append, rig.admission, network
            ) as rig.listener:
                yield rig
        finally:
            for stream in rig.streams:
                await stream.aclose()


async def believe(line: Line) -> None:
    """Take a connection for what it seems to be."""


async def test_the_magic_number_makes_the_main_connection() -> None:
    """A connection that is silent waits; the one with the magic number is the main one."""
    async with make_rig() as rig:
        silent = await rig.say(b"")
        await rig.say(qemu.head()[:3])
        await rig.say(qemu.head())
        main, _ = await rig.admission.accept_main(believe)
        assert (main.channel.label, rig.admission.preempt) == ("main", None)
        await silent.send_all(qemu.zero(0, b"ram"))
        preempt, _ = await rig.admission.accept_preempt(believe)
        assert rig.admission.preempt is preempt
        assert rig.log == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1", "not the beginning"),
        (b"\x16\x03\x01\0\xf1\1", "TLS"),
        (bytes.fromhex("11223344 00000001"), "multifd"),
        (qemu.zero(0, b"ram"), "not the beginning"),
    ],
)
async def test_strangers_are_turned_away(data: bytes, reason: str) -> None:
    """What is no main connection is closed and told; one that is then comes all the same."""
    async with make_rig() as rig:
        stream = await rig.say(data)
        with pytest.raises(trio.BrokenResourceError):
            # Closed with unread bytes, a connection is reset.
            await stream.receive_some()
        assert reason in rig.log[0]
        await rig.say(qemu.head())
        await rig.admission.accept_main(believe)


async def test_there_is_one_migration() -> None:
    """A second main connection is turned away while the first is served."""
    async with make_rig() as rig:
        await rig.say(qemu.head())
        await rig.admission.accept_main(believe)
        stream = await rig.say(qemu.head())
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert "under way" in rig.log[0]


@pytest.mark.parametrize(("window_bytes", "is_little"), [(64 << 10, True), (0, False)])
async def test_a_window_keeps_little_under_way(window_bytes: int, is_little: bool) -> None:
    """With a window a source can write far less than a huge page before somebody reads."""
    async with make_rig(window_bytes) as rig:
        await rig.say(qemu.head())
        await rig.admission.accept_main(believe)
        host, _, port = rig.listener.address.rpartition(":")
        written = 0
        # Not trio's own stream, which keeps its sockets short by itself.
        with socket.create_connection((host, int(port))) as sock, suppress(BlockingIOError):
            sock.setblocking(False)
            while written < 64 << 20:
                written += sock.send(bytes(4096))
        assert (written < 1 << 20) is is_little


async def test_the_silent_give_way() -> None:
    """A crowd that says nothing keeps no QEMU out: the oldest of the crowd is given up."""
    async with make_rig() as rig:
        first = await rig.say(b"")
        for _ in range(HELLO_CONNECTIONS_MAX):
            await rig.say(b"")
        assert await first.receive_some() == b""
        await rig.say(qemu.head())
        await rig.admission.accept_main(believe)
        assert "too many came after it" in rig.log[0]


async def test_another_machine_brings_no_urgent_pages() -> None:
    """A second connection is taken from where the first is from, and from nowhere else."""
    async with make_rig() as rig:
        await rig.say(qemu.head())
        await rig.admission.accept_main(believe)
        stream = await rig.say(qemu.zero(0, b"ram"), from_host="127.0.0.2")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert "not from where the migration comes" in rig.log[0]


async def test_one_machine_alone_may_come() -> None:
    """Whoever connects from another address than the one that is named is turned away."""
    async with make_rig(only_from="127.0.0.2") as rig:
        stream = await rig.say(b"")
        assert await stream.receive_some() == b""
        assert "it is not from 127.0.0.2" in rig.log[0]
        await rig.say(qemu.head(), from_host="127.0.0.2")
        await rig.admission.accept_main(believe)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
async def test_off_loopback_one_machine_has_to_be_named(host: str) -> None:
    """Nobody listens for everybody: a QEMU proves nothing."""
    with nothing_left(), bounded(), pytest.raises(MigrationError, match="--allow-from"):
        async with open_listener(host, 0, print, QemuAdmission()):
            pass


@needs_ipv6
async def test_a_qemu_comes_over_either_family() -> None:
    """On all addresses of the machine the one that may come is known by its own, of IPv4."""
    log: list[str] = []
    with nothing_left(), bounded():
        admission = QemuAdmission("127.0.0.1")
        async with open_listener("::", 0, log.append, admission) as listener:
            port = int(listener.address.rpartition(":")[2])
            assert listener.address == f"[::]:{port}"
            async with await trio.open_tcp_stream("::1", port) as wrong:
                assert await wrong.receive_some() == b""
            assert "it is not from 127.0.0.1" in log[-1]
            assert "from [::1]:" in log[-1]
            async with await trio.open_tcp_stream("127.0.0.1", port) as right:
                await right.send_all(qemu.head())
                await admission.accept_main(believe)


async def test_an_address_that_cannot_be_had() -> None:
    """Where nobody can listen, that is told in a line."""
    async with make_rig() as rig:
        port = int(rig.listener.address.rpartition(":")[2])
        with pytest.raises(MigrationError, match="cannot listen on"):
            async with open_listener("127.0.0.1", port, rig.log.append, QemuAdmission()):
                pass


class Candidate:
    """Stands for a connection; what it says of itself it is told to say."""

    def __init__(self) -> None:
        """Say nothing yet."""
        self.says, self._heard = trio.open_memory_channel[str | Exception](1)

    async def prove(self) -> str:
        """Return what it says, once it does, or raise that."""
        said = await self._heard.receive()
        if isinstance(said, Exception):
            raise said
        return said


async def prove(line: Line) -> str:
    """Hear a candidate."""
    return await cast("Candidate", line).prove()


class Stand:
    """Candidates that stand for a place at the same time, and what became of them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        """Have nobody stand yet."""
        self.trial: Trial[str] = Trial(TAKEN)
        self.refused: dict[Candidate, str] = {}
        self._nursery = nursery

    def enter(self) -> Candidate:
        """Have one more stand."""
        candidate = Candidate()
        self._nursery.start_soon(self._stand, candidate)
        return candidate

    async def _stand(self, candidate: Candidate) -> None:
        try:
            await self.trial.stand(cast("Line", candidate), "127.0.0.2")
        except RemoteProtocolError as error:
            self.refused[candidate] = str(error)


async def test_the_first_that_proves_itself_has_the_place() -> None:
    """Those before it that say nothing, or are gone, or say what is wrong, are refused."""
    async with trio.open_nursery() as nursery:
        stand = Stand(nursery)
        silent, gone, wrong, right = (stand.enter() for _ in range(4))
        await trio.testing.wait_all_tasks_blocked()
        under_way = [stand.trial.is_under_way]
        won: list[tuple[object, str]] = []

        async def judge() -> None:
            won.append(await stand.trial.judge(prove))

        nursery.start_soon(judge)
        await gone.says.send(ConnectionLost("it is gone"))
        await wrong.says.send(RemoteProtocolError("it is wrong"))
        await trio.testing.wait_all_tasks_blocked()
        under_way.append(stand.trial.is_under_way)
        assert stand.refused == {gone: "it is gone", wrong: "it is wrong"}
        assert not won
        await right.says.send("what it says")
        await trio.testing.wait_all_tasks_blocked()
        assert won == [(right, "what it says")]
        assert (stand.trial.winner, stand.trial.host) == (cast("Line", right), "127.0.0.2")
        assert stand.refused[silent] == TAKEN
        under_way.append(stand.trial.is_under_way)
        assert under_way == [False, True, False]
        late = stand.enter()
        await trio.testing.wait_all_tasks_blocked()
        assert stand.refused[late] == TAKEN


async def test_two_that_prove_themselves_at_once() -> None:
    """One of them has the place, and the other is refused."""
    async with trio.open_nursery() as nursery:
        stand = Stand(nursery)
        both = (stand.enter(), stand.enter())
        for candidate in both:
            await candidate.says.send("me")
        winner, _ = await stand.trial.judge(prove)
        await trio.testing.wait_all_tasks_blocked()
        assert list(stand.refused.values()) == [TAKEN]
        assert {cast("Candidate", winner), *stand.refused} == {*both}
