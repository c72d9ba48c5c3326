"""Tests of protocol/events/."""

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from protocol import events
from protocol.events import Emit, ignore
from protocol.geometry import Geometry, RamBlock
from protocol.report import STAGES, Summary
from tests.guests import small_geometry
from tests.stories import Deaf, Recorder, fields_of

ROOT = Path(__file__).parents[2]

# What whoever reads the events file may rely on.
PROMISED = {
    "state", "page-request", "preempt", "boost", "page-sent", "page-placed", "vcpu-wait",
    "vcpu-wake", "channel-lost", "recovered",
}  # fmt: skip

every_event = pytest.mark.parametrize("event", events.KINDS.values(), ids=events.KINDS)


def test_the_promised_events_have_names() -> None:
    """Every event that the events file promises is there, under its very name."""
    assert events.KINDS.keys() >= PROMISED


def test_who_cannot_say_whether_it_is_heard_is_taken_for_heard() -> None:
    """Only what surely goes nowhere need not be told."""
    assert events.is_heard(Recorder())
    assert not events.is_heard(ignore)
    assert not events.is_heard(Deaf())


def defined() -> set[type[events.Event]]:
    """Return what the module defines, but for what events are made of."""
    found = {each for each in vars(events).values() if inspect.isclass(each)}
    kinds = {each for each in found if issubclass(each, events.Event)}
    return kinds - {events.Event, events.PageEvent}


def test_no_event_is_left_out() -> None:
    """All that are defined can be found by their names."""
    assert set(events.KINDS.values()) == defined()
    assert len(events.KINDS) == len(defined())


@every_event
def test_a_name_is_that_of_its_class(event: type[events.Event]) -> None:
    """The class and its name in the file are the same words, and the line says no other."""
    assert events.KINDS[event.event] is event
    assert "".join(word.capitalize() for word in event.event.split("-")) == event.__name__
    assert event.__struct_config__.tag == event.event


@every_event
def test_an_event_says_when_and_by_whom(event: type[events.Event]) -> None:
    """Each has a line of its own about when it is told, and a side that tells it."""
    line = (event.__doc__ or "").splitlines()[0]
    assert line.endswith(".")
    assert line not in {other.__doc__ for other in defined() if other is not event}
    assert set(event.sides) <= {events.SOURCE, events.DEST, events.INJECT, events.RELAY}
    assert event.sides


def test_a_wake_has_every_stage() -> None:
    """The stages stand in it under their names and in their order; so do figures in `Accesses`."""
    stages = [f"{stage}_us" for stage in STAGES]
    fields = list(events.VcpuWake.__struct_fields__)
    assert [name for name in fields if name in stages] == stages
    assert list(events.Accesses.__struct_fields__) == [
        field.name for field in dataclasses.fields(Summary)
    ]


def test_nothing_is_told_that_is_not_defined() -> None:
    """Whoever calls an `Emit` gives it an event of the module: mypy holds it to the fields."""
    calls = [
        (path, node)
        for room in ("protocol", "source", "dest", "scripts")
        for path in sorted((ROOT / room).rglob("*.py"))
        for node in calls_of_emit(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert len(calls) > 30
    for path, node in calls:
        assert len(node.args) == 1, f"{path}:{node.lineno}"
        assert not node.keywords, f"{path}:{node.lineno}"
    told = {name for _, node in calls for name in names_in(node.args[0]) if name in vars(events)}
    # What the scheduler and QEMU's wire tell is made where its kind is known.
    by_kind = {event.__name__ for event in events.PAGE_EVENTS}
    elsewhere = {"EventsDropped", "Inject", "Link", "PeerMessage"}
    assert told | by_kind | elsewhere >= {event.__name__ for event in defined()}


def calls_of_emit(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls of something called `emit`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name.lstrip("_") == "emit":
                yield node


def names_in(node: ast.AST) -> Iterator[str]:
    """Yield all names and attributes in an expression."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.Name):
            yield each.id


def test_a_run_explains_itself() -> None:
    """What is migrated and how is told once, and every block with its page size."""
    told = Recorder()
    geometry = small_geometry()
    events.tell_run(
        told, geometry, policy="ordered", chunk_bytes=65536, vcpus=4, program="scripted"
    )
    run = events.Run(policy="ordered", chunk_bytes=65536, vcpus=4, program="scripted", blocks=2)
    assert told.events[0] == run
    assert [type(event) for event in told.events[1:]] == [events.RamBlock] * 2
    blocks = tuple(
        RamBlock(fields["name"], fields["length_bytes"], fields["page_bytes"])
        for fields in told.of(events.RamBlock)
    )
    assert Geometry(blocks) == geometry


def test_what_is_not_told_is_not_there() -> None:
    """A field without a value is no key of the line, and no null either."""
    asked = events.PageRequest(block=0, page=1)
    assert fields_of(asked) == {"block": 0, "page": 1}
    assert msgspec.json.encode(asked) == b'{"event":"page-request","block":0,"page":1}'


def test_ignoring_is_listening() -> None:
    """What ignores events can be given to whoever emits them."""
    emit: Emit = ignore
    emit(events.GuestStop())


# What reads the lines of events files; `saved` has checked them by then.
READERS = (
    *("views/history.py", "views/live.py", "views/records.py", "views/causes.py"),
    *("injection/director.py", "injection/outcome.py", "injection/qemu.py"),
    *("injection/trial.py", "figures/compared_runs.py", "figures/half_sent.py"),
)


@pytest.mark.parametrize("path", READERS)
def test_readers_know_no_other_keys(path: str) -> None:
    """A key by which an event's field is looked up is one that some event is defined to have."""
    defined_keys = {
        field.encode_name for event in defined() for field in msgspec.structs.fields(event)
    }
    tree = ast.parse((ROOT / "scripts" / path).read_text(encoding="utf-8"))
    looked_up = set(keys_of_events(tree))
    assert looked_up
    assert looked_up <= defined_keys | {"t-ns", "side", "event"}


def keys_of_events(tree: ast.AST) -> Iterator[str]:
    """Yield the texts that something called event, wait, answer or fields is looked up by."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=looked_at, slice=ast.Constant(str(key))):
                pass
            case ast.Call(
                func=ast.Attribute(value=looked_at, attr="get"), args=[ast.Constant(str(key)), *_]
            ):
                pass
            case _:
                continue
        name = looked_at.attr if isinstance(looked_at, ast.Attribute) else ast.unparse(looked_at)
        if name in {"event", "wait", "answer", "fields"}:
            yield key
