"""What opens, keeps up and ends a session: who is there, what migrates, and why it ends."""

from __future__ import annotations

from typing import ClassVar

from protocol.fields import Message, message
from protocol.limits import (
    GUEST_SPEC_BYTES_MAX,
)
from protocol.text import one_line


@message
class Hello(Message):
    """Opens each connection, source to destination: which session, which role in it.

    Attributes:
        version: The sender's `PROTOCOL_VERSION`.
        session: 16 random bytes that pair the connections of one migration.
        role: "precopy" or "postcopy".
        capabilities: What the source can do beyond the base protocol.
    """

    kind: ClassVar[int] = 1
    version: int
    session: bytes
    role: str
    capabilities: tuple[str, ...] = ()


@message
class Welcome(Message):
    """Answers a Hello: the connection is accepted, with these capabilities in force."""

    kind: ClassVar[int] = 2
    version: int
    capabilities: tuple[str, ...] = ()


@message
class Abort(Message):
    """Ends the session from either side; the last message on the connection.

    Attributes:
        reason: One line for the peer's user; of any other text its `one_line` is taken.
        cancelled: The sender's user wanted it, nothing went wrong.
    """

    kind: ClassVar[int] = 3
    reason: str
    cancelled: bool = False

    def __post_init__(self) -> None:
        """Make a line of the reason: whatever ends a session, the peer can be told."""
        object.__setattr__(self, "reason", one_line(self.reason))


@message
class Setup(Message):
    """What migrates and how; the payload is the guest's specification.

    Attributes:
        blocks: (name, length in bytes, page size in bytes) of each RAMBlock.
        policy: The name of the source's policy, for people.
        chunk_bytes: The most that one PageData carries.
        switches: What the policy does, see `protocol.policy`.
    """

    kind: ClassVar[int] = 4
    payload_bytes_max: ClassVar[int] = GUEST_SPEC_BYTES_MAX
    blocks: tuple[tuple[str, int, int], ...]
    policy: str
    chunk_bytes: int
    switches: tuple[str, ...]


@message
class Ready(Message):
    """The destination has the memory and the vCPUs of a Setup; pages may come."""

    kind: ClassVar[int] = 5


@message
class Ping(Message):
    """Says that the sender is alive, where it has had nothing else to say for a while."""

    kind: ClassVar[int] = 20


@message
class Resume(Message):
    """Opens each connection of a session that is broken, in the place of a Hello.

    Attributes:
        version: The sender's `PROTOCOL_VERSION`.
        session: The session's 16 bytes.
        role: "precopy" or "postcopy".
        attempt: Which attempt to resume this is, from 1; a later one replaces an earlier one.
    """

    kind: ClassVar[int] = 23
    version: int
    session: bytes
    role: str
    attempt: int
