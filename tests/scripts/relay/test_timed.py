"""A migration between two real QEMUs that is timed, with a relay between them and without."""

from __future__ import annotations

import pytest

from protocol.geometry import Geometry, RamBlock
from scripts.links.link import PROXY, Link
from scripts.links.spec import LinkSpec
from scripts.qemu.command import PROGRAM
from scripts.relay.timed import run_timed
from tests.bounds import bounded, nothing_left
from tests.qemus import need_dest


@pytest.mark.parametrize("relayed", [False, True])
async def test_a_migration_is_timed(relayed: bool) -> None:
    """All memory arrives, what faults took is part of the time, and nothing is left."""
    need_dest()
    guest, link = Geometry((RamBlock("ram", 16 << 20, 4096),)), Link(LinkSpec(8_000_000), PROXY)
    with nothing_left(), bounded():
        timed = await run_timed(PROGRAM, guest, link, 1, relayed=relayed)
    assert timed.waits_ns
    assert 0 < sum(timed.waits_ns) < timed.seconds * 1e9
    assert (timed.relay_cpu_seconds > 0) is relayed
