"""What a user can tell a running migration: by the line, all of it or nothing."""

import pytest

from protocol import events
from protocol.errors import MigrationError
from protocol.states import Event, Lifecycle
from source.convergence import Means, NextStep, SwitchRule
from source.steering import Steering, parse_limits
from tests.guests import small_geometry
from tests.sides import source_config
from tests.stories import Recorder

NEVER = SwitchRule(postcopy_after=None, downtime_ms_max=300)


class Rig:
    """A steering with a lifecycle of its own."""

    def __init__(self) -> None:
        """Begin before there is a connection."""
        self.events = Recorder()
        self.lifecycle = Lifecycle(self.events)
        config = source_config(
            small_geometry(), 1, rule=NEVER, bandwidth=1000, postcopy_bandwidth=2000
        )
        self.steering = Steering(config, self.lifecycle, self.events)
        self.changes = 0
        self.steering.on_change = self.changed

    def changed(self) -> None:
        """Count a change."""
        self.changes += 1

    @property
    def limits(self) -> list[float]:
        """The limits in force."""
        steering = self.steering
        return [
            steering.bandwidth, steering.postcopy_bandwidth,
            steering.convergence.downtime_ms_max,
        ]  # fmt: skip


async def test_limits_are_changed_together() -> None:
    """What is named changes, the rest stays, and all of it is told."""
    rig = Rig()
    answer = await rig.steering.set_limits("max-bandwidth=8Mbit/s downtime-limit=2s")
    assert answer == "max-bandwidth is 1 MB/s, downtime-limit is 2000 ms"
    assert rig.limits == [10**6, 2000, 2000]
    assert await rig.steering.set_limits("max-postcopy-bandwidth=0") == (
        "max-postcopy-bandwidth is unlimited"
    )
    assert rig.limits == [10**6, 0, 2000]
    assert rig.changes == 2
    assert rig.events.of(events.Limits) == [
        {"max_bandwidth": 10**6, "max_postcopy_bandwidth": 2000, "downtime_limit_ms": 2000},
        {"max_bandwidth": 10**6, "max_postcopy_bandwidth": 0, "downtime_limit_ms": 2000},
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "give NAME=VALUE, with one of max-bandwidth, max-postcopy-bandwidth, downtime-limit"),
        ("max-bandwidth", "'max-bandwidth' is not NAME=VALUE"),
        ("bandwidth=1MB/s", "'bandwidth=1MB/s' is not NAME=VALUE"),
        ("max-bandwidth=fast", "max-bandwidth: 'fast' is not a rate"),
        ("max-bandwidth=", "max-bandwidth: '' is not a rate"),
        ("downtime-limit=300", "downtime-limit: '300' is not a duration"),
        ("max-bandwidth=1MB/s max-bandwidth=2MB/s", "max-bandwidth is given twice"),
        ("max-bandwidth=1MB/s downtime-limit=soon", "downtime-limit: 'soon'"),
    ],
)
async def test_a_wrong_limit_changes_nothing(line: str, reason: str) -> None:
    """What is wrong is named, and what is right beside it is not taken either."""
    rig = Rig()
    with pytest.raises(MigrationError) as caught:
        await rig.steering.set_limits(line)
    assert reason in str(caught.value)
    assert rig.limits == [1000, 2000, 300]
    assert rig.changes == 0
    assert rig.events.of(events.Limits) == []


async def test_nothing_is_changed_of_what_is_over() -> None:
    """A migration that has ended has no limits."""
    rig = Rig()
    rig.lifecycle.fail("cut")
    with pytest.raises(MigrationError, match="it is over, its state is failed"):
        await rig.steering.set_limits("max-bandwidth=0")


async def test_the_switch_over_is_ordered_early_or_in_a_pass() -> None:
    """Before there is a destination the order waits for it; though postcopy was never to be."""
    rig = Rig()
    assert "as soon as the destination is ready" in await rig.steering.switch_over()
    convergence = rig.steering.convergence
    convergence.start(0.0)
    assert convergence.is_due(0.0)
    other = Rig()
    for event in (Event.CONNECTED, Event.PREPARED):
        other.lifecycle.fire(event)
    assert await other.steering.switch_over() == "switching over to postcopy"
    # Whoever says it twice means the same.
    assert await other.steering.switch_over() == "switching over to postcopy"
    assert other.steering.convergence.after_pass(0.0, 0, 1, 0.0) is NextStep.POSTCOPY
    with pytest.raises(MigrationError, match="precopy is ending already: switch-over"):
        await other.steering.switch_over()


async def test_too_late_is_said() -> None:
    """When precopy is over, or has its end already, nothing can be ordered."""
    rig = Rig()
    for event in (Event.CONNECTED, Event.PREPARED):
        rig.lifecycle.fire(event)
    assert rig.steering.convergence.after_pass(0.0, 1, 0, 1e9) is NextStep.FINISH
    with pytest.raises(MigrationError, match="precopy is ending already: converged"):
        await rig.steering.switch_over()
    rig.lifecycle.fire(Event.GUEST_STOPPED)
    with pytest.raises(MigrationError, match="precopy is over, its state is device"):
        await rig.steering.switch_over()
    with pytest.raises(MigrationError, match="takes no argument"):
        await rig.steering.switch_over("now")
    assert rig.steering.convergence.means is Means.CONVERGED


def test_limits_are_read_as_the_options_are() -> None:
    """Rates in bytes a second, times in milliseconds."""
    assert parse_limits(["max-postcopy-bandwidth=1Gbit/s", "downtime-limit=1min"]) == {
        "max-postcopy-bandwidth": 125_000_000, "downtime-limit": 60_000,
    }  # fmt: skip
