"""Midstream's own source as a destination's peer: its Setup, its keepalive, its verdict."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio

from dest.admission import Resumes, Session, SessionAdmission
from dest.channel import InChannel
from dest.config import DestConfig
from dest.connection import DRAIN_SECONDS_MAX
from dest.executor import Executor
from dest.peer import Plan, Turns
from dest.phases import Closing
from dest.receiver import Receiver
from dest.steps import Terms
from guest.spec import ProgramSpec
from guest.streams.exchange import patience
from guest.streams.keepalive import keep_alive
from guest.streams.network import Network, TcpNetwork
from protocol.channels import Channel
from protocol.errors import ConnectionLost, LocalProtocolError, RemoteProtocolError, WrongMemory
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from protocol.limits import (
    CHUNK_BYTES_MAX,
    HELLO_SECONDS_MAX,
    SETUP_SECONDS_MAX,
    VCPU_COUNT_MAX,
)
from protocol.messages import Setup, Verdict
from protocol.pageset import PageSet
from protocol.policy import Policy
from protocol.records import unpack_plain, unpack_record
from protocol.report import Result, SourcePart, assemble
from protocol.session_messages import ANSWERS, CHECKSUM, KEEPALIVE, RECOVER
from protocol.states import Lifecycle

# How long the source is given to close first, once it has the last word.
_LINGER_SECONDS_MAX = 2.0


class MidstreamPeer:
    """A midstream's source; see `dest.peer.Peer`."""

    def __init__(self, config: DestConfig, network: Network | None = None) -> None:
        """Wait for nobody yet.

        Args:
            config: What the user said.
            network: Where it listens; None for the machine's own.
        """
        self.admission = SessionAdmission(config.credentials)
        self.network = network or TcpNetwork(config.silence_seconds_max, dscp=config.dscp)
        self.channels: Mapping[Channel, InChannel] = {}
        self._silence_seconds_max = config.silence_seconds_max
        self._session: Session
        self._plan: Plan
        self._resumes: Resumes

    @property
    def path(self) -> InChannel:
        """See `Peer`: the words are its messages."""
        return self.channels[Channel.PRECOPY]

    async def arrive(self) -> None:
        """See `Peer`."""
        self._session = await self.admission.accept_session()
        self.channels = self._session.channels

    async def receive_plan(self) -> Plan:
        """See `Peer`."""
        self.begin(self._session, await receive_setup(self._session))
        return self._plan

    def begin(self, session: Session, plan: Plan) -> None:
        """Begin with a session whose plan is known: its connections are the first epoch's."""
        self._session, self._plan = session, plan
        self.channels = {name: session.channels[name] for name in plan.channels}
        self._resumes = Resumes(session.session_id, plan.channels, session.capabilities)
        self.admission.take_resumes(self._resumes)

    def terms(self) -> Terms:
        """See `Peer`."""
        return Terms(
            peer="the source", ending=tuple(self.channels), recovers=self._has(RECOVER),
            gives_verdict=True, rest_seconds=0.0, linger_seconds=_LINGER_SECONDS_MAX,
        )  # fmt: skip

    def readers(
        self, executor: Executor, turns: Turns, lifecycle: Lifecycle
    ) -> Mapping[Channel, Callable[[], Awaitable[None]]]:
        """See `Peer`."""
        return {
            name: Receiver(channel, self.path, self._plan, executor, lifecycle, turns).run
            for name, channel in self.channels.items()
        }

    async def tend(self) -> None:
        """See `Peer`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_way)
            for channel in self.channels.values() if self._has(KEEPALIVE) else ():
                nursery.start_soon(keep_alive, channel, "source", self._silence_seconds_max)

    async def hear_verdict(self) -> tuple[Verdict, SourcePart]:
        """See `Peer`."""
        verdict = await self.path.receive()
        if not isinstance(verdict, Verdict):
            raise RemoteProtocolError(f"{type(verdict).__name__} came where Verdict was due")
        payload = bytearray(verdict.payload_bytes)
        await self.path.receive_payload(memoryview(payload), lambda _: None)
        return verdict, unpack_record(SourcePart, bytes(payload))

    def hang_up(self) -> None:
        """See `Peer`."""
        for channel in self.channels.values():
            channel.close()

    async def come_back(self, missing: PageSet) -> None:  # noqa: ARG002 - `dest.phases` says it
        """See `Peer`."""
        self.channels = await self._resumes.take()

    async def watch(self) -> None:
        """See `Peer`: it tells of itself."""

    def result(self, status: str, closing: Closing, first_mismatch: str) -> Result:
        """See `Peer`."""
        part, verdict, source = closing.part, closing.verdict, closing.source
        assert verdict is not None, "a migration that ends well has the verdict"
        assert source is not None
        problem = None
        mismatches = part.mismatches + source.mismatches
        if mismatches:
            problem = WrongMemory(
                f"the guest found wrong memory in {mismatches} reads: "
                f"{first_mismatch or 'on the source'}"
            )
        elif not verdict.equal:
            problem = WrongMemory(f"the memory here is wrong: {verdict.detail}")
        return Result(assemble(status, source, part), problem)

    async def _give_way(self) -> None:
        """End this epoch when the source has come with new connections: it knows of a break."""
        await self._resumes.wait()
        # What came before the break may lie in the kernel yet, and its end behind it.
        await trio.sleep(DRAIN_SECONDS_MAX)
        raise ConnectionLost("the source lost a connection")

    def _has(self, capability: str) -> bool:
        return capability in self._session.capabilities


async def receive_setup(session: Session) -> Plan:
    """Read the Setup, and wait for the second connection if the policy has one.

    Raises:
        ConnectionLost: The source is gone.
        PeerAborted: The source ended the session.
        RemoteProtocolError: Not a Setup, not one that makes sense, or nothing in time.
    """
    main = session.channels[Channel.PRECOPY]
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
    plan = Plan(
        geometry, policy, message.chunk_bytes, ProgramSpec.from_plain(plain, geometry),
        checked=CHECKSUM in session.capabilities, is_told=ANSWERS in session.capabilities,
    )  # fmt: skip
    if policy.own_channel:
        with patience(HELLO_SECONDS_MAX, "no second connection came", RemoteProtocolError):
            await session.paired.wait()
    return plan
