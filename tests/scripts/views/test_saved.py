"""Files of events are read line by line; what is none is refused with file, line and reason."""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from protocol import events
from protocol.errors import LocalProtocolError
from scripts.views import saved
from scripts.views.saved import LINE_BYTES_MAX, read_all, read_saved
from tests.stories import half_sent, write

HEAD = '"t-ns":1,"side":"source"'


def test_events_come_as_they_were_written(tmp_path: Path) -> None:
    """Each line is an event, in its order; names that nobody knows are let through."""
    told = [*half_sent(), {"t-ns": 7, "side": "moon", "event": "eclipse", "block": "none"}]
    assert list(read_all(write(tmp_path / "events", told))) == told


WAKE = '"block":0,"page":0,"vcpu":1,"latency-us":1'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"t-ns":1,"side":"source"}', "'event' is missing"),
        ('{"t-ns":1.5,"side":"source","event":"x"}', "'t-ns' is '1.5', not a whole number"),
        ('{"t-ns":true,"side":"source","event":"x"}', "'t-ns' is 'True'"),
        ('{"t-ns":-1,"side":"source","event":"x"}', "'t-ns' cannot be -1"),
        (f'{{{HEAD},"event":"page-request","block":0}}', "'page' is missing"),
        (f'{{{HEAD},"event":"page-request","block":64,"page":0}}', "'block' cannot be 64"),
        (
            f'{{{HEAD},"event":"page-placed","block":0,"page":0,"pages":1000000}}',
            "'pages' cannot be 1000000",
        ),
        (
            f'{{{HEAD},"event":"page-sent","block":0,"page":0,"channel":"x","urgent":true}}',
            "there is no channel 'x'",
        ),
        (
            f'{{{HEAD},"event":"vcpu-wake","block":0,"page":0,"vcpu":1,"latency-us":"x"}}',
            "'latency-us' is 'x', not a number",
        ),
        (f'{{{HEAD},"event":"verdict","mismatches":0}}', "'equal' is missing, not true or false"),
        (f'{{{HEAD},"event":"guest-run","vcpu":1}}', "guest-run has no 'vcpu'"),
        (f'{{{HEAD},"event":"pass-end","index":"x"}}', "'index' is 'x', not a whole number"),
        (
            f'{{{HEAD},"event":"page-placed","block":0,"page":0,"channel":"x"}}',
            "there is no channel 'x'",
        ),
        (
            f'{{{HEAD},"event":"page-request","block":0,"page":0,"answer":null}}',
            "'answer' is missing",
        ),
        *(
            (
                f'{{{HEAD},"event":"vcpu-wake",{WAKE},"{name}":"{text}"}}',
                f"'{name}' cannot be '{text}'",
            )
            for name, text in (
                *(("behind", text) for text in ("", "5", "0:x", "0:1,0:2", "-1:2", "0:1  0:2")),
                *(
                    ("parts-us", text)
                    for text in ("", "nap 1.000", "wake 1", "wake 1.000,wake 1.000")
                ),
            )
        ),
        (f'{{{HEAD},"event":"x","reason":"{"y" * LINE_BYTES_MAX}"}}', "longer than"),
    ],
)
def test_what_is_no_event_is_refused_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    """A complaint names the file, the line and what is wrong with it."""
    path = tmp_path / "events"
    path.write_text(f'{{{HEAD},"event":"fine"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(LocalProtocolError) as caught:
        list(read_all(path))
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        '"event":"run","policy":"drop","vcpus":1,"chunk-bytes":4096,"program":"zipf"',
        '"event":"page-sent","block":0,"page":1,"channel":"precopy","urgent":false',
        '"event":"page-placed","block":0,"page":1',
        '"event":"page-placed","block":0,"page":1,"pages":1,"channel":null',
        '"event":"vcpu-wait","vcpu":0,"block":0,"page":1',
        f'"event":"vcpu-wake",{WAKE}',
    ],
)
def test_files_of_old_are_read(tmp_path: Path, line: str) -> None:
    """What was not told at first may be missing; a channel may be none."""
    path = tmp_path / "events"
    path.write_text(f"{{{HEAD},{line}}}\n", encoding="utf-8")
    assert len(list(read_all(path))) == 1


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    """Wherever in its last line a file was cut off, the lines before are read, and that is said."""
    told = half_sent()[:3]
    path = write(tmp_path / "events", told)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole) + 1):
        path.write_bytes(whole[:end])
        said: list[str] = []
        read = list(read_saved(path, said.append))
        # Without its line end alone nothing of it is missing.
        is_cut = last < end < len(whole) - 1
        assert read == (told if end >= len(whole) - 1 else told[:2])
        assert said == ([f"{path}, line 3: the last line is unfinished and left out"] * is_cut)
        if is_cut:
            with pytest.raises(LocalProtocolError, match="line 3: the last line is unfinished"):
                list(read_all(path))


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b'{"t-ns":1,"si'])
def test_what_a_crash_leaves_behind_the_last_line(tmp_path: Path, damage: bytes) -> None:
    """Zeros that a file system left are an unfinished line, too; in the middle they are none."""
    path = write(tmp_path / "events", half_sent())
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    said: list[str] = []
    assert list(read_saved(path, said.append)) == half_sent()
    assert len(said) == bool(damage)
    if damage:
        path.write_bytes(whole + damage + whole)
        number = len(half_sent()) + 1
        with pytest.raises(LocalProtocolError, match=f"line {number}: no JSON"):
            list(read_saved(path, said.append))


def test_an_unfinished_first_line_is_no_run(tmp_path: Path) -> None:
    """Of a file without one whole line nothing can be shown; it may be anything."""
    (tmp_path / "events").write_bytes(b'{"t-ns":1,"si')
    with pytest.raises(LocalProtocolError, match="line 1: no JSON"):
        list(read_saved(tmp_path / "events", lambda _: None))


@pytest.mark.parametrize(("name", "reason"), [("none", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    """A missing file and a folder are complaints with the path."""
    with pytest.raises(LocalProtocolError, match=reason):
        list(read_all(tmp_path / name))


def test_an_empty_file_holds_no_run(tmp_path: Path) -> None:
    """Nothing at all is more likely a mistake than a run without events."""
    (tmp_path / "events").touch()
    with pytest.raises(LocalProtocolError, match="is empty"):
        list(read_all(tmp_path / "events"))


def written(fields: Iterable[str]) -> str:
    """Return fields as the table writes them."""
    return ", ".join(f"`{name}`" for name in fields)


def row_of(name: str, event: type[events.Event]) -> str:
    """Return an event's row of the table, from its definition."""
    both = set(event.sides) == {events.SOURCE, events.DEST} and event.sides[0] == events.SOURCE
    when = (event.__doc__ or "").splitlines()[0].removesuffix(".")
    required = {field.encode_name for field in msgspec.structs.fields(event) if field.required}
    always = [field for field in saved.fields_of(event) if field in required]
    at_times = [field for field in saved.fields_of(event) if field not in required]
    fields = written(always) + f"; {written(at_times)}" * bool(at_times)
    return f"| `{name}` | {'both' if both else ', '.join(event.sides)} | {when} | {fields} |"


def test_every_event_is_described() -> None:
    """The table of events is what their definitions say: names, sides, when, fields in order."""
    text = (Path(saved.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    events_end = len(events.KINDS)
    assert rows[:events_end] == [row_of(name, event) for name, event in events.KINDS.items()]


def kind_of(field: saved.Field) -> str:
    """Return what a field holds, in the words of the table."""
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    bound = f", at most {field.most:,}" if 0 < field.most < saved.NUMBER_MAX else ""
    return words[field.kind] + bound


def test_every_field_is_described() -> None:
    """The table of types has each field once, for it is the same in all events that have it."""
    kinds: dict[str, set[str]] = {}
    for event in events.KINDS.values():
        for name, field in saved.fields_of(event).items():
            kinds.setdefault(name, set()).add(kind_of(field))
    by_kind: dict[str, list[str]] = {}
    for name, found in kinds.items():
        (kind,) = found
        by_kind.setdefault(kind, []).append(name)
    text = (Path(saved.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| [a-z]", line)]
    expected = [f"| {kind} | {written(sorted(names))} |" for kind, names in sorted(by_kind.items())]
    assert [row for row in rows if not row.startswith(("| event ", "| a "))] == expected
