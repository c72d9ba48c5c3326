"""Whole migrations of guests that really run: what arrives, who is told, what is left."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dest.executor import Executor
from guest.busy_poll import BusyPoll
from guest.digest import digest
from guest.handle import GuestHandle, open_guest
from guest.launch import GuestProcess
from guest.memory import GuestMemory
from guest.probe import can_stop_at_faults
from guest.programs import ProgramSpec
from guest.slices import Job
from protocol import events
from protocol.channels import Channel
from protocol.errors import MemoryLost, PeerAborted, WrongMemory
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.policy import PRESETS, preset
from source.convergence import SwitchRule
from tests.guests import HUGE, KIB
from tests.pairs import GEOMETRY, PACED, QUIET, Pair


@pytest.mark.parametrize(
    ("policy", "placement"),
    [
        *((policy, "auto") for policy in PRESETS),
        ("ordered", "simulated"),
        ("critical-first", "simulated"),
    ],
)
async def test_postcopy_at_once(policy: str, placement: str) -> None:
    """Under every policy a busy guest gets all of its memory, and only what it says goes twice."""
    pair = Pair(policy=preset(policy), placement=placement, **PACED)
    await pair.migrate()
    report = pair.expect_success()
    by_kernel = placement == "auto" and can_stop_at_faults().ok
    assert report["midstream"]["placement"] == ("userfault" if by_kernel else "simulated")
    assert bool(report["midstream"]["placement-reason"]) == (not by_kernel and placement == "auto")
    assert report["midstream"]["policy"] == policy
    assert report["midstream"]["faults"]["count"] > 0
    sent = report["ram"]["normal"] + report["ram"]["duplicate"]
    twice_bytes = report["midstream"]["bytes-sent-twice"]
    assert sent == GEOMETRY.target_page_count + twice_bytes // TARGET_PAGE_BYTES
    # What lies in the socket, and how much of it, is the machine's affair.
    overtaken_bytes = report["midstream"]["pages-sent-twice"] * TARGET_PAGE_BYTES
    assert not overtaken_bytes or preset(policy).overtakes
    assert policy == "resend" or twice_bytes == overtaken_bytes
    requests = report["midstream"]["requests"]
    assert requests["received"] > 0
    assert report["ram"]["postcopy-requests"] == requests["received"]
    if policy == "vanilla":
        assert report["midstream"]["channels"]["postcopy"] == 0
        assert requests["on-postcopy-channel"] == 0
    # Every request that this side sent was read there, and no vCPU was left asleep.
    asked = pair.dest.events.of(events.PageRequest)
    answered = pair.source.events.of(events.PageRequest)
    assert [(e["block"], e["page"]) for e in asked] == [(e["block"], e["page"]) for e in answered]
    wakes = pair.dest.events.of(events.VcpuWake)
    assert len(wakes) == report["midstream"]["faults"]["count"]


async def test_precopy_alone() -> None:
    """A guest that writes little is moved without a fault, in passes that get smaller."""
    rule = SwitchRule(postcopy_after=None, downtime_ms_max=300)
    pair = Pair(spec=QUIET, rule=rule)
    await pair.migrate()
    report = pair.expect_success()
    assert report["midstream"]["passes"] >= 1
    assert report["midstream"]["faults"]["count"] == 0
    assert report["ram"]["postcopy-requests"] == 0
    assert report["ram"]["normal"] >= GEOMETRY.target_page_count
    assert pair.dest.events.states == ["setup", "active", "device", "completed"]


@pytest.fixture
def _spoiled_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination whose memory loses a bit between its last page and its account."""

    def spoil(memory: GuestMemory) -> Job[list[bytes]]:
        memory.views[0][2 * HUGE + 12345] ^= 0x10
        return digest(memory)

    monkeypatch.setattr("dest.migration.digest", spoil)


@pytest.mark.usefixtures("_spoiled_at_the_end")
async def test_a_lost_bit_is_wrong_memory_on_both_sides() -> None:
    """Memory that differs at the end is found after a pass and postcopy, and named on both."""
    pair = Pair(spec=QUIET, rule=SwitchRule(postcopy_after=1, downtime_ms_max=0))
    await pair.migrate()
    for side in (pair.source, pair.dest):
        assert isinstance(side.problem, WrongMemory)
        assert side.problem.exit_status == 3
        assert "page 2 of block ram" in str(side.problem)
        assert side.report["midstream"]["verified"]["digest-equal"] is False
        assert side.report["midstream"]["passes"] == 1


async def test_both_ends_stay_awake_for_page_requests_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request keeps the loops of both ends awake for a moment; a precopy pass keeps none."""
    prolonged: list[BusyPoll] = []

    def count(poll: BusyPoll) -> None:
        prolonged.append(poll)

    monkeypatch.setattr(BusyPoll, "prolong", count)
    rule = SwitchRule(postcopy_after=None, downtime_ms_max=300)
    await Pair(spec=QUIET, rule=rule).migrate()
    assert prolonged == []
    pair = Pair(**PACED)
    await pair.migrate()
    requests = len(pair.source.events.of(events.PageRequest))
    of_source, of_dest = sorted(prolonged.count(each) for each in set(prolonged))
    assert of_source == requests > 0
    # Here it is done when a vCPU runs again, too.
    assert of_dest > of_source


@pytest.fixture
def _torn_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination that forgets the second half of each page when it places it."""
    end = Executor.end

    def tear(self: Executor, channel: Channel) -> None:
        span = self.engine.assembly._arriving[channel].span
        half = span.offset + span.length // 2
        self._memory.views[span.block][half : span.end] = bytes(span.end - half)
        end(self, channel)

    monkeypatch.setattr(Executor, "end", tear)


@pytest.mark.usefixtures("_torn_pages")
async def test_torn_pages_are_found_by_the_guest() -> None:
    """A vCPU that reads what must not be there is heard on both sides, before any digest."""
    pair = Pair(**PACED)
    await pair.migrate()
    assert pair.dest.events.of(events.Mismatch)
    for side in (pair.source, pair.dest):
        assert isinstance(side.problem, WrongMemory)
        assert "the guest found wrong memory in" in str(side.problem)
        assert "on the destination" in str(side.problem)
        assert side.report["midstream"]["verified"]["mismatches"] > 0


@pytest.mark.parametrize("side", ["source", "dest"])
async def test_cancelled_in_postcopy(side: str) -> None:
    """Whoever cancels, the other side is told, and no process, socket or memory is left."""
    pair = Pair(postcopy_bandwidth=64 * KIB)
    mine, other = (pair.source, pair.dest) if side == "source" else (pair.dest, pair.source)
    pair.dest.events.on(events.VcpuWait, mine.scope.cancel)
    await pair.migrate()
    # The destination has the guest, and says what is lost of it, whoever ended it.
    assert mine.scope.cancelled_caught if side == "source" else isinstance(mine.error, MemoryLost)
    assert isinstance(other.error, MemoryLost if side == "source" else PeerAborted)
    assert "cancelled by its user" in str(other.error)
    assert mine.events.states[-1] == other.events.states[-1] == "cancelled"


async def test_a_guest_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the vCPUs' process dies in postcopy both users are told how."""
    pair = Pair(postcopy_bandwidth=64 * KIB)

    @asynccontextmanager
    async def open_mortal(
        memory: GuestMemory, spec: ProgramSpec, service: str, process: GuestProcess
    ) -> AsyncIterator[GuestHandle]:
        async with open_guest(memory, spec, service, process) as guest:
            pair.dest.events.on(
                events.State, lambda: os.kill(guest.pid, signal.SIGKILL), state="postcopy-active"
            )
            yield guest

    monkeypatch.setattr("dest.session.open_guest", open_mortal)
    await pair.migrate()
    reason = "the guest process was killed by SIGKILL"
    assert str(pair.dest.error) == reason
    assert isinstance(pair.source.error, PeerAborted)
    assert reason in str(pair.source.error)
