"""What a real QEMU said, replayed with its bytes changed: only the peer's fault is ever raised.

The streams are recorded by a relay between a QEMU and the destination; zeros make most of its
memory, so that what is not page bytes is a good part of them.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from dest.config import QemuDestConfig
from dest.qemu.peer import QemuPeer
from dest.session import DestSession
from guest.programs import ProgramSpec
from protocol import events
from protocol.errors import (
    ConnectionLost,
    MemoryLost,
    MidstreamError,
    RemoteProtocolError,
)
from protocol.qemu.constants import FILE_MAGIC
from protocol.qemu.decoder import PreemptDecoder
from protocol.qemu.messages import Blocks, DiscardRanges, Pages
from protocol.qemu.ram import block_table
from protocol.qemu.stream import Decoder
from scripts.configure import parse_address
from scripts.qemu.against import run_pair
from tests.bounds import bounded, nothing_left
from tests.guests import FakeGuests
from tests.qemu_relay import Relay
from tests.scripts.qemu.test_command import need_qemu
from tests.stories import Recorder

MIB = 1 << 20
# Of these 4 MiB, 40 target pages are not zero: 0, 25, 50, ...
IMAGE = b"".join(
    (bytes([1 + page % 255]) if page % 25 == 0 else b"\0") * 4096 for page in range(1000)
)
SEEDS = 400
SESSION_SEEDS = 12


class Recording(NamedTuple):
    """A stream of QEMU's: the main connection's bytes, and the other's."""

    main: bytes
    preempt: bytes


# A few pages come before the switch-over; all would take seconds.
_EARLY = ("--precopy=64KiB", "--max-bandwidth=100kB/s")
_SLOW = "--max-postcopy-bandwidth=2MB/s"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """What one QEMU said, with the capability postcopy-preempt."""
    need_qemu()
    folder = tmp_path_factory.mktemp("recording")
    image = folder / "image"
    image.write_bytes(IMAGE)
    tape = Relay()
    # Slow, so that there is time to ask for pages.
    trio.run(
        run_pair,
        ["--size=4MiB", "--page-size=4KiB", f"--image={image}", *_EARLY, _SLOW],
        ["--access-rate=200", "--vcpus=2"],
        tape,
    )
    magic = FILE_MAGIC.to_bytes(4, "big")
    (main,) = (data for data in tape.said.values() if data.startswith(magic))
    return Recording(main, b"".join(data for data in tape.said.values() if data is not main))


def boundaries(decoder: Decoder | PreemptDecoder, data: bytes) -> list[int]:
    """Return where each message of a stream ends, its payload included."""
    decoder.receive_data(data)
    found = [0]
    while (message := decoder.next_message()) is not None:
        if message.payload_bytes:
            decoder.take_payload(memoryview(bytearray(message.payload_bytes)))
        found.append(len(data) - decoder.buffered_bytes)
    return found


def changed(data: bytes, ends: list[int], seed: int) -> bytes:
    """Return a stream with a few things done to it, most of them where a message begins."""
    dice = random.Random(seed)
    result = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        near = dice.choice(ends) if dice.random() < 0.9 else dice.randrange(len(data))
        place = min(max(near + dice.randint(-12, 24), 0), max(len(result) - 1, 0))
        count = dice.choice([1, 1, 2, 4, 8, 300])
        match dice.randrange(5):
            case 0:
                result[place : place + count] = dice.randbytes(len(result[place : place + count]))
            case 1:
                del result[place : place + count]
            case 2:
                result[place:place] = dice.randbytes(count)
            case 3:
                other = dice.choice(ends)
                result[place:place] = result[other : other + 10 * count]
            case _:
                del result[place:]
    return bytes(result)


def hear(decoder: Decoder | PreemptDecoder, data: bytes, dice: random.Random) -> None:
    """Have a decoder hear a stream in pieces of any size."""
    at = 0
    while at < len(data):
        piece = data[at : at + dice.choice([7, 4096, 1 << 18])]
        at += len(piece)
        decoder.receive_data(piece)
        while (message := decoder.next_message()) is not None:
            if message.payload_bytes:
                decoder.take_payload(memoryview(bytearray(message.payload_bytes)))
        assert decoder.buffered_bytes <= len(data)


def blocks_of(data: bytes) -> list[tuple[str, int, int]]:
    """Return the blocks that a main stream lists."""
    decoder = Decoder()
    decoder.receive_data(data)
    while not isinstance(message := decoder.next_message(), Blocks):
        assert message is not None
    return list(message.blocks)


def is_in_precopy(data: bytes) -> bool:
    """Tell whether a main stream brings pages before it says which of them are stale."""
    decoder = Decoder()
    decoder.receive_data(data)
    while not isinstance(message := decoder.next_message(), DiscardRanges):
        assert message is not None
        if isinstance(message, Pages):
            return True
    return False


def test_decoders_refuse_what_was_changed(recording: Recording) -> None:
    """However a recorded stream is cut, mixed and overwritten, it is taken or refused in words."""
    table = block_table(blocks_of(recording.main))
    refused = 0
    for data, make in (
        (recording.main, Decoder),
        (recording.preempt, lambda: PreemptDecoder(table)),
    ):
        assert data
        ends = boundaries(make(), data)
        assert ends[-1] == len(data)
        for seed in range(SEEDS):
            try:
                hear(make(), changed(data, ends, seed), random.Random(seed))
            except RemoteProtocolError:
                refused += 1
    # The others were cut short, or page bytes were changed, which no decoder can tell.
    assert refused > SEEDS // 2


class Replay:
    """A destination, and somebody who says to it what a QEMU said."""

    def __init__(self, save: Path) -> None:
        """Prepare."""
        self.events = Recorder()
        self.error: MidstreamError | None = None
        self._address = ""
        self._listening = trio.Event()
        config = QemuDestConfig(
            host="127.0.0.1", port=0, backing="base", save=save, wait_seconds=0.0,
            spec_of=lambda _: ProgramSpec(vcpu_count=2, image=True),
        )  # fmt: skip
        self._session = DestSession(
            config, QemuPeer(config, self.events), self.events, self._listens, lambda _: None
        )

    def _listens(self, address: str) -> None:
        self._address = address
        self._listening.set()

    async def run(self, main: bytes, preempt: bytes) -> None:
        """Replay both connections; keep how that ends."""
        running = trio.Event()
        self.events.on(events.State, running.set, state="postcopy-active")
        with bounded(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve, nursery.cancel_scope)
                await self._listening.wait()
                nursery.start_soon(self._say, preempt, running)
                await self._say(main, None)
                if not self.events.states:
                    # It was turned away, and the destination waits for a better one.
                    nursery.cancel_scope.cancel()

    async def _serve(self, scope: trio.CancelScope) -> None:
        try:
            await self._session.run()
        except MidstreamError as error:
            self.error = error
        scope.cancel()

    async def _say(self, data: bytes, after: trio.Event | None) -> None:
        if after is not None:
            await after.wait()
        async with await trio.open_tcp_stream(*parse_address(self._address, "")) as stream:
            try:
                await stream.send_all(data)
                await stream.send_eof()
                # The return path; nobody answers it.
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                return


@pytest.fixture(autouse=True)
def _guests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests without processes."""
    guests = FakeGuests()
    monkeypatch.setattr("dest.session.open_guest", guests.open)
    monkeypatch.setattr("dest.session.start_process", guests.start)
    # Nothing is on its way any more when a replayed stream has ended.
    monkeypatch.setattr("dest.qemu.peer.REST_SECONDS_MAX", 0.2)


def test_a_replayed_stream_is_a_migration(recording: Recording, tmp_path: Path) -> None:
    """What was recorded is taken as it is, and brings the memory that QEMU had."""
    with nothing_left():
        replay = Replay(tmp_path / "memory")
        trio.run(replay.run, *recording)
    assert replay.error is None
    assert is_in_precopy(recording.main)
    saved = (tmp_path / "memory").read_bytes()
    offset = sum(
        length
        for name, length, _ in blocks_of(recording.main)[
            : [name for name, _, _ in blocks_of(recording.main)].index("ram")
        ]
    )
    assert saved[offset : offset + len(IMAGE)] == IMAGE


@pytest.mark.parametrize("seed", range(SESSION_SEEDS))
def test_a_destination_survives_what_was_changed(
    recording: Recording, tmp_path: Path, seed: int
) -> None:
    """A changed stream ends as the peer's fault, or as memory that did not come; nothing stays."""
    ends = boundaries(Decoder(), recording.main)
    with nothing_left():
        replay = Replay(tmp_path / "memory")
        trio.run(replay.run, changed(recording.main, ends, 1000 + seed), recording.preempt)
    if replay.error is not None:
        assert isinstance(replay.error, (RemoteProtocolError, ConnectionLost, MemoryLost))
