"""A QEMU whose connection breaks at any byte, in memory and in virtual time: no page is lost.

It is played by hand: it says all that it has to say, and after a break it asks what is there, and
sends what is not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from dest.config import QemuDestConfig
from dest.qemu.peer import QemuPeer
from dest.session import DestSession
from guest import clock
from guest.programs import ProgramSpec
from guest.streams.exchange import receive_exactly, send_all
from guest.streams.stream import Stream
from protocol import events
from protocol.errors import ConnectionLost, MidstreamError, root_cause
from protocol.qemu.constants import RECV_BITMAP_END, Rp
from protocol.report import Result
from tests import qemu_streams as qemu
from tests.bounds import bare
from tests.guests import FakeGuests
from tests.qemu_streams import MIB, TARGET
from tests.stories import Recorder
from tests.virtual_network import CAPACITY_BYTES, Cut, VirtualNetwork

HUGE = 2 * MIB
BLOCKS = [(b"ram", HUGE, HUGE), (b"rom", 40 * TARGET, TARGET)]
MEMORY = {name: random.Random(0).randbytes(length) for name, length, _ in BLOCKS}

OPENING = b"".join((qemu.head(), qemu.command(1), qemu.advise(HUGE | TARGET), qemu.start(BLOCKS)))
HANDOVER = b"".join(qemu.discard(name, (0, length)) for name, length, _ in BLOCKS) + qemu.package()

# After it has come back it may lose its connection again.
SECONDS_MAX = 300.0
WAIT_SECONDS = 30.0


def pages(name: bytes, indices: list[int]) -> bytes:
    """Return records with some of a block's target pages."""
    return b"".join(
        qemu.page(index * TARGET, MEMORY[name][index * TARGET :][:TARGET], b"" if at else name)
        for at, index in enumerate(indices)
    )


ALL = [pages(name, list(range(length // TARGET))) for name, length, _ in BLOCKS]
WHOLE = OPENING + HANDOVER + qemu.part(*ALL, last=True) + b"\0"
RUNS_THERE_FROM = len(OPENING + HANDOVER)
# All that a QEMU hears that asks for nothing: that all is well.
SHUT_BYTES = 8


class HandQemu:
    """A QEMU's main connections, one after the other.

    Attributes:
        has_heard: It was told that all is well.
        resumed: How often it has come back.
    """

    def __init__(self, network: VirtualNetwork, port: int) -> None:
        """Take where to connect to."""
        self.has_heard = False
        self.resumed = 0
        self._network, self._port = network, port
        self._streams: list[Stream] = []

    async def run(self) -> None:
        """Migrate; come back as long as there is anything to come back for."""
        say = self._begin
        while not self.has_heard:
            try:
                await say(await self._connect())
                self.has_heard = True
            except (OSError, EOFError, ExceptionGroup) as error:
                if not isinstance(root_cause(error), (OSError, EOFError)):
                    raise
            for stream in self._streams:
                stream.close()
            # Its user types `migrate -r` when he has seen it.
            await trio.sleep(1)
            say = self._resume

    async def _connect(self) -> Stream:
        stream, _ = await self._network.connect("127.0.0.1", self._port)
        self._streams.append(stream)
        return stream

    async def _begin(self, stream: Stream) -> None:
        await send_all(stream, WHOLE)
        await self._hear(stream, Rp.SHUT)

    async def _resume(self, stream: Stream) -> None:
        await send_all(stream, b"".join(qemu.command(10, bytes([3]) + name) for name in MEMORY))
        missing = {}
        for name in MEMORY:
            assert (await self._hear(stream, Rp.RECV_BITMAP))[1:] == name
            length = int.from_bytes(await receive_exactly(stream, 8), "big")
            bits = np.frombuffer(await receive_exactly(stream, length), np.uint8)
            assert int.from_bytes(await receive_exactly(stream, 8), "big") == RECV_BITMAP_END
            flags = np.unpackbits(bits, bitorder="little")[: len(MEMORY[name]) // TARGET]
            missing[name] = np.flatnonzero(flags == 0).tolist()
        await send_all(stream, qemu.command(9))
        await self._hear(stream, Rp.RESUME_ACK)
        self.resumed += 1
        rest = [pages(name, indices) for name, indices in missing.items() if indices]
        await send_all(stream, qemu.part(*rest, last=True) + b"\0")
        await self._hear(stream, Rp.SHUT)

    async def _hear(self, stream: Stream, wanted: Rp) -> bytes:
        """Return what a message of the return path has, the first of its kind."""
        while True:
            head = await receive_exactly(stream, 4)
            data = await receive_exactly(stream, int.from_bytes(head[2:], "big"))
            if int.from_bytes(head[:2], "big") == wanted:
                return data


class PreemptQemu(HandQemu):
    """One with a connection of its own for urgent pages, all of which are of the small block."""

    async def _begin(self, stream: Stream) -> None:  # type: ignore[explicit-override]
        urgent: list[int] = []
        await send_all(stream, OPENING + HANDOVER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, stream, urgent)
            for first in range(0, HUGE // TARGET, 64):
                await send_all(stream, qemu.part(pages(b"ram", list(range(first, first + 64)))))
                await trio.sleep(0.001)
            rest = [index for index in range(len(MEMORY[b"rom"]) // TARGET) if index not in urgent]
            await send_all(stream, qemu.part(pages(b"rom", rest), last=True) + b"\0")

    async def _serve(self, stream: Stream, urgent: list[int]) -> None:
        """Send what is asked for, until all is well."""
        preempt: Stream | None = None
        while True:
            head = await receive_exactly(stream, 4)
            data = await receive_exactly(stream, int.from_bytes(head[2:], "big"))
            if (kind := int.from_bytes(head[:2], "big")) == Rp.SHUT:
                return
            if kind in (Rp.REQ_PAGES, Rp.REQ_PAGES_ID):
                urgent.append(int.from_bytes(data[:8], "big") // TARGET)
                preempt = preempt or await self._connect()
                await send_all(preempt, pages(b"rom", urgent[-1:]))


class Run:
    """A destination and its QEMU."""

    def __init__(self, cuts: list[Cut], save: Path, kind: type[HandQemu] = HandQemu) -> None:
        """Prepare; `go` migrates."""
        self._kind = kind
        self.events = Recorder()
        self.network = VirtualNetwork(cuts)
        self.result: Result | None = None
        self.error: MidstreamError | None = None
        self.qemu: HandQemu
        self._listening = trio.Event()
        config = QemuDestConfig(
            host="127.0.0.1", port=0, backing="base", wait_seconds=WAIT_SECONDS, save=save,
            spec_of=lambda _: ProgramSpec(vcpu_count=2, image=True),
        )  # fmt: skip
        peer = QemuPeer(config, self.events, self.network)
        self._session = DestSession(config, peer, self.events, self._listens, lambda _: None)

    def _listens(self, address: str) -> None:
        self.qemu = self._kind(self.network, int(address.rpartition(":")[2]))
        self._listening.set()

    async def go(self) -> None:
        """Migrate to an end."""
        with trio.fail_after(SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._come)
                try:
                    self.result = await self._session.run()
                except MidstreamError as error:
                    self.error = bare(error)
                nursery.cancel_scope.cancel()

    async def _come(self) -> None:
        await self._listening.wait()
        await self.qemu.run()


@pytest.fixture(autouse=True)
def guests(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGuests]:
    """Guests without processes, and virtual time for all that looks at it."""
    guests = FakeGuests()
    monkeypatch.setattr("dest.session.open_guest", guests.open)
    monkeypatch.setattr("dest.session.start_process", guests.start)
    with clock.virtual():
        yield guests


@pytest.mark.parametrize("seed", range(24))
def test_a_qemu_that_comes_back_brings_what_is_missing(tmp_path: Path, seed: int) -> None:
    """Wherever its connection breaks once the guest was handed over, and perhaps once more."""
    rng = random.Random(seed)
    how = rng.choice(["reset", "end"])
    # A reset throws away what is on its way, and that must not be the handover.
    first = RUNS_THERE_FROM + (CAPACITY_BYTES if how == "reset" else 0)
    cuts = [Cut(0, True, rng.randrange(first, len(WHOLE)), how, 0.0)]
    if rng.random() < 0.5:
        # Perhaps in the middle of what it says when it is back.
        cuts.append(Cut(1, True, rng.choice([20, 60, 5000, 200_000]), how, 0.0))
    run = Run(cuts, tmp_path / "saved")
    trio.run(run.go, clock=MockClock(autojump_threshold=0))
    assert run.error is None
    assert run.result is not None
    assert (tmp_path / "saved").read_bytes() == b"".join(MEMORY.values())
    assert run.qemu.has_heard
    own = run.result.report["midstream"]
    assert len(run.events.of(events.Recovered)) == own["recoveries"] >= run.qemu.resumed >= 1
    # What came before each break counts, too.
    assert own["channels"]["precopy"] > sum(map(len, MEMORY.values()))


@pytest.mark.parametrize("seed", range(16))
def test_either_connection_of_a_qemu_may_break(
    tmp_path: Path, guests: FakeGuests, seed: int
) -> None:
    """Who waits for pages gets them, over the second connection or when QEMU is back."""
    rng = random.Random(seed)
    which = rng.randrange(2)
    at_bytes = rng.randrange(1, 2 * TARGET)
    if which == 0:
        at_bytes = rng.randrange(RUNS_THERE_FROM + CAPACITY_BYTES, HUGE)
    cuts = [Cut(which, True, at_bytes, rng.choice(["reset", "end"]), 0.0)]
    run = Run(cuts, tmp_path / "saved", PreemptQemu)
    touched = set[int]()

    def touch() -> None:
        for vcpu in {0, 1} - touched:
            touched.add(vcpu)
            guests.made[-1].fault(vcpu, (HUGE // TARGET) + rng.randrange(40))

    run.events.on(events.State, touch, state="postcopy-active")
    trio.run(run.go, clock=MockClock(autojump_threshold=0))
    assert run.error is None
    assert run.result is not None
    assert (tmp_path / "saved").read_bytes() == b"".join(MEMORY.values())
    assert set(guests.made[-1].woken) == {0, 1}
    own = run.result.report["midstream"]
    assert own["recoveries"] == run.qemu.resumed
    # A connection that breaks before it has proved to be the second one never was.
    assert which == 1 or own["policy"] == "qemu-preempt"


@pytest.mark.parametrize("how", ["reset", "end"])
def test_a_qemu_that_missed_the_last_word_hears_it_when_it_is_back(
    tmp_path: Path, guests: FakeGuests, how: str
) -> None:
    """All of the guest is here and saved by then, and it has stopped for good once."""
    run = Run([Cut(0, False, SHUT_BYTES // 2, how, 0.0)], tmp_path / "saved")
    trio.run(run.go, clock=MockClock(autojump_threshold=0))
    assert run.error is None
    assert run.qemu.resumed == 1
    assert run.qemu.has_heard
    assert (tmp_path / "saved").read_bytes() == b"".join(MEMORY.values())
    assert guests.made[-1].calls == ["run", "pause"]
    assert run.events.states[-3:] == ["postcopy-recover", "postcopy-active", "completed"]


@pytest.mark.parametrize("at_bytes", [len(OPENING) + 1, RUNS_THERE_FROM - 1])
def test_a_break_before_the_handover_is_the_end(
    tmp_path: Path, guests: FakeGuests, at_bytes: int
) -> None:
    """QEMU has all of the guest, and nobody waits."""
    run = Run([Cut(0, True, at_bytes, "end", 0.0)], tmp_path / "saved")
    trio.run(run.go, clock=MockClock(autojump_threshold=0))
    assert isinstance(run.error, ConnectionLost)
    assert guests.made[-1].calls == []
    assert run.events.states[-1] == "failed"


def test_a_qemu_over_memory_needs_no_socket(tmp_path: Path) -> None:
    """What breaks nowhere is a migration, over any stream."""
    run = Run([], tmp_path / "saved")
    trio.run(run.go, clock=MockClock(autojump_threshold=0))
    assert run.error is None
    assert run.result is not None
    assert (tmp_path / "saved").read_bytes() == b"".join(MEMORY.values())
    assert run.result.report["midstream"]["channels"]["precopy"] == len(WHOLE)
