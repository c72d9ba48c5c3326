"""Connecting: whatever listens there, the answer is an error with its reason, or connections."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from guest.streams.exchange import receive_exactly, send_all
from guest.streams.stream import GRANTED, NOT_ASKED
from guest.streams.tcp import PRIORITY, TcpStream
from protocol.channels import Channel
from protocol.credentials import NOTHING, Credentials
from protocol.errors import (
    AuthenticationFailed,
    ConnectionLost,
    MidstreamError,
    PeerAborted,
    RemoteProtocolError,
)
from protocol.limits import HELLO_SECONDS_MAX, NONCE_BYTES
from protocol.messages import PROTOCOL_VERSION, Abort, Hello, PassEnd, Ready, Welcome
from protocol.policy import preset
from protocol.proof import CHALLENGE_BYTES, OPENING_BYTES, PROOF_BYTES, TAG, DestProof
from source.connect import connect, prove
from tests.bounds import bounded, nothing_left
from tests.sides import SESSION
from tests.sockets import Peer, knowing, tcp_pair, tcp_streams, unused_port

Answer = Callable[[Peer], Awaitable[None]]

SECRET = Credentials(secret=b"correct horse battery")
ORDERED, VANILLA = preset("ordered"), preset("vanilla")


class Listening:
    """A listening socket whose connections are answered by a function, all at once."""

    def __init__(self, sock: trio.socket.SocketType, answer: Answer) -> None:
        """Take a listening socket."""
        self.port: int = sock.getsockname()[1]
        self.peers: list[Peer] = []
        self._sock = sock
        self._answer = answer

    async def run(self) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                sock, _ = await self._sock.accept()
                self.peers.append(Peer(sock))
                nursery.start_soon(self._converse, self.peers[-1])

    async def _converse(self, peer: Peer) -> None:
        # A source that got a wrong answer on one connection says no more on the other.
        with suppress(EOFError):
            await self._answer(peer)


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[Listening]:
    """Listen on loopback; afterwards every connection must have been closed by who made it."""
    with bounded(), socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with trio.socket.from_stdlib_socket(server.dup()) as sock:
            there = Listening(sock, answer)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(there.run)
                    yield there
                    await wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
                for peer in there.peers:
                    if peer.sock.fileno() >= 0:
                        await peer.wait_closed()
            finally:
                for peer in there.peers:
                    peer.close()


async def welcome(peer: Peer) -> None:
    """Answer as a destination does."""
    await peer.expect(Hello)
    await peer.send(Welcome(version=PROTOCOL_VERSION))


async def test_both_connections_say_hello_in_one_session() -> None:
    """A policy with two channels opens two connections, one a role, that share a session id."""
    hellos: list[Hello] = []

    async def note(peer: Peer) -> None:
        hellos.append(await peer.expect(Hello))
        await peer.send(Welcome(version=PROTOCOL_VERSION))

    with nothing_left():
        async with (
            listening(note) as there,
            connect("127.0.0.1", there.port, ORDERED) as connections,
        ):
            assert list(connections) == list(Channel)
            assert [hello.role for hello in hellos] == ["precopy", "postcopy"]
            assert hellos[0].session == hellos[1].session
            await connections[Channel.POSTCOPY].out.send(PassEnd(index=1))
            assert await there.peers[1].expect(PassEnd) == PassEnd(index=1)


async def test_each_migration_is_a_session_of_its_own() -> None:
    """Session ids are not used again."""
    sessions: set[bytes] = set()

    async def note(peer: Peer) -> None:
        sessions.add((await peer.expect(Hello)).session)
        await peer.send(Welcome(version=PROTOCOL_VERSION))

    async with listening(note) as there:
        for _ in range(2):
            async with connect("127.0.0.1", there.port, VANILLA):
                pass
        assert len(sessions) == 2


async def test_one_stream_needs_one_connection() -> None:
    """A policy without a channel of its own for requests opens the precopy connection alone."""
    async with (
        listening(welcome) as there,
        connect("127.0.0.1", there.port, VANILLA) as connections,
    ):
        assert list(connections) == [Channel.PRECOPY]
        assert len(there.peers) == 1


@pytest.mark.parametrize("policy", ["ordered", "priority-by-channel", "parallel", "vanilla"])
async def test_what_is_urgent_goes_first_where_the_policy_has_it_so(policy: str) -> None:
    """The postcopy connection alone is given a priority; what came of it is known."""
    asks = policy in ("ordered", "priority-by-channel")
    async with (
        listening(welcome) as there,
        connect("127.0.0.1", there.port, preset(policy)) as connections,
    ):
        for name, connection in connections.items():
            asked = asks and name is Channel.POSTCOPY
            assert connection.priority == (GRANTED if asked else NOT_ASKED)
            sock = cast("TcpStream", connection.out._stream)._sock
            priority = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
            assert priority == (PRIORITY if asked else 0)


async def test_all_addresses_of_a_name_are_tried() -> None:
    """Where nobody listens at one, the next is taken, and the second connection goes there, too."""
    with knowing("two.example", "127.0.0.2", "127.0.0.1"):
        async with (
            listening(welcome) as there,
            connect("two.example", there.port, ORDERED) as connections,
        ):
            assert [each.reached for each in connections.values()] == ["127.0.0.1"] * 2


async def test_both_connections_go_to_one_address() -> None:
    """Of a name with several machines' addresses the one that answered first gets both."""
    with knowing("moving.example", "127.0.0.1") as addresses:

        async def move(peer: Peer) -> None:
            await welcome(peer)
            # From now on the name is another machine's.
            addresses[:] = ["127.0.0.2"]

        async with (
            listening(move) as there,
            connect("moving.example", there.port, ORDERED) as connections,
        ):
            assert [each.reached for each in connections.values()] == ["127.0.0.1"] * 2
            assert len(there.peers) == 2


async def test_an_address_stands_in_brackets_in_a_message() -> None:
    """What is printed can be typed again."""
    with bounded(), pytest.raises(ConnectionLost, match=r"cannot connect to \[::1\]:1: "):
        async with connect("::1", 1, ORDERED):
            pytest.fail("somebody listens there")


async def test_sockets_do_not_hold_frames_back() -> None:
    """Small frames go at once, and the kernel may hold as much as it likes until postcopy."""
    async with (
        listening(welcome) as there,
        connect("127.0.0.1", there.port, ORDERED) as connections,
    ):
        for connection in connections.values():
            sock = cast("TcpStream", connection.out._stream)._sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)


async def test_nobody_listens() -> None:
    """An address without a listener is a lost connection with the system's reason."""
    port = unused_port()
    with nothing_left(), bounded(), pytest.raises(ConnectionLost) as caught:
        async with connect("127.0.0.1", port, ORDERED):
            pass
    assert str(caught.value) == f"cannot connect to 127.0.0.1:{port}: Connection refused"


async def test_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot be found is a lost connection too."""

    async def getaddrinfo(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    with bounded(), pytest.raises(ConnectionLost) as caught:
        async with connect("nowhere.invalid", 9, ORDERED):
            pass
    assert str(caught.value) == "cannot connect to nowhere.invalid:9: Name or service not known"


async def test_an_address_that_answers_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that does not even refuse is given as long as a hello is."""

    async def open_tcp_stream(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(ConnectionLost, match=r"cannot connect to 192\.0\.2\.1:9: no answer"):
        async with connect("192.0.2.1", 9, ORDERED):
            pass
    assert trio.current_time() == HELLO_SECONDS_MAX


async def close_at_once(peer: Peer) -> None:
    """End a connection that nobody has heard."""
    await trio.lowlevel.checkpoint()
    peer.close()


async def speak_http(peer: Peer) -> None:
    """Answer as a web server does to what it does not understand."""
    await peer.send_bytes(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


async def refuse(peer: Peer) -> None:
    """Refuse as a destination does."""
    await peer.expect(Hello)
    await peer.send(Abort(reason="a migration is under way here already"))


async def refuse_the_second(peer: Peer) -> None:
    """Welcome the precopy connection alone."""
    hello = await peer.expect(Hello)
    if hello.role == "precopy":
        await peer.send(Welcome(version=PROTOCOL_VERSION))
    else:
        await peer.send(Abort(reason="one is enough"))


async def answer_with_another_version(peer: Peer) -> None:
    """Be a destination of another time."""
    await peer.send(Welcome(version=PROTOCOL_VERSION + 1))


async def answer_with_something_else(peer: Peer) -> None:
    """Be a destination that is confused."""
    await peer.send(Ready())


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (close_at_once, ConnectionLost, "precopy connection"),
        (speak_http, RemoteProtocolError, "is no midstream destination"),
        (refuse, PeerAborted, "a migration is under way here already"),
        (refuse_the_second, PeerAborted, "one is enough"),
        (answer_with_another_version, RemoteProtocolError, "answered the hello with something"),
        (answer_with_something_else, RemoteProtocolError, "answered the hello with something"),
    ],
)
async def test_a_wrong_answer_ends_it(
    answer: Answer, error: type[MidstreamError], reason: str
) -> None:
    """Whoever does not say Welcome is named in the error, and both connections are closed."""
    with nothing_left():
        async with listening(answer) as there:
            with pytest.raises(error, match=reason):
                async with connect("127.0.0.1", there.port, ORDERED):
                    pytest.fail("the connections were given out")


async def test_a_silent_listener_is_given_up(autojump_clock: MockClock) -> None:
    """Who takes the connection and says nothing is waited for as long as a hello takes."""

    async def say_nothing(peer: Peer) -> None:
        await peer.expect(Hello)

    autojump_clock.autojump_threshold = 0.1
    with nothing_left():
        async with listening(say_nothing) as there:
            with pytest.raises(ConnectionLost, match="did not answer the hello in 10 s"):
                async with connect("127.0.0.1", there.port, ORDERED):
                    pytest.fail("the connections were given out")
            assert trio.current_time() == HELLO_SECONDS_MAX


async def test_what_is_done_with_the_connections_may_fail() -> None:
    """An error inside the block closes both connections and goes on."""
    with nothing_left():
        async with listening(welcome) as there:
            with pytest.raises(ZeroDivisionError):
                async with connect("127.0.0.1", there.port, ORDERED):
                    raise ZeroDivisionError


async def failed_proof(*answers: bytes) -> MidstreamError:
    """Prove before a destination that says this and goes; return the error."""
    with tcp_pair() as (near, far):
        await send_all(TcpStream(far), b"".join(answers))
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(MidstreamError) as caught:
            await prove(TcpStream(near), "127.0.0.1", Channel.PRECOPY, SESSION, SECRET)
        return caught.value


async def test_with_nothing_to_prove_nothing_is_sent() -> None:
    """Without credentials the connection is as it was."""
    with tcp_streams() as (near, far):
        assert await prove(near, "127.0.0.1", Channel.PRECOPY, SESSION, NOTHING) is near
        near.close()
        with pytest.raises(EOFError):
            await receive_exactly(far, 1)


async def test_a_destination_that_knows_the_secret() -> None:
    """The source proves itself first, and goes on when the destination has, too."""
    with tcp_streams() as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prove, near, "127.0.0.1", Channel.PRECOPY, SESSION, SECRET)
            opening = await receive_exactly(far, OPENING_BYTES)
            assert SECRET.secret is not None
            proof = DestProof(SECRET.secret, opening, bytes(NONCE_BYTES))
            await send_all(far, proof.challenge)
            assert proof.holds(await receive_exactly(far, PROOF_BYTES))
            await send_all(far, proof.answer)


@pytest.mark.parametrize("said", [b"", TAG, TAG + bytes(NONCE_BYTES), TAG + bytes(NONCE_BYTES + 9)])
async def test_an_end_in_between_is_a_lost_connection(said: bytes) -> None:
    """A destination that goes before it has proved itself is one that cannot be migrated to."""
    error = await failed_proof(said)
    assert isinstance(error, ConnectionLost)
    assert "connection was closed, before anything was proved" in str(error)


async def test_a_destination_that_does_not_know_the_secret() -> None:
    """Whoever accepts a proof without having one is not believed, whatever it answers."""
    for answer in (TAG + bytes(32), bytes(CHALLENGE_BYTES), b"\xff" * CHALLENGE_BYTES):
        error = await failed_proof(TAG + bytes(NONCE_BYTES), answer)
        assert isinstance(error, AuthenticationFailed)


async def test_nothing_but_the_exchange_is_read() -> None:
    """What follows the answer stays in the socket for the channel."""
    with tcp_streams() as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prove, near, "127.0.0.1", Channel.PRECOPY, SESSION, SECRET)
            opening = await receive_exactly(far, OPENING_BYTES)
            proof = DestProof(SECRET.secret or b"", opening, bytes(NONCE_BYTES))
            await send_all(far, proof.challenge)
            await receive_exactly(far, PROOF_BYTES)
            await send_all(far, proof.answer + b"next")
        assert await receive_exactly(near, 4) == b"next"
