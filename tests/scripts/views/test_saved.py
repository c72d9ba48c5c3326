"""Files of events are read line by line; what is none is refused with file, line and reason."""

import re
from pathlib import Path

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


def test_every_event_is_described() -> None:
    """The table of events names all there are, and no others."""
    text = (Path(saved.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    described = [name for row in rows for name in re.findall("`([a-z-]+)`", row.split("|")[1])]
    names = {value for name, value in vars(events).items() if name.isupper()}
    assert set(described) == names
    assert len(described) == len(names)
