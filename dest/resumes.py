"""Gathers the connections with which a source comes back to a session that broke."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import trio

from dest.channel import InChannel
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.messages import Resume


@dataclass
class Attempt:
    """The connections of one attempt as they come; a `Session` for whoever greets them.

    Attributes:
        number: As the source counts.
        channels: Those whose Resume was accepted.
        claimed: Set from the start: nobody has to wait for the other.
    """

    number: int
    resumes: Resumes
    channels: dict[Channel, InChannel] = field(default_factory=dict)
    claimed: trio.Event = field(default_factory=trio.Event)
    capabilities: tuple[str, ...] = ()
    _welcomed: set[Channel] = field(default_factory=set)

    def welcomed(self, name: Channel) -> None:
        """Say that a connection has its Welcome."""
        self._welcomed.add(name)
        if self._welcomed == self.resumes.wanted:
            self.resumes.complete(self)


class Resumes:
    """The attempts to resume one session; the newest counts, whatever became of those before."""

    def __init__(
        self, session_id: bytes, wanted: Iterable[Channel], capabilities: tuple[str, ...]
    ) -> None:
        """Begin with no attempt.

        Args:
            session_id: Whose.
            wanted: The connections that make an attempt whole.
            capabilities: What is in force, and stays so.
        """
        self.session_id = session_id
        self.wanted = set(wanted)
        self._capabilities = capabilities
        self._newest: Attempt | None = None
        self._whole: Attempt | None = None
        self._taken: Attempt | None = None
        self._changed = trio.Event()

    def admit(self, channel: InChannel, message: Resume) -> tuple[Channel, Attempt]:
        """Put a connection where it belongs; return its role and its attempt.

        Raises:
            RemoteProtocolError: It fits nowhere.
        """
        if message.session != self.session_id:
            raise RemoteProtocolError("another session is under way here")
        name = next((each for each in self.wanted if each.value == message.role), None)
        if name is None:
            raise RemoteProtocolError(f"unknown role {message.role[:40]!r}")
        attempt = self._attempt(message.attempt)
        if name in attempt.channels:
            raise RemoteProtocolError(f"the attempt has a {message.role} connection already")
        attempt.channels[name] = channel
        channel.name = name
        return name, attempt

    def complete(self, attempt: Attempt) -> None:
        """Say that an attempt has all its connections."""
        if attempt is self._newest:
            self._whole = attempt
            self._changed.set()

    async def wait(self) -> None:
        """Wait until an attempt is whole; `take` gives it out."""
        while self._whole is None:
            await self._changed.wait()
            self._changed = trio.Event()

    async def take(self) -> Mapping[Channel, InChannel]:
        """Return the connections of the newest attempt, when it is whole."""
        await self.wait()
        assert self._whole is not None
        self._taken, self._whole = self._whole, None
        return self._taken.channels

    def _attempt(self, number: int) -> Attempt:
        newest = self._newest
        if newest is None or number > newest.number:
            if newest is not None and newest is not self._taken:
                for channel in newest.channels.values():
                    channel.close()
            self._whole = None
            self._newest = newest = Attempt(number, self, capabilities=self._capabilities)
            newest.claimed.set()
        elif number < newest.number:
            raise RemoteProtocolError(f"attempt {number} is over, {newest.number} has begun")
        return newest
