"""Tests of protocol/records.py, and that the records of protocol/report/ cross."""

import dataclasses
import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.limits import REASON_CHARS_MAX
from protocol.records import pack_record, unpack_plain, unpack_record
from protocol.report import AccountRecord, DestPart, SourcePart, StageSummary, Summary
from tests.strategies import plain_values, records_of


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A record in a record."""

    name: str
    weight: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """A record of all that a record may hold."""

    leaf: Leaf
    count: int
    share: float
    done: bool
    raw: bytes
    words: tuple[str, ...]
    leaves: tuple[Leaf, ...]
    grid: tuple[tuple[int, ...], ...]
    note: str | None
    spare: Leaf | None
    extra: int = 5


def plain_tree() -> dict[str, Any]:
    """Return a Tree as the plain values that it crosses as."""
    return {
        "leaf": {"name": "a", "weight": 0.5},
        "count": 3,
        "share": 0.25,
        "done": True,
        "raw": b"\x00\xff",
        "words": ["x", "y"],
        "leaves": [{"name": "b", "weight": 1.0}, {"name": "c", "weight": -2.0}],
        "grid": [[1, 2], []],
        "note": None,
        "spare": None,
        "extra": 6,
    }


TREE = Tree(
    leaf=Leaf("a", 0.5),
    count=3,
    share=0.25,
    done=True,
    raw=b"\x00\xff",
    words=("x", "y"),
    leaves=(Leaf("b", 1.0), Leaf("c", -2.0)),
    grid=((1, 2), ()),
    note=None,
    spare=None,
    extra=6,
)


def changed(path: str, value: object) -> bytes:
    """Return the payload of a Tree in which the value at a dotted path is another."""
    plain = plain_tree()
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = plain
    for step in way:
        place = place[step]
    place[last] = value
    packed: bytes = msgpack.packb(plain)
    return packed


def test_a_record_is_a_map_of_its_fields() -> None:
    """A record crosses as a msgpack map, records in it as maps again, and tuples as arrays."""
    actual = msgpack.unpackb(pack_record(TREE))
    assert plain_tree() == actual


def test_a_record_comes_back() -> None:
    """What was packed is the same record again, all its types included."""
    actual = unpack_record(Tree, pack_record(TREE))
    assert actual == TREE
    assert isinstance(actual.leaves[1], Leaf)
    assert isinstance(actual.words, tuple)


@pytest.mark.parametrize("record_type", [Leaf, Tree, AccountRecord, DestPart, SourcePart])
@settings(max_examples=40)
@given(data=st.data())
def test_any_record_comes_back(record_type: type[object], data: st.DataObject) -> None:
    """Every value of every record crosses unchanged."""
    record = data.draw(records_of(record_type))
    actual = unpack_record(record_type, pack_record(record))
    assert record == actual


def test_optional_values_are_there_or_not() -> None:
    """An optional field takes a value as well as none."""
    tree = dataclasses.replace(TREE, note="a note", spare=Leaf("d", 4.0))
    actual = unpack_record(Tree, pack_record(tree))
    assert tree == actual


def test_fields_may_come_in_any_order() -> None:
    """The names tell the fields apart, not their order."""
    turned = dict(reversed(plain_tree().items()))
    actual = unpack_record(Tree, msgpack.packb(turned))
    assert actual == TREE


def test_a_whole_number_is_a_float() -> None:
    """A float that happens to be whole may come as an integer, and is a float then."""
    actual = unpack_record(Leaf, msgpack.packb({"name": "a", "weight": 2}))
    assert Leaf("a", 2.0) == actual
    assert isinstance(actual.weight, float)


def test_defaults_are_packed() -> None:
    """A record that was made with defaults crosses with them, not without."""
    account = AccountRecord(
        states=b"s",
        digests=(b"d" * 16, b""),
        first_mismatch="",
        part=DestPart(
            placement="simulated",
            backing="base",
            stages=(StageSummary("queue", Summary(count=1)),),
            reads=1,
            reads_unchecked=2,
            mismatches=3,
            cpu_seconds=0.5,
        ),
    )
    actual = unpack_record(AccountRecord, pack_record(account))
    assert account == actual


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("count", 3.0, "Tree.count is not of type int"),
        ("count", True, "Tree.count is not of type int"),
        ("count", None, "Tree.count is not of type int"),
        ("count", "3", "Tree.count is not of type int"),
        ("share", True, "Tree.share is not of type float"),
        ("share", "0.5", "Tree.share is not of type float"),
        ("share", float("nan"), "Tree.share is no finite number"),
        ("share", float("inf"), "Tree.share is no finite number"),
        ("leaf.weight", float("-inf"), "Tree.leaf.weight is no finite number"),
        ("done", 1, "Tree.done is not of type bool"),
        ("raw", "text", "Tree.raw is not of type bytes"),
        ("note", b"bytes", "Tree.note is not of type str"),
        ("note", "two\nlines", "Tree.note is no line of printable text"),
        ("note", "\x1b]0;title\x07", "Tree.note is no line of printable text"),
        ("note", "x" * (REASON_CHARS_MAX + 1), "Tree.note is no line of printable text"),
        ("words", "xy", "Tree.words is no array"),
        ("words", None, "Tree.words is no array"),
        ("words", {}, "Tree.words is no array"),
        ("words", ["x", 1], "Tree.words is not of type str"),
        ("leaf", None, "Tree.leaf is no map"),
        ("leaf", ["a", 0.5], "Tree.leaf is no map"),
        ("leaf", {}, "Tree.leaf has no name"),
        ("leaf", {"name": "a"}, "Tree.leaf has no weight"),
        ("spare", {"name": "a"}, "Tree.spare has no weight"),
        ("spare", 0, "Tree.spare is no map"),
        ("leaf.height", 2.0, "Tree.leaf has a field that is wrong or there twice"),
        ("leaves.1.name", 7, "Tree.leaves.name is not of type str"),
        ("leaves", [[]], "Tree.leaves is no map"),
        ("grid.0", 1, "Tree.grid is no array"),
        ("grid.0.1", [], "Tree.grid is not of type int"),
    ],
)
def test_a_wrong_field_is_named(path: str, value: object, message: str) -> None:
    """A field of a wrong type or value is the peer's fault, and the text names the field."""
    with pytest.raises(RemoteProtocolError) as caught:
        unpack_record(Tree, changed(path, value))
    assert message == str(caught.value)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Tree)])
def test_no_field_may_be_missing(name: str) -> None:
    """A field that is not there is named, also one that has a default."""
    plain = plain_tree()
    del plain[name]
    with pytest.raises(RemoteProtocolError, match=f"^Tree has no {name}$"):
        unpack_record(Tree, msgpack.packb(plain))


@pytest.mark.parametrize("name", ["other", "", "Count", "__class__", b"count", 5, None, 1.5])
def test_no_field_may_be_added(name: object) -> None:
    """A field that the record does not have is refused, whatever its name is."""
    plain: dict[object, object] = {name: 1}
    plain.update(plain_tree())
    with pytest.raises(RemoteProtocolError, match=r"^Tree has a field that is wrong"):
        unpack_record(Tree, msgpack.packb(plain))


def test_no_field_may_come_twice() -> None:
    """A field that comes again is refused, though the map says how many there are."""
    payload = b"\x82" + msgpack.packb("name") + b"\xa1a" + msgpack.packb("name") + b"\xa1b"
    with pytest.raises(RemoteProtocolError, match=r"^Leaf has a field that .* there twice$"):
        unpack_record(Leaf, payload)


def test_every_cut_payload_is_refused() -> None:
    """A payload that ends anywhere before its end is the peer's fault."""
    payload = pack_record(TREE)
    for end in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            unpack_record(Tree, payload[:end])


@pytest.mark.parametrize("more", [b"\x00", b"\xc0", b"\xc1", b"\x80"])
def test_nothing_may_follow(more: bytes) -> None:
    """A byte behind the record is refused, whatever it is."""
    with pytest.raises(RemoteProtocolError, match="Tree has bytes after its end"):
        unpack_record(Tree, pack_record(TREE) + more)


NAMED = b"\x82\xa4name\xa1a\xa6weight"


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc0", id="nil"),
        pytest.param(b"\xc1", id="a byte that msgpack never uses"),
        pytest.param(b"\x05", id="a number"),
        pytest.param(b"\x92\xa1a\x01", id="an array"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="a map that claims it all"),
        pytest.param(b"\x82\x90\x01", id="an array for a name"),
        pytest.param(b"\x82\x80\x01", id="a map for a name"),
        pytest.param(NAMED + b"\x91" * 5000, id="deep nesting for a number"),
        pytest.param(NAMED + b"\xdd\xff\xff\xff\xff", id="an array that claims it all"),
        pytest.param(NAMED + b"\xc9\xff\xff\xff\xff\x01", id="an ext that claims it all"),
        pytest.param(NAMED + b"\xd6\xff\x00\x00\x00\x00", id="a timestamp"),
        pytest.param(NAMED + b"\xd7\xff" + b"\xff" * 8, id="a timestamp that cannot be"),
        pytest.param(NAMED + b"\xd4\x01\x00", id="an extension type"),
        pytest.param(b"\x82\xa4name\xa1\xff", id="a string that is no UTF-8"),
        pytest.param(b"\x82\xa4name\xdb\xff\xff\xff\xff", id="a string that claims it all"),
        pytest.param(b"\x82\xa4name\xc6\xff\xff\xff\xff", id="bytes that claim it all"),
        pytest.param(NAMED + b"\xcb\x7f\xf8" + bytes(6), id="not a number"),
    ],
)
def test_a_wrong_payload_is_refused(payload: bytes) -> None:
    """A payload that is no record is the peer's fault, and the text that says so is short."""
    with pytest.raises(RemoteProtocolError) as caught:
        unpack_record(Leaf, payload)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(b"\xdd\x00\x0f\xff\xff" * 1000, id="nested claims"),
        pytest.param(b"\xdd\x00\x0f\xff\xff" + b"\x80" * 1_000_000, id="a million empty maps"),
        pytest.param(b"\xdd\x00\x0f\xff\xff" + b"\x91" * 1_000_000, id="a million levels"),
    ],
)
def test_a_bomb_costs_no_more_than_itself(bomb: bytes) -> None:
    """A payload that would unfold to many times its size is refused before it does."""
    digests = b"\x84\xa6states\xc4\x00\xa7digests" + bomb + b"\xc0" * 1_100_000
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            unpack_record(AccountRecord, digests)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * len(digests)


@given(st.binary(max_size=200))
def test_random_bytes_break_nothing(payload: bytes) -> None:
    """Bytes from nowhere are the peer's fault, and raise nothing else."""
    with pytest.raises(RemoteProtocolError):
        unpack_record(AccountRecord, payload)


@settings(max_examples=50)
@given(plain_values, st.sampled_from([field.name for field in dataclasses.fields(Tree)]))
def test_random_values_break_nothing(value: object, name: str) -> None:
    """Any value in any field is taken or is the peer's fault."""
    try:
        actual = unpack_record(Tree, changed(name, value))
    except RemoteProtocolError:
        return
    assert isinstance(actual, Tree)


@given(st.data())
def test_changed_bytes_break_nothing(data: st.DataObject) -> None:
    """A true payload in which bytes are changed is taken or is the peer's fault."""
    payload = bytearray(pack_record(TREE))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        actual = unpack_record(Tree, bytes(payload))
    except RemoteProtocolError:
        return
    assert isinstance(actual, Tree)


def test_a_float_crosses_exactly() -> None:
    """A float keeps all its bits: eight bytes on the wire."""
    payload = pack_record(Leaf("a", 0.1))
    assert payload.endswith(b"\xcb" + struct.pack(">d", 0.1))


def read(payload: bytes) -> object:
    """Read a payload that may have two arrays and a map."""
    return unpack_plain(payload, "a state", arrays_max=2, maps_max=1, items_max=64)


def nested(depth: int) -> bytes:
    """Return arrays in arrays, 64 in each, the innermost empty."""
    return b"\x90" if not depth else b"\xdc\x00\x40" + nested(depth - 1) * 64


@pytest.mark.parametrize("value", [[1, [2]], {"a": [1.5, True, None]}, b"x" * 1000, [[], "y"]])
def test_what_is_within_bounds_is_read(value: object) -> None:
    """Arrays and maps come back as they were."""
    assert read(msgpack.packb(value)) == value


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (msgpack.packb([[], []]), "a state has too many arrays in it"),
        (msgpack.packb({"a": {}}), "a state has too many maps in it"),
        (msgpack.packb([0] * 65), "a state is not msgpack"),
        (msgpack.packb({str(n): n for n in range(65)}), "a state is not msgpack"),
        (msgpack.packb(msgpack.ExtType(1, b"x")), "a state is not msgpack"),
        (b"", "a state is not msgpack"),
        (b"\xc1", "a state is not msgpack"),
        (b"\x91" * 100_000, "a state is not msgpack"),
        (msgpack.packb(1) * 2, "a state is not msgpack"),
        (b"\x81\x90\x01", "a state is not msgpack"),
        (b"\xa1\xff", "a state is not msgpack"),
    ],
)
def test_what_is_not_is_refused(payload: bytes, reason: str) -> None:
    """Too many containers, too long ones and what is no msgpack are the peer's fault."""
    with pytest.raises(RemoteProtocolError, match=reason):
        read(payload)


def test_a_mountain_of_containers_takes_no_memory() -> None:
    """A quarter of a MiB that would be sixteen of empty arrays is refused at the third of them."""
    payload = nested(3)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="too many arrays"):
            read(payload)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(payload) > 250_000
    assert peak_bytes < 20_000
