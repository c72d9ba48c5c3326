"""What events say that a channel has carried goes on over breaks, and ends with what it carried."""

from __future__ import annotations

import pytest
import trio

from guest.programs import ProgramSpec
from protocol import events
from protocol.channels import Channel
from protocol.geometry import Geometry, RamBlock
from protocol.messages import PageData, PageRest
from protocol.policy import preset
from scripts.injection.actions import NetworkAction
from scripts.injection.marks import Direction
from source.convergence import SwitchRule
from tests.bounds import bounded, nothing_left
from tests.breaking import Breaking, Place
from tests.guests import HUGE, KIB, SEED

GEOMETRY = Geometry((RamBlock("ram", 2 * HUGE, HUGE), RamBlock("rom", 32 * 4 * KIB, 4 * KIB)))
TOUCH = (700, 1030)
CUT = NetworkAction("cut", tuple(Channel))


@pytest.mark.parametrize("policy", ["ordered", "critical-first", "vanilla"])
async def test_what_a_channel_carried_goes_on_over_breaks(breaking: Breaking, policy: str) -> None:
    """Each break begins new connections, and no event counts from their begin."""
    places = [
        Place(Channel.PRECOPY, Direction.FORWARD, PageData, 20, 9000),
        Place(Channel.PRECOPY, Direction.FORWARD, PageRest, 1, 700),
    ]
    await trio.to_thread.run_sync(int)
    with nothing_left(), bounded(30):
        run = await breaking.run(
            GEOMETRY, dict.fromkeys(places, CUT), touch=TOUCH, policy=preset(policy),
            rule=SwitchRule(postcopy_after=0, downtime_ms_max=0),
            spec=ProgramSpec(seed=SEED, vcpu_count=len(TOUCH)),
        )  # fmt: skip
    assert not run.errors
    assert not run.unreached
    report = run.reports["source"]["midstream"]
    assert report["recoveries"] == 2
    for channel in Channel:
        counts = [
            fields["channel_bytes"] for fields in run.events["source"].of(events.PageEvent)
            if fields["channel"] == channel.value
        ]  # fmt: skip
        assert counts == sorted(counts)
        if counts:
            # Closing takes a few more.
            assert 0 <= report["channels"][channel.value] - counts[-1] < 500
