"""Connections that come back: the newest attempt counts, and only for its own session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import cast

import pytest
import trio

from dest.admission import Resumes
from dest.channel import InChannel
from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.messages import PROTOCOL_VERSION, Resume
from tests.bounds import bounded
from tests.sides import SESSION

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY


def resume(role: str, attempt: int = 1, session: bytes = SESSION) -> Resume:
    """Return what a source says."""
    return Resume(version=PROTOCOL_VERSION, session=session, role=role, attempt=attempt)


class Rig:
    """A session's resumes, and connections to resume it with."""

    def __init__(self, stack: ExitStack) -> None:
        """Start with no attempt."""
        self.resumes = Resumes(SESSION, Channel, ("recover",))
        self._stack = stack

    def channel(self) -> InChannel:
        """Return a connection."""
        near, far = trio.socket.socketpair()
        self._stack.callback(near.close)
        self._stack.callback(far.close)
        return InChannel(TcpStream(near))

    def come(self, name: Channel, attempt: int = 1) -> InChannel:
        """Have a connection come, and be welcomed."""
        channel = self.channel()
        role, found = self.resumes.admit(channel, resume(name.value, attempt))
        assert role is name is channel.name
        assert found.claimed.is_set()
        assert found.capabilities == ("recover",)
        found.welcomed(name)
        return channel


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """Resumes of one session."""
    with ExitStack() as stack:
        yield Rig(stack)


def is_open(channel: InChannel) -> bool:
    """Tell whether a connection was not closed here."""
    return cast("TcpStream", channel._stream)._sock.fileno() >= 0


@pytest.mark.parametrize("order", [(PRE, POST), (POST, PRE)])
async def test_an_attempt_is_whole(rig: Rig, order: tuple[Channel, Channel]) -> None:
    """With its last connection, whichever that is, an attempt is given out, once."""
    with bounded():
        first = rig.come(order[0])
        with trio.move_on_after(0):
            await rig.resumes.wait()
            pytest.fail("half an attempt was given out")
        second = rig.come(order[1])
        assert await rig.resumes.take() == {order[0]: first, order[1]: second}
        with trio.move_on_after(0):
            await rig.resumes.wait()
            pytest.fail("an attempt was given out twice")


async def test_a_later_attempt_replaces_an_earlier_one(rig: Rig) -> None:
    """Connections of an attempt that came to nothing are closed, whole or not."""
    with bounded():
        old = [rig.come(PRE, 1), rig.come(PRE, 2), rig.come(POST, 2)]
        new = {PRE: rig.come(PRE, 5), POST: rig.come(POST, 5)}
        assert not any(map(is_open, old))
        assert await rig.resumes.take() == new
        third = {PRE: rig.come(PRE, 6), POST: rig.come(POST, 6)}
        # What was given out is the migration's to close.
        assert all(map(is_open, new.values()))
        assert await rig.resumes.take() == third


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (resume("precopy", session=bytes(16)), "another session"),
        (resume("third"), "unknown role 'third'"),
        (resume("precopy", 3), "has a precopy connection already"),
        (resume("postcopy", 2), "attempt 2 is over, 3 has begun"),
    ],
)
async def test_what_fits_nowhere(rig: Rig, message: Resume, reason: str) -> None:
    """Another session, an unknown role, a role taken, or an attempt of the past is refused."""
    rig.come(PRE, 3)
    with pytest.raises(RemoteProtocolError, match=reason):
        rig.resumes.admit(rig.channel(), message)
