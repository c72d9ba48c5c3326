"""Tests of protocol/events.py."""

from protocol import events
from protocol.events import Emit, ignore
from protocol.geometry import Geometry, RamBlock
from tests.helpers import Recorder, small_geometry

# What whoever reads the events file may rely on.
PROMISED = {
    "state", "page-request", "preempt", "boost", "page-sent", "page-placed", "vcpu-wait",
    "vcpu-wake", "channel-lost", "recovered",
}  # fmt: skip


def test_the_promised_events_have_names() -> None:
    """Every event that the events file promises is there, under its very name."""
    names = [value for name, value in vars(events).items() if name.isupper()]
    assert set(names) >= PROMISED
    assert len(set(names)) == len(names)


def test_names_follow_their_constants() -> None:
    """A constant and the name that it stands for are the same words."""
    for name, value in vars(events).items():
        if name.isupper():
            assert name.lower().replace("_", "-") == value


def test_a_run_explains_itself() -> None:
    """What is migrated and how is told once, and every block with its page size."""
    told = Recorder()
    geometry = small_geometry()
    events.tell_run(
        told, geometry, policy="ordered", chunk_bytes=65536, vcpus=4, program="scripted"
    )
    assert told.events[0] == (
        events.RUN,
        {"policy": "ordered", "chunk_bytes": 65536, "vcpus": 4, "program": "scripted", "blocks": 2},
    )
    assert [event for event, _ in told.events[1:]] == [events.RAM_BLOCK] * 2
    blocks = tuple(
        RamBlock(fields["name"], fields["length_bytes"], fields["page_bytes"])
        for fields in told.of(events.RAM_BLOCK)
    )
    assert Geometry(blocks) == geometry


def test_ignoring_is_listening() -> None:
    """What ignores events can be given to whoever emits them."""
    emit: Emit = ignore
    emit(events.PAGE_SENT, block=0, page=1, channel="precopy", urgent=True, ms=0.5, answer=None)
