"""What a new connection has to prove, in every combination of what the two sides were given."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import trio

from dest.greeting import Newcomer, prove
from guest.streams.exchange import receive_exactly, send_all
from guest.streams.stream import Stream
from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.credentials import NOTHING, Credentials
from protocol.errors import AuthenticationFailed, ConnectionLost, MidstreamError
from protocol.limits import NONCE_BYTES
from protocol.messages import PROTOCOL_VERSION, Hello, Welcome
from protocol.proof import OPENING_BYTES, PROOF_BYTES, TAG, SourceProof
from source import connect as connecting
from source.channel import OutChannel
from source.returns import ReturnPath
from tests.certificates import tls_credentials
from tests.sides import SESSION
from tests.sockets import tcp_pair

SECRET, OTHER = b"correct horse battery", b"wrong horse battery"
HELLO = Hello(version=PROTOCOL_VERSION, session=SESSION, role="postcopy")

DIFFER = "the secrets of the source and the destination differ"
NONE_HERE = "the source has a secret and the destination has none"
DEMANDED = "the destination demands a secret"
TLS_ONLY = "the destination speaks TLS only"
NO_TLS = "the source speaks TLS and the destination does not"

# What source and destination have (TLS, secret), and what both say; nothing where they agree.
CASES = [
    ((False, None), (False, None), ""),
    ((False, SECRET), (False, SECRET), ""),
    ((True, None), (True, None), ""),
    ((True, SECRET), (True, SECRET), ""),
    ((False, OTHER), (False, SECRET), DIFFER),
    ((True, OTHER), (True, SECRET), DIFFER),
    ((False, None), (False, SECRET), DEMANDED),
    ((True, None), (True, SECRET), DEMANDED),
    ((False, SECRET), (False, None), NONE_HERE),
    ((True, SECRET), (True, None), NONE_HERE),
    ((False, None), (True, None), TLS_ONLY),
    ((False, SECRET), (True, SECRET), TLS_ONLY),
    ((True, None), (False, None), NO_TLS),
    ((True, SECRET), (False, SECRET), NO_TLS),
]


class Pair:
    """Both sides of one connection, and how it ended for each."""

    def __init__(self, source: Credentials, dest: Credentials) -> None:
        """Begin nothing yet."""
        self.source, self.dest = source, dest
        self.reasons: list[str] = []
        self.welcome = False

    async def run(self) -> None:
        """Connect, prove, say hello and hear the welcome, or why not."""
        with tcp_pair() as (near, far):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._play_source, TcpStream(near))
                nursery.start_soon(self._play_dest, TcpStream(far))

    async def _play_source(self, plain: Stream) -> None:
        name = Channel.POSTCOPY
        try:
            stream = await connecting.prove(plain, "127.0.0.1", name, SESSION, self.source)
            await OutChannel(name, stream).send(HELLO)
            answer, _ = await ReturnPath(name, stream).receive()
            self.welcome = isinstance(answer, Welcome)
        except MidstreamError as error:
            self.reasons.append(str(error))

    async def _play_dest(self, plain: Stream) -> None:
        try:
            newcomer = await prove(plain, self.dest)
            hello = await newcomer.channel.receive()
            assert isinstance(hello, Hello)
            newcomer.check(hello)
            await newcomer.channel.send(Welcome(version=PROTOCOL_VERSION))
        except MidstreamError as error:
            self.reasons.append(str(error))
            plain.close()


@pytest.mark.parametrize(("source", "dest", "reason"), CASES)
async def test_both_sides_agree_or_say_why(
    tmp_path: Path, source: tuple[bool, bytes | None], dest: tuple[bool, bytes | None], reason: str
) -> None:
    """Whatever the two sides were given, they come together or both users are told what differs."""
    with_tls = tls_credentials(tmp_path)
    pair = Pair(
        Credentials(tls=with_tls[0].tls if source[0] else None, secret=source[1]),
        Credentials(tls=with_tls[1].tls if dest[0] else None, secret=dest[1]),
    )
    await pair.run()
    assert pair.welcome is not bool(reason)
    assert len(pair.reasons) == (2 if reason else 0)
    if reason != NO_TLS:
        assert all(reason in each for each in pair.reasons)
    else:
        # A source that waits for TLS can be told nothing.
        assert pair.reasons[0] == NO_TLS
        assert "does the destination speak TLS?" in pair.reasons[1]


async def test_a_hello_may_come_with_what_is_looked_at() -> None:
    """Without anything to prove, the bytes that tell the language are the hello's own."""
    with tcp_pair() as (near, far):
        await OutChannel(Channel.PRECOPY, TcpStream(near)).send(HELLO)
        newcomer = await prove(TcpStream(far), NOTHING)
        assert await newcomer.channel.receive() == HELLO


@pytest.mark.parametrize("after", [0, 2, 4, OPENING_BYTES, OPENING_BYTES + PROOF_BYTES - 1])
async def test_who_goes_in_between_is_a_lost_connection(after: int) -> None:
    """Wherever the source breaks off, nothing else is made of it."""
    opening = SourceProof(SECRET, Channel.PRECOPY, SESSION, bytes(NONCE_BYTES)).opening
    with tcp_pair() as (near, far):
        await send_all(TcpStream(near), (opening + bytes(PROOF_BYTES))[:after])
        near.shutdown(1)
        with pytest.raises(ConnectionLost, match="closed the new connection"):
            await prove(TcpStream(far), Credentials(secret=SECRET))


async def test_nothing_is_told_before_the_source_has_proved() -> None:
    """Who cannot prove anything gets a random number and a refusal: nothing to try secrets on."""
    opening = SourceProof(OTHER, Channel.PRECOPY, SESSION, bytes(NONCE_BYTES)).opening
    answers = set()
    for _ in range(2):
        with tcp_pair() as (near, far):
            await send_all(TcpStream(near), opening + bytes(PROOF_BYTES))
            with pytest.raises(AuthenticationFailed, match=DIFFER):
                await prove(TcpStream(far), Credentials(secret=SECRET))
            challenge = await receive_exactly(TcpStream(near), len(TAG) + NONCE_BYTES)
            answers.add(await receive_exactly(TcpStream(near), len(TAG) + 32))
            assert challenge[: len(TAG)] == TAG
    # The same refusal each time: it depends on nothing secret.
    assert len(answers) == 1


async def test_a_stranger_gets_no_memory() -> None:
    """However much a stranger sends, a few hundred bytes of it are held before it has proved."""
    with tcp_pair() as (near, far):
        opening = SourceProof(OTHER, Channel.PRECOPY, SESSION, bytes(NONCE_BYTES)).opening
        await send_all(TcpStream(near), opening + b"x" * 60_000)
        tracemalloc.start()
        try:
            with pytest.raises(AuthenticationFailed, match=DIFFER):
                await prove(TcpStream(far), Credentials(secret=SECRET))
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # Most of it is what the interpreter and trio take for the calls themselves.
    assert peak_bytes < 30_000


def test_a_newcomer_without_proof_may_say_any_hello() -> None:
    """Where nothing is demanded, a hello is checked by the listener alone."""
    Newcomer(channel=None, proof=None).check(HELLO)  # type: ignore[arg-type]
