"""How `migrate` starts both sides; tests/test_migrate.py and test_errors.py run it for real."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from guest.whole_file import own_descriptor
from protocol.errors import MigrationError
from scripts.links.link import LOOPBACK
from scripts.options import OPTIONS
from scripts.processes import pair
from scripts.processes.pair import Handed, _for_children, both_sides
from scripts.runtime.interrupts import SIGNALS
from scripts.runtime.spawn import Spawned, spawn
from tests.bounds import nothing_left

SECRET = b"0123456789abcdef"


def values(**given: object) -> dict[str, object]:
    """Return the values of `midstream migrate`, of which these were given."""
    return {option.name: option.default for option in OPTIONS} | given


def held() -> set[int]:
    """Return which of the signals that end a command wait."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)


def test_neither_side_outlives_the_block() -> None:
    """Whatever happens before somebody takes them over; until then signals wait."""
    started: list[Spawned] = []
    with (
        suppress(ImportError),
        both_sides(values(), SECRET, LOOPBACK, None, watched=False) as sides,
    ):
        assert held() == set(SIGNALS)
        started += sides
        raise ImportError
    assert [side.side for side in started] == ["dest", "source"]
    assert [side.process.returncode for side in started] == [-signal.SIGKILL] * 2
    assert not held()


def test_a_pair_of_which_one_cannot_be_started_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other ends, and the report that was wanted says why."""
    started: list[Spawned] = []

    def only_the_first(side: str, arguments: list[str], **how: Any) -> Spawned:  # noqa: ANN401
        if started:
            raise MigrationError(f"cannot start the {side}: no more processes")
        started.append(spawn(side, arguments, **how))
        return started[0]

    monkeypatch.setattr(pair, "spawn", only_the_first)
    report = tmp_path / "report.json"
    with (
        pytest.raises(MigrationError, match="no more processes"),
        both_sides(values(report=str(report)), SECRET, LOOPBACK, None, watched=False),
    ):
        raise AssertionError
    assert started[0].process.returncode == -signal.SIGKILL
    assert not held()
    told = json.loads(report.read_text(encoding="utf-8"))
    assert told["status"] == "failed"
    assert told["midstream"]["reason"] == "cannot start the source: no more processes"


@pytest.mark.parametrize(
    ("name", "value"),
    [("save", "/dev/stdout"), ("image", "/dev/fd/{fd}"), ("events", "/dev/fd/{fd}")],
)
def test_a_file_of_this_process_is_handed_on(tmp_path: Path, name: str, value: str) -> None:
    """A side has it under a number that is no standard stream's, and need open no path to it."""
    with (tmp_path / "file").open("wb") as file, nothing_left(), Handed() as handed:
        value = value.format(fd=file.fileno())
        known = _for_children(name, value, handed)
        assert known == _for_children(name, value, handed)
        (fd,) = handed.descriptors
        assert known == f"/dev/fd/{fd}"
        assert fd > 2
        own = own_descriptor(value)
        assert own is not None
        assert os.fstat(fd) == os.fstat(own)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", "/dev/null"),
        ("image", "/dev/fd/63/x"),
        ("report", "-"),
        ("image", None),
        ("size", "/dev/stdin"),
        ("quiet", True),
    ],
)
def test_what_means_the_same_elsewhere_stays(name: str, value: object) -> None:
    """Files are opened by each side itself."""
    with Handed() as handed:
        assert _for_children(name, value, handed) == value
        assert not handed.descriptors


def test_a_descriptor_that_is_not_open_is_an_error() -> None:
    """The error names it."""
    with Handed() as handed, pytest.raises(MigrationError, match="/dev/fd/987654: Bad file"):
        _for_children("image", "/dev/fd/987654", handed)


def test_what_was_opened_before_is_not_begun_anew(tmp_path: Path) -> None:
    """A file of an earlier run is emptied; one that the user's shell has opened is the user's."""
    (tmp_path / "events").write_text("of before", encoding="utf-8")
    (tmp_path / "out").write_text("of before", encoding="utf-8")
    with (tmp_path / "out").open("a", encoding="utf-8") as out:
        values = {"events": str(tmp_path / "events"), "report": f"/dev/fd/{out.fileno()}"}
        pair._clear_outputs(values)
    assert (tmp_path / "events").read_text(encoding="utf-8") == ""
    assert (tmp_path / "out").read_text(encoding="utf-8") == "of before"
