"""A pass sends what the guest wrote since the pass before, exactly, and in few frames."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from guest.handle import GuestHandle, open_guest
from guest.programs import ProgramSpec
from guest.trace import Trace
from protocol import events
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.messages import Message, PageData, PassEnd, RunData, SwitchOver, ZeroData
from protocol.runs import unpack_runs
from source.convergence import SwitchRule
from source.session import SourceSession
from tests.bounds import BOUND_SECONDS
from tests.guests import HUGE, MIB
from tests.sides import hand_dest, source_config
from tests.stories import Recorder

GUEST = Geometry((RamBlock("ram", 56 * MIB, HUGE), RamBlock("rom", 8 * MIB, TARGET_PAGE_BYTES)))
RAM_PAGE_COUNT = GUEST.blocks[0].target_page_count
WRITTEN = np.sort(np.random.default_rng(3).choice(GUEST.target_page_count, 10_000, replace=False))


def target_pages(message: Message) -> list[int]:
    """Return the flat target pages that a frame names."""
    match message:
        case PageData(block=block, offset=offset, payload_bytes=length):
            spans = [Span(block, offset, length)]
        case ZeroData(block=block, offset=offset, length=length):
            spans = [Span(block, offset, length)]
        case RunData(block=block, offset=offset, runs=packed):
            spans = list(unpack_runs(block, offset, packed)[0].spans())
        case _:
            return []
    base = GUEST.target_page_bases[spans[0].block]
    return [
        base + at // TARGET_PAGE_BYTES
        for span in spans
        for at in range(span.offset, span.end, TARGET_PAGE_BYTES)
    ]


def write_all(guest: GuestHandle) -> None:
    """Have the guest write, while nothing else happens here."""
    guest._count_generation()
    deadline = time.monotonic() + BOUND_SECONDS
    while guest.board.counters(0).step < len(WRITTEN):
        assert time.monotonic() < deadline, "the guest does not write"
        time.sleep(0.001)


@pytest.mark.parametrize("dirty_log", ["kernel", "software"])
async def test_a_pass_resends_what_was_written_and_nothing_else(
    dirty_log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand pages written between two passes go in the second: all, once, no other."""
    trace = Trace(
        np.zeros(len(WRITTEN), np.uint8),
        np.random.default_rng(4).permutation(WRITTEN).astype(np.uint64),
        np.ones(len(WRITTEN), np.bool_),
    )
    guests: list[GuestHandle] = []

    @asynccontextmanager
    async def open_and_keep(*arguments: Any) -> AsyncIterator[GuestHandle]:  # noqa: ANN401
        async with open_guest(*arguments) as guest:
            guests.append(guest)
            yield guest

    monkeypatch.setattr("source.session.open_guest", open_and_keep)
    recorder = Recorder()
    wanted = "auto" if dirty_log == "kernel" else dirty_log
    recorder.on(events.PassEnd, lambda: write_all(guests[0]), index=0)
    async with hand_dest(GUEST) as dest:
        config = source_config(
            GUEST, dest.port, spec=ProgramSpec("trace", seed=7, trace=trace), hold=True,
            rule=SwitchRule(postcopy_after=2, downtime_ms_max=0), dirty_log=wanted,
            chunk_bytes=HUGE,
        )  # fmt: skip
        result = await SourceSession(config, recorder, pytest.skip).run()
        assert result.report["midstream"]["dirty-log"] == dirty_log
        assert result.report["midstream"]["verified"]["digest-equal"]
        heard = [message for _, message in dest.heard]
    first, second = (heard.index(PassEnd(index=index)) for index in (0, 1))
    passes = [heard[:first], heard[first:second], heard[second:]]
    sent = [Counter(page for each in part for page in target_pages(each)) for part in passes]
    assert sent[0] == Counter(range(GUEST.target_page_count))
    assert sent[1] == Counter(WRITTEN.tolist())
    assert not sent[2]
    frames = [each for each in passes[1] if target_pages(each)]
    assert len(frames) < 50
    # Scattered parts of huge pages go together.
    in_ram = [target_pages(each) for each in frames if max(target_pages(each)) < RAM_PAGE_COUNT]
    assert any(len({page // 512 for page in pages}) > 1 for pages in in_ram)
    assert any(isinstance(each, SwitchOver) for each in passes[2])
