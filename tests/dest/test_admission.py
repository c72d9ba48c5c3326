"""The listener: two connections become one session, and strangers cost a place, not for long."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dest.admission import Resumes, Session, SessionAdmission
from dest.listening import Listener, open_listener
from dest.pending import LINES_A_SECOND_MAX
from guest.streams import network
from guest.streams.binding import Place
from guest.streams.network import TcpDoor
from guest.streams.tcp import TcpStream
from protocol.addresses import host_port
from protocol.channels import Channel
from protocol.credentials import NOTHING, Credentials
from protocol.errors import MigrationError, PeerAborted
from protocol.limits import HELLO_CONNECTIONS_MAX, HELLO_SECONDS_MAX, PROOF_SECONDS_MAX
from protocol.messages import (
    PROTOCOL_VERSION,
    Abort,
    Hello,
    Message,
    PassEnd,
    Ready,
    Resume,
    Welcome,
)
from protocol.policy import preset
from protocol.wire import encode
from source.connect import Opening, connect, connect_channel, prove
from tests.bounds import BOUND_SECONDS, bounded, nothing_left
from tests.sides import SESSION
from tests.sockets import Peer, dial

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
OTHER_SESSION = bytes(16)
SECRET = Credentials(secret=b"correct horse battery staple")


class Rig:
    """A listener, what it logs, and the connections that a test made to it."""

    def __init__(self, credentials: Credentials) -> None:
        """Start with nothing."""
        self.admission = SessionAdmission(credentials)
        self.listener: Listener
        self.log: list[str] = []
        self.peers: list[Peer] = []

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self.listener.address.rsplit(":", 1)
        return host, int(port)

    async def dial(self) -> Peer:
        """Connect and say nothing."""
        peer = await dial(self.listener.address)
        self.peers.append(peer)
        return peer

    async def say(self, message: Message) -> Peer:
        """Connect and say something."""
        peer = await self.dial()
        await peer.send(message)
        return peer

    async def join(self, name: Channel, session: bytes, credentials: Credentials) -> None:
        """Connect as a source does, up to the Welcome."""
        connection = await connect_channel(*self.place, name, Opening(session), credentials)
        self.peers.append(Peer(cast("TcpStream", connection.out._stream)._sock))

    async def refusal(self, message: Message) -> str:
        """Say something and return why it is refused; the connection must then be closed."""
        peer = await self.say(message)
        abort = await peer.expect(Abort)
        await peer.wait_closed()
        return abort.reason

    async def accept(self) -> Session:
        """Make a session of a precopy connection."""
        await (await self.say(hello(PRE))).expect(Welcome)
        return await self.admission.accept_session()


@asynccontextmanager
async def make_rig(
    seconds: float = BOUND_SECONDS, credentials: Credentials = NOTHING
) -> AsyncIterator[Rig]:
    """Listen on loopback; no socket may stay, and the block is bounded."""
    rig = Rig(credentials)
    with nothing_left(), bounded(seconds):
        try:
            async with open_listener("127.0.0.1", 0, rig.log.append, rig.admission) as rig.listener:
                yield rig
            for peer in rig.peers:
                await peer.wait_closed()
        finally:
            for peer in rig.peers:
                peer.close()


def hello(channel: Channel, session: bytes = SESSION, version: int = PROTOCOL_VERSION) -> Hello:
    """Return a hello."""
    return Hello(version=version, session=session, role=channel.value)


@pytest.mark.parametrize("order", [(PRE, POST), (POST, PRE)])
async def test_either_connection_may_come_first(order: tuple[Channel, Channel]) -> None:
    """Both connections get their Welcome and become one session, whichever comes first."""
    async with make_rig() as rig:
        for channel in order:
            peer = await rig.say(hello(channel))
            assert await peer.expect(Welcome) == Welcome(version=PROTOCOL_VERSION)
        session = await rig.admission.accept_session()
        await session.paired.wait()
        assert session.session_id == SESSION
        assert set(session.channels) == set(Channel)
        # Each is the connection that said so.
        for channel, peer in zip(order, rig.peers, strict=True):
            await peer.send(PassEnd(index=len(channel.value)))
            message = await session.channels[channel].receive()
            assert message == PassEnd(index=len(channel.value))
        assert rig.log == []


async def test_a_precopy_connection_alone_makes_a_session() -> None:
    """A source with one channel does not wait for a second connection."""
    async with make_rig() as rig:
        session = await rig.accept()
        assert session.claimed.is_set()
        assert not session.paired.is_set()


async def test_a_session_is_not_given_out_before_its_precopy_connection() -> None:
    """An early postcopy connection waits; the session begins with the other one."""
    async with make_rig() as rig:
        await (await rig.say(hello(POST))).expect(Welcome)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.admission.accept_session)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            await rig.say(hello(PRE))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            hello(PRE, version=PROTOCOL_VERSION + 1),
            f"protocol version {PROTOCOL_VERSION + 1} is not version {PROTOCOL_VERSION}",
        ),
        (
            Hello(version=PROTOCOL_VERSION, session=SESSION, role="fastest"),
            "unknown role 'fastest'",
        ),
        (Ready(), "the first message is no hello"),
    ],
)
async def test_a_wrong_hello_is_refused(message: Message, reason: str) -> None:
    """Who says something else than a hello that fits is told why, and a source can still come."""
    async with make_rig() as rig:
        assert await rig.refusal(message) == reason
        assert reason in rig.log[0]
        await rig.accept()


@pytest.mark.parametrize("channel", Channel)
async def test_a_role_is_taken_once(channel: Channel) -> None:
    """A second connection of the same role is refused, and the first one goes on."""
    async with make_rig() as rig:
        first = await rig.say(hello(channel))
        await first.expect(Welcome)
        reason = f"the session has a {channel.value} connection already"
        assert await rig.refusal(hello(channel)) == reason
        other = next(each for each in Channel if each is not channel)
        await rig.say(hello(other))
        session = await rig.admission.accept_session()
        await session.paired.wait()
        await first.send(PassEnd(index=5))
        assert await session.channels[channel].receive() == PassEnd(index=5)


@pytest.mark.parametrize("channel", Channel)
async def test_a_second_migration_is_refused(channel: Channel) -> None:
    """While one migration runs another is refused over either channel, and does not disturb it."""
    async with make_rig() as rig:
        session = await rig.accept()
        reason = await rig.refusal(hello(channel, session=OTHER_SESSION))
        assert reason == "a migration is under way here already"
        await (await rig.say(hello(POST))).expect(Welcome)
        await session.paired.wait()
        await rig.peers[0].send(PassEnd(index=1))
        assert await session.channels[PRE].receive() == PassEnd(index=1)


async def test_postcopy_connections_of_others_do_not_hold_the_place() -> None:
    """An early postcopy connection of a source that never comes keeps no other source away."""
    async with make_rig() as rig:
        await (await rig.say(hello(POST, session=OTHER_SESSION))).expect(Welcome)
        session = await rig.accept()
        assert session.session_id == SESSION
        assert POST not in session.channels


async def test_a_silent_stranger_loses_its_place(autojump_clock: MockClock) -> None:
    """A connection that says nothing is closed in a few seconds."""
    autojump_clock.autojump_threshold = 0.1
    async with make_rig() as rig:
        peer = await rig.dial()
        await peer.wait_closed()
        assert trio.current_time() == PROOF_SECONDS_MAX
        assert "refused a connection from 127.0.0.1:" in rig.log[0]
        await rig.accept()


async def test_a_slow_stranger_loses_its_place(autojump_clock: MockClock) -> None:
    """A connection that begins a hello and does not end it is told so and closed."""
    autojump_clock.autojump_threshold = 0.1
    async with make_rig() as rig:
        peer = await rig.dial()
        await peer.send_bytes(encode(hello(PRE))[:-1])
        assert (await peer.expect(Abort)).reason == "no migration began in 10 s"
        assert trio.current_time() == HELLO_SECONDS_MAX
        await peer.wait_closed()
        await rig.accept()


@pytest.mark.parametrize("credentials", [NOTHING, SECRET])
async def test_silent_strangers_do_not_keep_a_source_away(credentials: Credentials) -> None:
    """With every place taken a source gets in at once, and the oldest strangers are closed."""
    async with make_rig(credentials=credentials) as rig:
        strangers = [await rig.dial() for _ in range(HELLO_CONNECTIONS_MAX + 3)]
        await wait_all_tasks_blocked()
        assert len(rig.log) == 3
        async with connect(*rig.place, preset("ordered"), credentials) as connections:
            assert set(connections) == set(Channel)
            # The first of them left its place to the second.
            assert len(rig.log) == 4
            for stranger in strangers[:4]:
                await stranger.wait_closed()
            assert all("too many came after it" in line for line in rig.log)


async def test_only_a_proved_hello_counts() -> None:
    """Where a secret is demanded, a hello alone is refused with what is missing."""
    async with make_rig(credentials=SECRET) as rig:
        reason = await rig.refusal(hello(PRE))
        assert reason == "the destination demands a secret, see --secret-file"
        assert len(rig.log) == 1


@pytest.mark.parametrize("changed", [hello(PRE, session=OTHER_SESSION), hello(POST)])
async def test_a_hello_is_for_what_was_proved(changed: Hello) -> None:
    """A proof for one session and role opens no other."""
    async with make_rig(credentials=SECRET) as rig:
        peer = await rig.dial()
        await prove(TcpStream(peer.sock), "127.0.0.1", PRE, SESSION, SECRET)
        await peer.send(changed)
        assert (await peer.expect(Abort)).reason == "the hello is not for what was proved"


@pytest.mark.parametrize("order", [(PRE, POST), (POST, PRE)])
async def test_both_connections_prove(order: tuple[Channel, Channel]) -> None:
    """The second connection of a session has to prove itself as the first had."""
    first, second = order
    async with make_rig(credentials=SECRET) as rig:
        await rig.join(first, SESSION, SECRET)
        assert "demands a secret" in await rig.refusal(hello(second))
        await rig.join(second, SESSION, SECRET)
        session = await rig.admission.accept_session()
        await session.paired.wait()


async def test_who_resumes_proves_it_too() -> None:
    """To know a session's name opens nothing: the secret does, for that session and role."""
    message = Resume(version=PROTOCOL_VERSION, session=SESSION, role="precopy", attempt=1)
    async with make_rig(credentials=SECRET) as rig:
        resumes = Resumes(SESSION, Channel, ())
        rig.admission.take_resumes(resumes)
        assert "demands a secret" in await rig.refusal(message)
        peer = await rig.dial()
        await prove(TcpStream(peer.sock), "127.0.0.1", POST, SESSION, SECRET)
        await peer.send(message)
        assert (await peer.expect(Abort)).reason == "the hello is not for what was proved"
        opening = Opening(SESSION, attempt=2)
        async with connect(*rig.place, preset("ordered"), SECRET, opening=opening):
            assert set(await resumes.take()) == set(Channel)


async def test_a_second_genuine_source_is_refused() -> None:
    """While one migration runs another source is told so, though it knows the secret."""
    async with make_rig(credentials=SECRET) as rig:
        await rig.join(PRE, SESSION, SECRET)
        with pytest.raises(PeerAborted, match="a migration is under way here already"):
            await rig.join(PRE, OTHER_SESSION, SECRET)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0", "::ffff:192.0.2.1"])
async def test_far_from_loopback_something_is_demanded(host: str) -> None:
    """Where others can connect, a destination without a secret or certificates does not listen."""
    log: list[str] = []
    wanted = rf"{re.escape(host_port(host, 0))} is not on loop"
    with nothing_left(), bounded(), pytest.raises(MigrationError, match=wanted):
        async with open_listener(host, 0, log.append, SessionAdmission()):
            pytest.fail("it listens")
    with bounded():
        async with open_listener("0.0.0.0", 0, log.append, SessionAdmission(SECRET)) as listener:
            assert listener.address.startswith("0.0.0.0:")


async def test_one_address_far_from_loopback_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with an address on loopback and another demands as much as the other."""
    names = [Place(socket.AF_INET, (host, 0)) for host in ("127.0.0.1", "0.0.0.0")]

    async def places_of(_host: str, _port: int) -> list[Place]:
        await trio.lowlevel.checkpoint()
        return names

    monkeypatch.setattr(network, "places_of", places_of)
    with nothing_left(), bounded(), pytest.raises(MigrationError, match="is not on loop"):
        async with open_listener("here.example", 0, pytest.fail, SessionAdmission()):
            pytest.fail("it listens")


async def test_both_connections_may_come_to_different_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All addresses that are listened on are of one destination."""
    names = [Place(socket.AF_INET, (f"127.0.0.{number}", 0)) for number in (1, 2)]

    async def places_of(_host: str, _port: int) -> list[Place]:
        await trio.lowlevel.checkpoint()
        return names

    monkeypatch.setattr(network, "places_of", places_of)
    with nothing_left(), bounded():
        admission = SessionAdmission()
        async with open_listener("here.example", 0, lambda _: None, admission) as listener:
            port = listener.address.rpartition(":")[2]
            peers = [await dial(f"127.0.0.{number}:{port}") for number in (1, 2)]
            for peer, channel in zip(peers, (PRE, POST), strict=True):
                await peer.send(hello(channel))
            session = await admission.accept_session()
            await session.paired.wait()
            for peer in peers:
                peer.close()


async def test_an_early_postcopy_connection_expires(autojump_clock: MockClock) -> None:
    """A postcopy connection whose precopy one does not come is turned away, and may come again."""
    autojump_clock.autojump_threshold = 0.1
    async with make_rig() as rig:
        early = await rig.say(hello(POST))
        await early.expect(Welcome)
        assert (await early.expect(Abort)).reason == "no migration began in 10 s"
        assert trio.current_time() == HELLO_SECONDS_MAX
        session = await rig.accept()
        await (await rig.say(hello(POST))).expect(Welcome)
        await session.paired.wait()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01", b"\0" * 100, b"\xff" * 100],
    ids=["http", "tls", "zeros", "ones"],
)
async def test_a_stranger_that_talks_garbage_is_closed(garbage: bytes) -> None:
    """Whatever comes from a port scan costs one line of the log."""
    async with make_rig() as rig:
        peer = await rig.dial()
        await peer.send_bytes(garbage)
        await peer.wait_closed()
        await wait_all_tasks_blocked()
        assert len(rig.log) == 1
        await rig.accept()


async def test_a_stranger_that_goes_at_once_is_forgotten() -> None:
    """Connections that are closed or reset before they said anything harm nobody."""
    async with make_rig() as rig:
        for _ in range(20):
            (await rig.dial()).close()
            (await rig.dial()).reset()
        rig.peers.clear()
        await rig.accept()


async def test_a_hundred_strangers_at_once() -> None:
    """A crowd of strangers is dealt with, and a source in the middle of it gets its session."""
    async with make_rig() as rig:
        refused = 0

        async def disturb(index: int) -> None:
            nonlocal refused
            message: Message = (
                Ready() if index % 2 else hello(PRE, version=PROTOCOL_VERSION + 1 + index)
            )
            await rig.refusal(message)
            refused += 1

        async with trio.open_nursery() as nursery:
            for index in range(100):
                nursery.start_soon(disturb, index)
            nursery.start_soon(rig.accept)
        assert refused == 100
        assert LINES_A_SECOND_MAX <= len(rig.log) <= 100


async def test_a_source_that_goes_before_its_welcome_frees_the_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A precopy connection that broke before it was welcome does not count as a migration."""
    async with make_rig() as rig:
        peer = await rig.dial()
        admit = rig.admission._admit

        def admit_and_break(*arguments: object) -> object:
            peer.reset()
            return admit(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(rig.admission, "_admit", admit_and_break)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.admission.accept_session)
            await peer.send(hello(PRE, session=OTHER_SESSION))
            await wait_all_tasks_blocked()
            assert "broke" in rig.log[0]
            assert nursery.child_tasks
            rig.peers.clear()
            monkeypatch.undo()
            session = await rig.accept()
            assert session.session_id == SESSION


async def test_an_address_that_cannot_be_listened_on() -> None:
    """A port in use, or an address that is not this machine's, is one line for the user."""
    async with make_rig() as rig:
        host, port = rig.listener.address.rsplit(":", 1)
        with pytest.raises(MigrationError, match=r"cannot listen on 127\.0\.0\.1:.*in use"):
            async with open_listener(host, int(port), rig.log.append, SessionAdmission()):
                pytest.fail("two listen on one port")
    with bounded(), pytest.raises(MigrationError, match="cannot listen on 192"):
        async with open_listener("192.0.2.1", 0, rig.log.append, SessionAdmission(SECRET)):
            pytest.fail("this machine has no such address")


async def test_a_connection_that_cannot_be_accepted_is_logged(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the system has no descriptor left the listener goes on, and tries again."""
    autojump_clock.autojump_threshold = 0.1
    async with make_rig() as rig:
        failures = iter([OSError(24, "Too many open files"), ConnectionAbortedError(103, "gone")])

        class Failing:
            async def accept(self) -> object:
                await trio.lowlevel.checkpoint()
                for failure in failures:
                    raise failure
                return await taken()

        # The listener waits in accept already; what it calls next is ours.
        (door,) = rig.listener._doors
        listening = cast("TcpDoor", door)._sock
        taken = listening.accept
        monkeypatch.setattr(listening, "accept", Failing().accept)
        await rig.refusal(Ready())
        await rig.accept()
        monkeypatch.undo()
        assert [line.partition(": ")[2] for line in rig.log[:2]] == ["Too many open files", "gone"]


async def test_the_address_can_be_connected_to() -> None:
    """The address that is shown names the real port, with brackets around an IPv6 one."""
    log: list[str] = []
    async with make_rig() as rig:
        assert rig.listener.address.startswith("127.0.0.1:")
        assert not rig.listener.address.endswith(":0")
    try:
        async with open_listener("::1", 0, log.append, SessionAdmission()) as listener:
            assert listener.address.startswith("[::1]:")
    except* MigrationError:
        pytest.skip("this machine has no IPv6")
