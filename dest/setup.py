"""The first message of a migration: what comes, and whether this side can take it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dest.admission import Session
from dest.channel import InChannel
from guest.spec import ProgramSpec
from guest.streams.exchange import patience
from protocol.capabilities import ANSWERS, CHECKSUM
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from protocol.limits import (
    CHUNK_BYTES_MAX,
    HELLO_SECONDS_MAX,
    SETUP_SECONDS_MAX,
    VCPU_COUNT_MAX,
)
from protocol.messages import Setup
from protocol.policy import Policy
from protocol.records import unpack_plain


@dataclass(frozen=True)
class Plan:
    """What a source means to send.

    Attributes:
        geometry: The guest's blocks.
        policy: How pages will come.
        chunk_bytes: The most that one frame of them has.
        spec: What the guest's vCPUs do.
        checked: A Checksum announces each frame of pages.
        is_told: The source tells how it answered page requests.
    """

    geometry: Geometry
    policy: Policy
    chunk_bytes: int
    spec: ProgramSpec
    checked: bool = False
    is_told: bool = False

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The connections that pages may come over."""
        return tuple(Channel) if self.policy.own_channel else (Channel.PRECOPY,)


async def receive_setup(session: Session) -> Plan:
    """Read the Setup, and wait for the second connection if the policy has one.

    Raises:
        ConnectionLost: The source is gone.
        PeerAborted: The source ended the session.
        RemoteProtocolError: Not a Setup, not one that makes sense, or nothing in time.
    """
    plan = await _receive_plan(session.channels[Channel.PRECOPY])
    plan = replace(
        plan,
        checked=CHECKSUM in session.capabilities,
        is_told=ANSWERS in session.capabilities,
    )
    if plan.policy.own_channel:
        with patience(HELLO_SECONDS_MAX, "no second connection came", RemoteProtocolError):
            await session.paired.wait()
    return plan


async def _receive_plan(main: InChannel) -> Plan:
    with patience(HELLO_SECONDS_MAX, "no setup came", RemoteProtocolError):
        message = await main.receive()
    if not isinstance(message, Setup):
        raise RemoteProtocolError(f"{type(message).__name__} came where Setup was due")
    if not 0 < message.chunk_bytes <= CHUNK_BYTES_MAX or message.chunk_bytes % TARGET_PAGE_BYTES:
        raise RemoteProtocolError(f"chunks of {message.chunk_bytes} bytes are not allowed")
    payload = bytearray(message.payload_bytes)
    # With a recorded trace in it, this is what takes time on a slow link.
    with patience(SETUP_SECONDS_MAX, "no whole setup came", RemoteProtocolError):
        await main.receive_payload(memoryview(payload), lambda _: None)
    try:
        geometry = Geometry(tuple(RamBlock(*block) for block in message.blocks))
        policy = Policy.from_switches(message.policy, message.switches)
    except LocalProtocolError as error:
        raise RemoteProtocolError(f"Setup: {error}") from error
    # The program's fields and those of its trace; in an array there is one rate a vCPU.
    plain = unpack_plain(
        payload, "the guest's specification", arrays_max=1, maps_max=2, items_max=VCPU_COUNT_MAX
    )
    return Plan(geometry, policy, message.chunk_bytes, ProgramSpec.from_plain(plain, geometry))
