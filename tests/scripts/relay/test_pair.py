"""A relay between two real QEMUs."""

from __future__ import annotations

import pytest
import trio

from protocol import events
from protocol.channels import Channel
from tests.bounds import bounded
from tests.qemu_pair import need_qemu, qemu_pair


@pytest.mark.parametrize("preempt", [True, False])
def test_a_migration_passes(*, preempt: bool) -> None:
    """A migration with page requests completes through the relay, and all of memory arrives."""
    need_qemu()

    async def run() -> None:
        with bounded(200):
            async with qemu_pair("16MiB", "4KiB", preempt=preempt) as pair:
                await pair.switch_over(postcopy_bandwidth=1 << 20)
                await pair.touch(3000, 1000, 2000)
                await pair.source.call("migrate-set-parameters", **{"max-postcopy-bandwidth": 0})
                await pair.completes()
                channel = "postcopy" if preempt else "precopy"
                assert pair.served() == [("ram", page, channel) for page in (3000, 1000, 2000)]
                assert not pair.differing_bytes()
                assert pair.relay.tracker.open_requests == []
                assert not [event for event in pair.told if isinstance(event, events.Unread)]
                assert pair.relay.carried[Channel.PRECOPY] > 0

    trio.run(run)
