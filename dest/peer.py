"""Whom a guest comes from: what a destination needs of its peer, be it a midstream or a QEMU."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from dest.channel import InChannel
from dest.executor import Executor, ReturnPath
from dest.listening import Admission
from dest.phases import Closing
from dest.steps import Terms
from guest.spec import ProgramSpec
from guest.streams.network import Network
from protocol.channels import Channel
from protocol.geometry import Geometry
from protocol.messages import Message, Verdict
from protocol.pageset import PageSet
from protocol.policy import Policy
from protocol.report import Result, SourcePart
from protocol.states import Lifecycle


@dataclass(frozen=True)
class Plan:
    """Plan of a source: what it means to send.

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
        return self.policy.channels


class Turns(Protocol):
    """Takes what a peer says of the guest; made of `dest.phases`."""

    async def stopping(self) -> None:
        """Answer that the guest is about to be stopped.

        Raises:
            ConnectionLost: The connection broke.
        """

    async def switch_over(self, device_state: bytes | None, *, postcopy: bool) -> None:
        """Run the guest here from now on.

        Args:
            device_state: As its source encoded it; None where it means nothing here.
            postcopy: Something may be missing.

        Raises:
            RemoteProtocolError: That makes no sense now.
            ConnectionLost: The connection broke, and the guest runs here.
        """


class Path(ReturnPath, Protocol):
    """The way back to a peer, for all that there is to say."""

    async def send(  # type: ignore[explicit-override]
        self, word: Message, payload: bytes = b"", /
    ) -> None:
        """Send in turn; a word that the peer knows nothing of is none.

        Raises:
            ConnectionLost: The connection broke.
        """


class Peer(Protocol):
    """One source, over all of its connections.

    `arrive`, then `receive_plan`; then the first epoch's connections are there, and after each
    `hang_up` those that `come_back` waits for.
    """

    @property
    def admission(self) -> Admission:
        """Admission of its connections."""

    @property
    def network(self) -> Network:
        """Where they come from."""

    @property
    def channels(self) -> Mapping[Channel, InChannel]:
        """The connections of this epoch that are there."""

    @property
    def path(self) -> Path:
        """The way back to it in this epoch: encodes the words that it knows."""

    async def arrive(self) -> None:
        """Wait until there is one."""

    async def receive_plan(self) -> Plan:
        """Hear what it means to send.

        Raises:
            ConnectionLost: It is gone.
            PeerAborted: It ended the session.
            RemoteProtocolError: What it says makes no sense, or does not come in time.
        """

    def terms(self) -> Terms:
        """Return what it can do, once the plan is known."""

    def readers(
        self, executor: Executor, turns: Turns, lifecycle: Lifecycle
    ) -> Mapping[Channel, Callable[[], Awaitable[None]]]:
        """Return what reads each channel of this epoch to its end: pages to memory, words on.

        They raise a ConnectionLost, a PeerAborted or a RemoteProtocolError.

        Args:
            executor: What pages are told to.
            turns: What is said of the guest.
            lifecycle: Which messages may come when.
        """

    async def tend(self) -> None:
        """Keep this epoch's connections alive, until cancelled.

        Raises:
            ConnectionLost: The peer is gone, or knows of a break that nobody has noticed here.
        """

    async def hear_verdict(self) -> tuple[Verdict, SourcePart]:
        """Hear how the memories compare, and the source's part of the report.

        Raises:
            ConnectionLost: It is gone.
            PeerAborted: It ended the session.
            RemoteProtocolError: It says something else.
        """

    def hang_up(self) -> None:
        """Close the connections of this epoch; others may come in their place."""

    async def come_back(self, missing: PageSet) -> None:
        """Wait for the connections of another epoch.

        Args:
            missing: What has not come.
        """

    async def watch(self) -> None:
        """Report what can be seen of it from here, until cancelled."""

    def result(self, status: str, closing: Closing, first_mismatch: str) -> Result:
        """Return how its migration has ended.

        Args:
            status: The final state's QEMU name.
            closing: What was said at the end.
            first_mismatch: The first wrong value that a vCPU has read here; empty if none has.
        """
