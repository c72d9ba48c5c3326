"""Coming back to a destination: how often, for how long, where to, and what it says."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from protocol import events
from protocol.channels import Channel
from protocol.errors import (
    AuthenticationFailed,
    ConnectionLost,
    MigrationError,
    PeerAborted,
    RemoteProtocolError,
)
from protocol.events import ignore
from protocol.messages import PROTOCOL_VERSION, Abort, Resume, Welcome
from source.connect import Connections
from source.endings import Break
from source.reconnect import Reconnector
from tests.bounds import BOUND_SECONDS, bounded
from tests.clocks import trio_ns
from tests.guests import small_geometry
from tests.sides import source_config
from tests.sockets import Peer, unused_port
from tests.stories import Recorder

LOSS = ConnectionLost("the cable is out", "precopy")


async def nothing_more(connections: Connections) -> int:
    """Recover without hearing anything; return how many connections there are."""
    return len(connections)


async def welcome(stream: trio.SocketStream, heard: list[Resume]) -> None:
    """Be the destination that was left."""
    peer = Peer(stream.socket)
    heard.append(await peer.expect(Resume))
    await peer.send(Welcome(version=PROTOCOL_VERSION, capabilities=("recover",)))
    await peer.wait_closed()


async def say_nothing(stream: trio.SocketStream) -> None:
    """Listen, until the other side has enough of it."""
    with suppress(trio.BrokenResourceError):
        async for _ in stream:
            pass


@asynccontextmanager
async def serving(
    answer: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[tuple[trio.Nursery, int]]:
    """Answer connections on loopback; yields a nursery, too."""
    with bounded():
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            yield nursery, listener.socket.getsockname()[1]
            nursery.cancel_scope.cancel()


async def test_time_is_up(autojump_clock: MockClock) -> None:
    """Where nobody listens attempts are made until the time is over, and not much longer."""
    config = source_config(small_geometry(), unused_port(), reconnect_seconds=7.0)
    told = Recorder()
    reconnector = Reconnector(config, told, now_ns=trio_ns)
    with bounded(100):
        reconnector.broke(Break(LOSS))
        began = trio.current_time()
        async with AsyncExitStack() as stack:
            with pytest.raises(ConnectionLost) as caught:
                await reconnector.reconnect(LOSS, stack, nothing_more)
        assert 7 <= trio.current_time() - began < 8
    assert str(caught.value).startswith(
        "the cable is out; it could not be resumed in 7 s: cannot connect to 127.0.0.1:"
    )
    assert caught.value.channel == "precopy"
    assert not reconnector.attempts.trying
    attempts = told.of(events.ResumeAttempt)
    assert [attempt["attempt"] for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert len(attempts) == 9
    assert {attempt["outcome"] for attempt in attempts} == {"failed"}
    assert all("Connection refused" in attempt["reason"] for attempt in attempts)


async def test_another_address() -> None:
    """A source that is told of another address tries it at once, with its session and its count.

    Whoever told it hears how that went, and what goes on.
    """
    heard: list[Resume] = []
    lines: list[str] = []
    config = source_config(small_geometry(), unused_port(), reconnect_seconds=BOUND_SECONDS)
    reconnector = Reconnector(config, ignore, lines.append, now_ns=trio_ns)
    async with serving(partial(welcome, heard=heard)) as (nursery, port):
        reconnector.broke(Break(LOSS))
        wrong = unused_port()

        async def tell() -> None:
            with pytest.raises(MigrationError) as caught:
                await reconnector.try_at("127.0.0.1", wrong)
            assert re.fullmatch(
                f"cannot connect to 127.0.0.1:{wrong}: Connection refused; "
                f"it goes on trying 127.0.0.1:{wrong} for [0-9]+ s",
                str(caught.value),
            )
            assert await reconnector.try_at("127.0.0.1", port) == f"resumed at 127.0.0.1:{port}"

        async with AsyncExitStack() as stack:
            nursery.start_soon(tell)
            connections, count = await reconnector.reconnect(LOSS, stack, nothing_more)
            assert (list(connections), count) == (list(Channel), 2)
            await trio.testing.wait_all_tasks_blocked()
    assert [resume.role for resume in heard] == ["precopy", "postcopy"]
    assert {resume.session for resume in heard} == {reconnector.session}
    (attempt,) = {resume.attempt for resume in heard}
    assert lines[-1] == f"attempt {attempt} to resume at 127.0.0.1:{port}: resumed"
    assert "Connection refused" in lines[-2]


async def test_another_address_does_not_wait_for_an_attempt() -> None:
    """A stranger that says nothing is let go as soon as there is another address to try."""
    met = trio.Event()

    async def meet(stream: trio.SocketStream) -> None:
        met.set()
        await say_nothing(stream)

    heard: list[Resume] = []
    told = Recorder()
    async with (
        serving(meet) as (_, silent),
        serving(partial(welcome, heard=heard)) as (nursery, port),
    ):
        config = source_config(small_geometry(), silent, reconnect_seconds=BOUND_SECONDS)
        reconnector = Reconnector(config, told, now_ns=trio_ns)
        reconnector.broke(Break(LOSS))

        async def tell() -> None:
            await met.wait()
            await reconnector.try_at("127.0.0.1", port)

        async with AsyncExitStack() as stack:
            nursery.start_soon(tell)
            await reconnector.reconnect(LOSS, stack, nothing_more)
    first, second = told.of(events.ResumeAttempt)
    assert (first["outcome"], second["outcome"]) == ("failed", "resumed")
    assert first["reason"] == "another address is tried"


async def test_an_address_is_superseded() -> None:
    """Who told of an address hears it when another word follows before anything came of his."""
    async with serving(say_nothing) as (_, silent):
        config = source_config(small_geometry(), silent, reconnect_seconds=BOUND_SECONDS)
        reconnector = Reconnector(config, ignore, now_ns=trio_ns)
        reconnector.broke(Break(LOSS))
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            nursery.start_soon(reconnector.reconnect, LOSS, stack, nothing_more)
            first = Outcome()
            nursery.start_soon(first.of, reconnector.try_at, "127.0.0.1", silent)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(Outcome().of, reconnector.try_at, "127.0.0.1", silent)
            await first.known.wait()
            assert "told of another address meanwhile; it goes on" in first.text
            nursery.cancel_scope.cancel()


class Outcome:
    """What becomes of a call that fails."""

    def __init__(self) -> None:
        """Wait for it."""
        self.text = ""
        self.known = trio.Event()

    async def of(self, call: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Make the call."""
        with pytest.raises(MigrationError) as caught:
            await call(*arguments)
        self.text = str(caught.value)
        self.known.set()


async def refuse(stream: trio.SocketStream) -> None:
    """Turn away who resumes, as a destination does that knows of no such session."""
    peer = Peer(stream.socket)
    await peer.expect(Resume)
    await peer.send(Abort(reason="no migration is under way here"))
    stream.socket.shutdown(socket.SHUT_WR)
    await peer.wait_closed()


async def be_of_another_version(stream: trio.SocketStream) -> None:
    """Welcome as a later version would."""
    peer = Peer(stream.socket)
    await peer.expect(Resume)
    await peer.send(Welcome(version=PROTOCOL_VERSION + 1, capabilities=()))
    await peer.wait_closed()


def say(data: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """Return who says some bytes to everybody, and closes."""

    async def answer(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            await stream.receive_some()

    return answer


STRANGERS: dict[str, Callable[[trio.SocketStream], Awaitable[None]]] = {
    "refuses": refuse,
    "another version": be_of_another_version,
    "SSH": say(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    "HTTP": say(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
    "TLS alert": say(bytes.fromhex("15030300020246")),
    "zeros": say(bytes(64)),
    "nothing": say(b""),
}


@pytest.mark.parametrize("kind", STRANGERS)
async def test_no_answer_ends_the_attempts(kind: str) -> None:
    """Whatever is found at the address, however often: attempts go on until time is up."""
    met = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal met
        met += 1
        if met <= 4:
            await STRANGERS[kind](stream)
        else:
            await welcome(stream, [])

    told = Recorder()
    async with serving(answer) as (_, port):
        config = source_config(small_geometry(), port, reconnect_seconds=BOUND_SECONDS)
        reconnector = Reconnector(config, told, now_ns=trio_ns)
        reconnector.broke(Break(LOSS))
        async with AsyncExitStack() as stack:
            await reconnector.reconnect(LOSS, stack, nothing_more)
    outcomes = [attempt["outcome"] for attempt in told.of(events.ResumeAttempt)]
    assert outcomes == ["failed"] * 4 + ["resumed"]
    assert all(attempt["reason"] for attempt in told.of(events.ResumeAttempt)[:4])


async def test_who_welcomes_and_is_not_the_one_is_a_stranger_too() -> None:
    """What fails between the welcome and the recovery is a failed attempt, even a mistake here."""
    errors = [
        PeerAborted("the destination ended the migration: no", "no"),
        RemoteProtocolError("Ready came where Standing was due"),
        AuthenticationFailed("no"),
        ConnectionLost("gone"),
        ValueError("a mistake"),
        ExceptionGroup("several", [ConnectionLost("one"), RemoteProtocolError("another")]),
    ]
    expected = [
        "refused: no", "refused: Ready came where Standing was due", "refused: no", "gone",
        "ValueError: a mistake", "refused: another",
    ]  # fmt: skip
    rest = list(errors)

    async def recover(_: Connections) -> str:
        if rest:
            raise rest.pop(0)
        return "the right one"

    told = Recorder()
    heard: list[Resume] = []
    async with serving(partial(welcome, heard=heard)) as (_, port):
        config = source_config(small_geometry(), port, reconnect_seconds=BOUND_SECONDS)
        reconnector = Reconnector(config, told, now_ns=trio_ns)
        reconnector.broke(Break(LOSS))
        async with AsyncExitStack() as stack:
            _, found = await reconnector.reconnect(LOSS, stack, recover)
    assert found == "the right one"
    assert [each["reason"] for each in told.of(events.ResumeAttempt)] == [*expected, ""]
    # Each attempt has closed its connections before the next.
    assert [resume.attempt for resume in heard] == [n for n in range(1, 8) for _ in Channel]


@pytest.mark.parametrize("host", ["a" * 70, "x..y", "no such host", "a\0b"])
async def test_a_host_that_cannot_be_one(host: str) -> None:
    """A mistake in an address that a user types is told, and costs nothing."""
    heard: list[Resume] = []
    async with serving(partial(welcome, heard=heard)) as (nursery, port):
        config = source_config(small_geometry(), unused_port(), reconnect_seconds=BOUND_SECONDS)
        reconnector = Reconnector(config, ignore, now_ns=trio_ns)
        reconnector.broke(Break(LOSS))

        async def tell() -> None:
            with pytest.raises(MigrationError, match="it goes on trying"):
                await reconnector.try_at(host, 1)
            await reconnector.try_at("127.0.0.1", port)

        async with AsyncExitStack() as stack:
            nursery.start_soon(tell)
            await reconnector.reconnect(LOSS, stack, nothing_more)
    assert len(heard) == 2
