"""How `migrate` starts both sides; tests/test_migrate.py and test_errors.py run it for real."""

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from protocol.errors import MigrationError
from scripts.options import OPTIONS
from scripts.processes import pair
from scripts.processes.interrupts import SIGNALS
from scripts.processes.link import LOOPBACK
from scripts.processes.pair import _for_children, both_sides
from scripts.processes.spawn import Spawned, spawn

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

    def only_the_first(
        side: str, arguments: list[str], *, capture: bool, prefix: Sequence[str], secret: bytes
    ) -> Spawned:
        if started:
            raise MigrationError(f"cannot start the {side}: no more processes")
        started.append(spawn(side, arguments, capture=capture, prefix=prefix, secret=secret))
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
    ("name", "value", "handed_on"),
    [
        ("image", "/dev/stdin", "/proc/{pid}/fd/0"),
        ("save", "/dev/stdout", "/proc/{pid}/fd/1"),
        ("events", "/dev/stderr", "/proc/{pid}/fd/2"),
        ("image", "/dev/fd/63", "/proc/{pid}/fd/63"),
        ("image", "/dev/null", "/dev/null"),
        ("image", "/dev/fd/63/x", "/dev/fd/63/x"),
        ("report", "-", "-"),
        ("image", None, None),
        ("size", "/dev/stdin", "/dev/stdin"),
        ("quiet", True, True),
    ],
)
def test_a_file_of_this_process_is_named_for_others(
    name: str, value: object, handed_on: object
) -> None:
    """A name that means something else in another process is handed on as one that does not."""
    expected = handed_on.format(pid=os.getpid()) if isinstance(handed_on, str) else handed_on
    assert _for_children(name, value) == expected
