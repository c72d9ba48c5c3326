"""Each run of a comparison has an outcome, however it ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import GaveUp, MigrationCancelled, MigrationError
from protocol.policy import PRESETS
from scripts.figures import compared_runs
from scripts.figures.compared import EVENTS, REPORT
from scripts.figures.compared_runs import rows_of
from scripts.figures.runs import RunFailed
from scripts.links.spec import LinkSpec
from tests.compared import report

Report = dict[str, Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any], Any]:
    """Return what runs a row whose migration comes to a report, or to an error."""
    monkeypatch.setattr(compared_runs, "read_all", lambda _: [])

    def run_as(end: Report | MigrationError) -> Any:  # noqa: ANN401 - an outcome
        def migrate(_: object, folder: Path) -> Report:
            assert not list(folder.iterdir())
            if isinstance(end, MigrationError):
                raise end
            return end

        monkeypatch.setattr(compared_runs, "run_migration", migrate)
        rows = rows_of({"mine": ("mine.py:x", PRESETS["ordered"])}, None, LinkSpec())
        return rows["mine"](tmp_path, {})

    return run_as


def test_a_run_that_ended_well_has_its_figures(run: Callable[[Any], Any], tmp_path: Path) -> None:
    """And none of what the run before has left in the folder, which may be another's."""
    for name in (EVENTS, REPORT):
        (tmp_path / name).write_text("old", encoding="utf-8")
    outcome = run(report())
    assert (outcome.failure, outcome.exit_status, outcome.verified) == ("", 0, True)
    assert outcome.figures["total-ms"] == 20


@pytest.mark.parametrize(
    ("end", "words", "status"),
    [
        (report(mismatches=2), "wrong memory", 3),
        (report(pages=0), "nobody compared its memory", 1),
        (report(waits=3), "different numbers of faults", 1),
        (RunFailed("no room", 1, None), "no room", 1),
        (RunFailed("page 5 is stale", 3, report(mismatches=1)), "page 5 is stale", 3),
        (RunFailed("the source is gone", 4, report(status="failed")), "the source is gone", 4),
        (RunFailed("mine.py:7: no", 5, report()), "mine.py:7: no", 5),
        (RunFailed("", -9, None), "signal 9", 1),
        (MigrationError("it has not ended"), "it has not ended", 1),
    ],
)
def test_a_run_that_did_not_end_well_says_so(
    run: Callable[[Any], Any], end: Report | MigrationError, words: str, status: int
) -> None:
    """It has a reason, the exit status that goes with it, and a report, but no latencies."""
    outcome = run(end)
    assert words in outcome.failure
    assert not outcome.failure.startswith("a run failed")
    assert (outcome.exit_status, outcome.latencies_us) == (status, ())
    assert outcome.report["midstream"]["schema"] == "midstream-report/1"
    assert outcome.to_plain()["exit-status"] == status


def test_nobody_knows_what_a_qemu_has_sent(run: Callable[[Any], Any]) -> None:
    """That its memory was compared with nothing is no failure."""
    outcome = run(report(pages=0, peer="qemu"))
    assert (outcome.failure, outcome.verified) == ("", None)


@pytest.mark.parametrize(
    "end",
    [
        MigrationCancelled("cancelled by SIGINT"),
        RunFailed("cancelled by SIGTERM", 130, None),
        RunFailed("no such policy", 2, None),
    ],
)
def test_what_ends_a_comparison(run: Callable[[Any], Any], end: MigrationError) -> None:
    """Its user does, and an option that every run would refuse."""
    with pytest.raises(MigrationError) as raised:
        run(end)
    assert raised.value is end


def test_a_run_that_gave_up_is_one_that_failed(run: Callable[[Any], Any]) -> None:
    """Its process says so by its exit status: no user has ended the comparison."""
    outcome = run(RunFailed(str(GaveUp("it does not converge")), 1, None))
    assert (outcome.exit_status, outcome.failure) == (1, "it does not converge")
