"""The kernel stops vCPUs: what becomes of huge pages, and how much memory that takes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guest.backing import memory_info
from guest.handle import GuestHandle, open_guest
from guest.launch import GuestProcess
from guest.memory import GuestMemory
from guest.probe import can_back, can_stop_at_faults
from guest.programs import ProgramSpec
from protocol.geometry import Geometry, RamBlock
from protocol.policy import preset
from protocol.units import parse_bytes
from tests.guests import HUGE, huge_mapped_bytes
from tests.huge_pages import huge_pages
from tests.pairs import PACED, Pair
from tests.processes import SECONDS_MAX, Lab

GEOMETRY = Geometry((RamBlock("ram", 4 * HUGE, HUGE),))

# Interpreter, NumPy and what an engine knows of a guest of 2 GiB; no copy of the guest is in it.
ANONYMOUS_BYTES_MAX = 96 << 20


def skip_without(kind: str) -> None:
    """Skip a test where there is no such memory, or the kernel stops nobody in it."""
    for ok, reason in (can_back(kind), can_stop_at_faults(kind, HUGE)):
        if not ok:
            pytest.skip(reason)


@pytest.mark.parametrize("policy", ["critical-first", "ordered"])
async def test_huge_pages_are_mapped_as_such_again(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that were placed by 4 KiB, or whole, are mapped by huge pages at the end."""
    skip_without("thp")
    mapped_bytes: list[int] = []

    @asynccontextmanager
    async def open_watched(
        memory: GuestMemory, spec: ProgramSpec, service: str, process: GuestProcess
    ) -> AsyncIterator[GuestHandle]:
        async with open_guest(memory, spec, service, process) as guest:
            yield guest
            mapped_bytes.append(huge_mapped_bytes(guest.service.addresses[0], guest.pid))

    monkeypatch.setattr("dest.session.open_guest", open_watched)
    pair = Pair("userfault", "thp", GEOMETRY, policy=preset(policy), **PACED)
    await pair.migrate()
    report = pair.expect_success()
    assert report["midstream"]["backing"] == "thp"
    assert report["midstream"]["faults"]["count"] > 0
    assert mapped_bytes == [GEOMETRY.length_bytes]


async def test_hugetlb_pages_are_placed_whole() -> None:
    """Memory of the administrator's huge pages is placed by the kernel, page by page."""
    # Both sides have their memory made of them.
    with huge_pages(2 * GEOMETRY.blocks[0].page_count):
        skip_without("hugetlb")
        pair = Pair("userfault", "hugetlb", GEOMETRY, **PACED)
        await pair.migrate()
    report = pair.expect_success()
    assert report["midstream"]["backing"] == "hugetlb"
    assert report["midstream"]["placement"] == "userfault"


async def test_who_insists_on_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A placement asked for by name ends the migration where it cannot be had, in one line."""
    monkeypatch.setattr(
        "dest.session.service_for", lambda *_: ("none", "4 KiB of such a page cannot be mapped")
    )
    pair = Pair("userfault", policy=preset("critical-first"))
    await pair.migrate()
    reason = "--placement userfault: 4 KiB of such a page cannot be mapped"
    assert str(pair.dest.error) == reason
    assert reason in str(pair.source.error)


def anonymous_bytes(pid: int) -> int:
    """Return a process's anonymous memory, 0 if it has gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    lines = [line.split() for line in text.splitlines() if line.startswith("RssAnon:")]
    return int(lines[0][1]) << 10 if lines else 0


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ("64MiB", ("--postcopy-after=0",)),
        # Zeros only, which cost the machine time and not the wire.
        ("2GiB", ("--image=/dev/null", "--access-rate=200")),
    ],
)
def test_memory_exists_once(lab: Lab, size: str, shape: tuple[str, ...]) -> None:
    """No process of a migration ever holds a copy of the guest beside the guest's memory."""
    if memory_info()["MemAvailable"] < 4 * parse_bytes(size):
        pytest.skip(f"two guests of {size} do not fit into the memory that is free")
    source, dest = lab.start_pair(
        f"--size={size}", "--vcpus=2", "--report=-", *shape, dest_arguments=("--quiet",)
    )
    peaks: dict[int, int] = {}
    deadline = time.monotonic() + 3 * SECONDS_MAX
    while source.status is None or dest.status is None:
        assert time.monotonic() < deadline
        for pid in lab.living():
            peaks[pid] = max(peaks.get(pid, 0), anonymous_bytes(pid))
        time.sleep(0.02)
    source.succeed()
    dest.succeed()
    # Both sides, and both guests.
    assert len(peaks) == 4
    assert max(peaks.values()) < ANONYMOUS_BYTES_MAX, peaks
