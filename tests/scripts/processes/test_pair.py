"""How `migrate` starts both sides; tests/test_migrate.py and test_errors.py run it for real."""

import json
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guest.whole_file import own_descriptor
from protocol.errors import MidstreamError, MigrationError
from scripts.configure import dest_config, program_of, source_config
from scripts.links.link import LOOPBACK
from scripts.options import OPTIONS
from scripts.processes import pair
from scripts.processes.pair import Handed, both_sides
from scripts.reports import Outputs
from scripts.run_config import Access, DestRun, SourceRun
from scripts.runtime.interrupts import SIGNALS
from scripts.runtime.spawn import Spawned, spawn
from tests.bounds import nothing_left

SECRET = b"0123456789abcdef"


def runs(report: str | None = None) -> tuple[SourceRun, DestRun]:
    """Return what `midstream migrate` has both sides do, with a report where it is wanted."""
    values = {option.name: option.default for option in OPTIONS}
    access, wanted = Access(secret=SECRET), Outputs(report=report)
    return (
        SourceRun.of(source_config(values), program_of(values), access, wanted),
        DestRun.of(dest_config(values), access, wanted),
    )


def held() -> set[int]:
    """Return which of the signals that end a command wait."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)


def test_neither_side_outlives_the_block() -> None:
    """Whatever happens before somebody takes them over; until then signals wait."""
    started: list[Spawned] = []
    with (
        suppress(ImportError),
        both_sides(*runs(), LOOPBACK, None, watched=False) as sides,
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

    def only_the_first(side: str, **how: Any) -> Spawned:  # noqa: ANN401
        if started:
            raise MigrationError(f"cannot start the {side}: no more processes")
        started.append(spawn(side, **how))
        return started[0]

    monkeypatch.setattr(pair, "spawn", only_the_first)
    report = tmp_path / "report.json"
    with (
        pytest.raises(MigrationError, match="no more processes"),
        both_sides(*runs(report=str(report)), LOOPBACK, None, watched=False),
    ):
        raise AssertionError
    assert started[0].process.returncode == -signal.SIGKILL
    assert not held()
    told = json.loads(report.read_text(encoding="utf-8"))
    assert told["status"] == "failed"
    assert told["midstream"]["reason"] == "cannot start the source: no more processes"


@pytest.mark.parametrize("value", ["/dev/stdout", "/dev/fd/{fd}"])
def test_a_file_of_this_process_is_handed_on(tmp_path: Path, value: str) -> None:
    """A side has it under a number that is no standard stream's, and need open no path to it."""
    with (tmp_path / "file").open("wb") as file, nothing_left(), Handed() as handed:
        value = value.format(fd=file.fileno())
        known = handed.path(value)
        assert known == handed.path(value)
        assert handed.path(Path(value)) == Path(known)
        (fd,) = handed.descriptors
        assert known == f"/dev/fd/{fd}"
        assert fd > 2
        own = own_descriptor(value)
        assert own is not None
        assert os.fstat(fd) == os.fstat(own)


@pytest.mark.parametrize("value", ["/dev/null", "/dev/fd/63/x", "-", None, Path("/dev/null")])
def test_what_means_the_same_elsewhere_stays(value: str | Path | None) -> None:
    """Files are opened by each side itself."""
    with Handed() as handed:
        assert handed.path(value) == value
        assert not handed.descriptors


def test_all_files_of_both_sides_are_handed_on(tmp_path: Path) -> None:
    """Those that are read, and the one that is written; what is no file of this process stays."""
    source, dest = runs()
    with (tmp_path / "file").open("wb") as file, Handed() as handed:
        own = f"/dev/fd/{file.fileno()}"
        access = Access(secret=SECRET, tls=(own, str(tmp_path), own))
        source = replace(
            source, access=access, config={**source.config, "image": Path(own)},
            program=replace(source.program, trace=own),
        )  # fmt: skip
        dest = replace(dest, access=access, config={**dest.config, "save": Path(own)})
        known = handed.path(own)
        source, dest = handed.source(source), handed.dest(dest, "there")
    assert known != own
    assert (source.config["image"], source.program.trace) == (Path(known), known)
    assert (dest.config["save"], dest.config["host"]) == (Path(known), "there")
    assert source.access.tls == dest.access.tls == (known, str(tmp_path), known)


def test_a_descriptor_that_is_not_open_is_an_error() -> None:
    """The error names it."""
    with Handed() as handed, pytest.raises(MigrationError, match="/dev/fd/987654: Bad file"):
        handed.path("/dev/fd/987654")


def test_what_was_opened_before_is_not_begun_anew(tmp_path: Path) -> None:
    """A file of an earlier run waits for this one; what the user's shell has opened is the user's.

    Neither is touched by who starts the sides.
    """
    (tmp_path / "events").write_text("of before", encoding="utf-8")
    with (tmp_path / "events").open("a", encoding="utf-8") as out:
        told = [
            pair._holds_events(path)
            for path in (str(tmp_path / "events"), f"/dev/fd/{out.fileno()}", None, "/dev/null")
        ]
    assert told == [True, False, False, False]
    assert (tmp_path / "events").read_text(encoding="utf-8") == "of before"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_events_that_cannot_be_replaced_are_refused_at_once(tmp_path: Path) -> None:
    """And not when the migration has begun."""
    (tmp_path / "events").write_text("of before", encoding="utf-8")
    (tmp_path / "events").chmod(0o400)
    with pytest.raises(MidstreamError, match=r"cannot write .*events: Permission denied"):
        pair._holds_events(str(tmp_path / "events"))
