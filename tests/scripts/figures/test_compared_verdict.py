"""The verdict on a comparison counts all runs, whichever failed."""

from scripts.figures.compared import plain_of
from scripts.figures.compared_verdict import (
    failures_of,
    outcome_of,
    problem_of,
    verdicts,
)
from tests.compared import outcome

RUNS = {
    "ordered": [outcome(), outcome(mismatches=1, failure="wrong memory", status=3)],
    "split": [outcome("no room", 1), outcome()],
    "drop": [outcome("no room", 1), outcome("gone", 4)],
    "qemu": [outcome(pages=0), outcome(pages=0)],
    "resend": [outcome(), outcome("mine.py:7: no", 5)],
}


def test_every_run_is_counted() -> None:
    """Which run of which row is told, but of a row whose runs are all alike only the row."""
    assert outcome_of(RUNS) == (
        "3 of 10 runs verified. WRONG MEMORY with ordered (2). FAILED: split (1), drop, resend (2)."
        " Nobody compared the memory of qemu."
    )
    assert outcome_of({"ordered": [outcome(), outcome()]}) == "2 of 2 runs verified."
    assert outcome_of({"drop": [outcome()]}) == "1 of 1 run verified."


def test_each_reason_is_told() -> None:
    """A line a run that failed; of very many the first."""
    assert failures_of(RUNS) == [
        "ordered (2): wrong memory", "split (1): no room", "drop (1): no room", "drop (2): gone",
        "resend (2): mine.py:7: no",
    ]  # fmt: skip
    many = failures_of({"drop": [outcome("no\nroom", 1)] * 30})
    assert many[0] == "drop (1): no room"
    assert many[-1] == "and 10 more, which the report has"
    assert len(many) == 21


def test_the_longest_wait_is_that_of_all_runs() -> None:
    """A repeat whose wait was longer than the first run's is no secret; one that failed is none."""
    runs = {
        "a": [outcome(waits=1, p99_us=1000.0), outcome(waits=1, p99_us=9000.0)],
        "b": [outcome(waits=1, p99_us=4000.0), outcome("x", 1, waits=1, p99_us=100_000.0)],
    }
    first = " ".join(verdicts(runs).splitlines())
    assert "shortest with b (4 ms)" in first
    assert "longest with a (9 ms)" in first
    assert "FAILED b (2): x" in first


def test_shares_are_those_of_the_median_run() -> None:
    """Not of the first, whatever that was like."""
    shares = (0.1, 0.9, 0.5)
    runs = {
        "a": [
            outcome(waits=1, p99_us=share * 1e6, vcpus=1, postcopy_ms=1000.0) for share in shares
        ],
        "b": [outcome("no room", 1)],
    }
    lines = verdicts(runs).splitlines()
    assert any(line.startswith("  a  waited 50 % of postcopy") for line in lines), lines
    assert any(line.split() == ["b", *["no", "run", "ended", "well"]] for line in lines), lines


def test_the_exit_status_is_the_worst() -> None:
    """Wrong memory before lost memory before a failure before a policy that was switched off."""
    assert problem_of({"ordered": [outcome(), outcome()], "qemu": [outcome(pages=0)]}) is None
    for rows, status, words in (
        (tuple(RUNS), 3, "5 of 10 runs did not end well; ordered (2): wrong memory"),
        (("split", "drop", "resend"), 4, "drop (2): gone"),
        (("resend", "split"), 1, "split (1): no room"),
        (("resend",), 5, "1 of 2 runs did not end well; resend (2): mine.py:7: no"),
    ):
        problem = problem_of({name: RUNS[name] for name in rows})
        assert problem is not None
        assert problem.exit_status == status
        assert words in str(problem)


def test_the_report_counts_them_too() -> None:
    """A comparison with a run that failed is no completed one; a row's report is of a good run."""
    plain = plain_of(RUNS, "16MiB", "2MiB", "0", {}, None)
    assert (plain["status"], plain["run-count"], plain["verified-count"]) == ("failed", 10, 3)
    assert [(each["row"], each["number"], each["exit-status"]) for each in plain["failures"]] == [
        ("ordered", 2, 3), ("split", 1, 1), ("drop", 1, 1), ("drop", 2, 4), ("resend", 2, 5),
    ]  # fmt: skip
    split = plain["policies"]["split"]
    assert "failure" not in split
    assert [run.get("failure") for run in split["runs"]] == ["no room", None]
    assert split["spread"]["total-ms"] == [20, 20, 20]
    assert "spread" not in plain["policies"]["drop"]
    assert plain["policies"]["drop"]["failure"] == "no room"
    fine = plain_of({"drop": [outcome()]}, "16MiB", "2MiB", "0", {}, None)
    assert (fine["status"], fine["failures"]) == ("completed", [])


def made_of(**means_us: float) -> dict[str, dict[str, float]]:
    """Return what a report says of the stages of one wait."""
    return {stage: {"count": 1, "mean-us": mean_us} for stage, mean_us in means_us.items()}


def test_no_line_is_too_long() -> None:
    """What a row waited for is told below its first line where it does not fit."""
    stages = made_of(queue=600, receive=400)
    runs = {
        name: [outcome(waits=1, p99_us=9e5, vcpus=1, postcopy_ms=1000.0, stages=stages)]
        for name in ("vanilla", "priority-by-channel")
    }
    lines = verdicts(runs).splitlines()
    assert max(map(len, lines)) < 80
    text = " ".join(" ".join(lines).split())
    assert "waited 90 % of postcopy (60 % of that: waiting for its turn)" in text


def test_a_row_of_which_no_postcopy_is_known_tells_its_waits() -> None:
    """What they were made of, and no share of a time that nobody measured."""
    runs = {"qemu": [outcome(waits=2, stages=made_of(request=750, receive=250))]}
    text = verdicts(runs)
    assert "75 % of the waits: travelling to the source" in text
    assert "no wait recorded" in verdicts({"qemu": [outcome()]})
