"""The Setup: what makes sense becomes a plan, everything else is the source's fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dest.admission import Session
from dest.channel import InChannel
from dest.midstream import receive_setup
from dest.peer import Plan
from guest.programs import ProgramSpec
from guest.streams.tcp import TcpStream
from guest.trace import Trace
from protocol.channels import Channel
from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.limits import CHUNK_BYTES_MAX, HELLO_SECONDS_MAX, SETUP_SECONDS_MAX
from protocol.messages import Abort, Message, PassEnd, Setup
from protocol.policy import PRESETS, Policy
from protocol.wire import encode
from tests.bounds import BOUND_SECONDS, bounded
from tests.guests import HUGE, KIB, small_geometry
from tests.sides import SESSION
from tests.sockets import Peer, tcp_pair

SPEC = ProgramSpec("zipf", vcpu_count=3, access_rates=(100.0, 0.0, 50.0), write_ratio=0.25, seed=5)
PAYLOAD: bytes = msgpack.packb(SPEC.to_plain())
SETUP = Setup(
    payload_bytes=len(PAYLOAD),
    blocks=tuple((b.name, b.length_bytes, b.page_bytes) for b in small_geometry().blocks),
    policy="ordered",
    chunk_bytes=256 * KIB,
    switches=PRESETS["ordered"].switches,
)


class Rig:
    """A session with a precopy connection, and who speaks over it."""

    def __init__(self, near: trio.socket.SocketType, far: trio.socket.SocketType) -> None:
        """Make the session as the listener does."""
        self.session = Session(SESSION)
        channel = self.session.channels[Channel.PRECOPY] = InChannel(TcpStream(near))
        channel.name = Channel.PRECOPY
        self.session.welcomed(Channel.PRECOPY)
        self.peer = Peer(far)

    def pair(self) -> None:
        """Have the second connection there."""
        self.session.welcomed(Channel.POSTCOPY)

    async def receive(self, message: Message, payload: bytes = b"") -> Plan:
        """Say something and return what is made of it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.peer.send, message, payload)
            return await receive_setup(self.session)
        raise AssertionError

    async def refusal(self, message: Message, payload: bytes = b"") -> str:
        """Say something and return why it is refused."""
        await self.peer.send(message, payload)
        with pytest.raises(RemoteProtocolError) as caught:
            await receive_setup(self.session)
        return str(caught.value)


@contextmanager
def make_rig() -> Iterator[Rig]:
    """Connect a session; the block is bounded."""
    with tcp_pair() as (near, far):
        yield Rig(near, far)


def of_policy(policy: Policy) -> Setup:
    """Return a Setup with another policy."""
    return msgspec.structs.replace(SETUP, policy=policy.name, switches=policy.switches)


async def test_a_policy_of_an_unknown_name_is_served() -> None:
    """What it does is in its switches; its name is only told on."""
    policy = replace(PRESETS["split"], name="somebody's own", locality=False)
    with make_rig() as rig:
        rig.pair()
        assert (await rig.receive(of_policy(policy), PAYLOAD)).policy == policy


@pytest.mark.parametrize("policy", PRESETS)
async def test_a_setup_becomes_a_plan(policy: str) -> None:
    """Geometry, policy, chunk size and program are what the source said, for every policy."""
    with make_rig() as rig:
        rig.pair()
        plan = await rig.receive(of_policy(PRESETS[policy]), PAYLOAD)
        assert plan == Plan(small_geometry(), PRESETS[policy], 256 * KIB, SPEC)
        expected = (Channel.PRECOPY,) if policy == "vanilla" else tuple(Channel)
        assert plan.channels == expected


async def test_a_recorded_trace_crosses() -> None:
    """A program that replays a trace brings its accesses along."""
    trace = Trace(
        np.array([0, 1, 0], np.uint8), np.array([5, 6, 7], np.uint64), np.array([1, 0, 1], np.bool_)
    )
    spec = ProgramSpec("trace", vcpu_count=2, trace=trace)
    payload = msgpack.packb(spec.to_plain())
    with make_rig() as rig:
        rig.pair()
        plan = await rig.receive(
            msgspec.structs.replace(SETUP, payload_bytes=len(payload)), payload
        )
        assert plan.spec.trace is not None
        assert plan.spec.trace.flat_pages.tolist() == [5, 6, 7]


async def test_the_second_connection_is_waited_for() -> None:
    """A policy with two channels is ready only when both are there."""
    with make_rig() as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.receive, SETUP, PAYLOAD)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            rig.pair()


async def test_one_channel_is_enough_for_one_stream() -> None:
    """A policy with one channel does not wait for another."""
    with make_rig() as rig:
        plan = await rig.receive(of_policy(PRESETS["vanilla"]), PAYLOAD)
        assert plan.channels == (Channel.PRECOPY,)


def blocks(*shapes: tuple[str, int, int]) -> dict[str, Any]:
    """Return a change of the Setup's blocks."""
    return {"blocks": shapes}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chunk_bytes": 0}, "chunks of 0 bytes are not allowed"),
        ({"chunk_bytes": TARGET_PAGE_BYTES - 1}, "chunks of 4095 bytes"),
        ({"chunk_bytes": CHUNK_BYTES_MAX + TARGET_PAGE_BYTES}, "bytes are not allowed"),
        ({"switches": ("own-channel", "warp")}, "unknown switch 'warp'; known: own-channel, "),
        ({"switches": ("preempts",)}, "a policy that preempts needs a channel of its own"),
        (blocks(("ram", HUGE, 8192)), "a page of 8192 bytes is not"),
        (blocks(("ram", HUGE + 4096, HUGE)), "are not one or more pages"),
        (blocks(("ram", 0, HUGE)), "are not one or more pages"),
        (blocks(("ram", HUGE, HUGE), ("ram", HUGE, HUGE)), "two RAMBlocks are named 'ram'"),
        (blocks(("ram", 1 << 62, HUGE)), "is larger than"),
    ],
)
async def test_a_setup_that_makes_no_sense_is_refused(change: dict[str, Any], reason: str) -> None:
    """Sizes, names and policies that no guest can have are refused with the reason."""
    with make_rig() as rig:
        assert reason in await rig.refusal(msgspec.structs.replace(SETUP, **change), PAYLOAD)


def plain_with(**changes: object) -> bytes:
    """Return the packed specification with some fields changed."""
    packed: bytes = msgpack.packb(SPEC.to_plain() | changes)
    return packed


# Claims of containers within containers: each level claims far more than there is.
NESTED_ARRAYS = b"\xdd\x00\xff\xff\xff" * 1000
NESTED_MAPS = b"\xdf\x00\xff\xff\xff\xa1a" * 1000

PAYLOADS = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "cut short": PAYLOAD[:-1],
    "more after it": PAYLOAD + b"\0",
    "no map": msgpack.packb(7),
    "an array": msgpack.packb([1, 2]),
    "another map": msgpack.packb({"name": "zipf"}),
    "a field too many": plain_with(more=1),
    "a number as key": b"\x81\x01\x02",
    "a wrong type": plain_with(**{"vcpu-count": "three"}),
    "an unknown program": plain_with(name="doom"),
    "too many vCPUs": plain_with(**{"vcpu-count": 65}),
    "no number": plain_with(**{"access-rates": [float("nan")]}),
    "a ratio over one": plain_with(**{"write-ratio": 1.5}),
    "a trace that is none": plain_with(name="trace", trace={"vcpus": b""}),
    "a trace outside": plain_with(
        name="trace",
        trace={"vcpus": b"\0", "flat-pages": b"\xff" * 8, "is-write": b"\0"},
    ),
    "nested arrays": NESTED_ARRAYS,
    "nested maps": NESTED_MAPS,
    "an extension": msgpack.packb(msgpack.ExtType(5, b"x")),
    "half a character": b"\x87\xa1\xff",
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
async def test_a_specification_that_is_none_is_refused(payload: bytes) -> None:
    """Whatever comes as the guest's program is one, or the source's fault."""
    with make_rig() as rig:
        reason = await rig.refusal(
            msgspec.structs.replace(SETUP, payload_bytes=len(payload)), payload
        )
        assert "guest" in reason


async def test_another_message_is_refused() -> None:
    """A source says what it will send before it sends it."""
    with make_rig() as rig:
        assert await rig.refusal(PassEnd(index=0)) == "PassEnd came where Setup was due"


async def test_an_abort_before_the_setup_is_the_sources_word() -> None:
    """A source that changes its mind is heard."""
    with make_rig() as rig:
        await rig.peer.send(Abort(reason="no"))
        with pytest.raises(PeerAborted):
            await receive_setup(rig.session)


@pytest.mark.parametrize("part", [b"", encode(SETUP)[:20], encode(SETUP), encode(SETUP) + b"\x87"])
async def test_an_end_of_file_is_a_lost_connection(part: bytes) -> None:
    """A source that goes in the middle of its Setup is gone, nothing else."""
    with make_rig() as rig:
        await rig.peer.send_bytes(part)
        rig.peer.close()
        with pytest.raises(ConnectionLost):
            await receive_setup(rig.session)


@pytest.mark.parametrize(
    ("said", "seconds", "reason"),
    [
        (b"", HELLO_SECONDS_MAX, "no setup came in 10 s"),
        (encode(SETUP), SETUP_SECONDS_MAX, "no whole setup came in 300 s"),
        (encode(SETUP) + PAYLOAD, HELLO_SECONDS_MAX, "no second connection came in 10 s"),
    ],
)
async def test_silence_is_given_up(
    autojump_clock: MockClock, said: bytes, seconds: float, reason: str
) -> None:
    """What is due and does not come is not waited for longer than its limit."""
    autojump_clock.autojump_threshold = 0.1
    near, far = trio.socket.socketpair()
    with near, far, bounded(SETUP_SECONDS_MAX + BOUND_SECONDS):
        rig = Rig(near, far)
        await rig.peer.send_bytes(said)
        with pytest.raises(RemoteProtocolError, match=reason):
            await receive_setup(rig.session)
        assert trio.current_time() == seconds
