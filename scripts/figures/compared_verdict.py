"""The verdict on a comparison: how its runs ended, all of them, and what each row waited for."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence

from protocol.errors import MemoryLost, MigrationError, PolicySwitchedOff, WrongMemory
from protocol.report import STAGE_WORDS
from protocol.text import one_line
from scripts.figures.compared import Outcome, Runs, failed, good
from scripts.screen.facts import Facts, facts_of
from scripts.screen.words import counted, percent, time_us, wrapped

# The worst first: which exit status a comparison has whose runs ended with several.
_WORST = (
    WrongMemory.exit_status,
    MemoryLost.exit_status,
    MigrationError.exit_status,
    PolicySwitchedOff.exit_status,
)

# So many runs that failed are told on a terminal, and on a page; the report has all.
_TOLD_MAX = 20

# One alone is neither the shortest nor the longest.
_TO_COMPARE = 2

_COLUMNS = 79
# However long the names of rows are.
_ROOM_MIN = 30


class RunsFailed(MigrationError):
    """Runs of a comparison did not end well.

    Attributes:
        exit_status: That of the worst.
    """

    def __init__(self, reason: str, exit_status: int) -> None:
        """Say how many, and why."""
        super().__init__(reason)
        self.exit_status = exit_status


def problem_of(runs: Runs) -> RunsFailed | None:
    """Return how many runs did not end well and why the worst did not; None if all did.

    Raise it when all is written.
    """
    found = list(failed(runs))
    if not found:
        return None
    statuses = {each.outcome.exit_status for each in found}
    status = next((each for each in _WORST if each in statuses), MigrationError.exit_status)
    worst = next((each for each in found if each.outcome.exit_status == status), found[0])
    count = sum(map(len, runs.values()))
    return RunsFailed(
        f"{len(found)} of {counted(count, 'run', 'runs')} did not end well; "
        f"{_run_name(runs, worst.row, worst.number)}: {worst.outcome.failure}",
        status,
    )


def outcome_of(runs: Runs) -> str:
    """Return in a sentence or more how good all runs were, and which failed."""
    outcomes = [outcome for each in runs.values() for outcome in each]
    right = sum(each.verified is True and not each.failure for each in outcomes)
    text = f"{right} of {counted(len(outcomes), 'run', 'runs')} verified."
    wrong = _runs_where(runs, _is_wrong)
    broken = _runs_where(runs, lambda each: bool(each.failure) and not _is_wrong(each))
    unknown = _runs_where(runs, lambda each: each.verified is None and not each.failure)
    if wrong:
        text += f" WRONG MEMORY with {', '.join(wrong)}."
    if broken:
        text += f" FAILED: {', '.join(broken)}."
    if unknown:
        text += f" Nobody compared the memory of {', '.join(unknown)}."
    return text


def failures_of(runs: Runs) -> list[str]:
    """Return a line for each run that did not end well, of many for the first."""
    found = list(failed(runs))
    lines = [
        f"{_run_name(runs, each.row, each.number)}: {one_line(each.outcome.failure)}"
        for each in found[:_TOLD_MAX]
    ]
    left = len(found) - len(lines)
    return [*lines, f"and {left} more, which the report has"] if left else lines


def _is_wrong(outcome: Outcome) -> bool:
    return outcome.verified is False or outcome.exit_status == WrongMemory.exit_status


def _runs_where(runs: Runs, holds: Callable[[Outcome], bool]) -> list[str]:
    """Return rows with the numbers of the runs for which something holds; not where for all."""
    named = []
    for name, outcomes in runs.items():
        numbers = [str(number) for number, each in enumerate(outcomes, 1) if holds(each)]
        if len(numbers) == len(outcomes):
            named.append(name)
        elif numbers:
            named.append(f"{name} ({', '.join(numbers)})")
    return named


def _run_name(runs: Runs, row: str, number: int) -> str:
    return row if len(runs[row]) == 1 else f"{row} ({number})"


def longest_waits_of(runs: Runs) -> str:
    """Return with which row the longest wait was shortest and longest; empty where few waited.

    It is the longest of any run that ended well.
    """
    longest_us = {
        name: max(each.longest_us for each in told)
        for name, told in _facts(runs).items()
        if any(each.waits for each in told)
    }
    if len(longest_us) < _TO_COMPARE:
        return ""
    best = min(longest_us, key=lambda name: longest_us[name])
    worst = max(longest_us, key=lambda name: longest_us[name])
    return (
        f"The longest wait was shortest with {best} ({time_us(longest_us[best])}) and longest with "
        f"{worst} ({time_us(longest_us[worst])})."
    )


def waits_of(runs: Runs) -> dict[str, str]:
    """Return for each row how much it waited and what for, with shares as in its median run."""
    return {name: ", ".join(_told(told)) for name, told in _facts(runs).items()}


def verdicts(runs: Runs) -> str:
    """Return how good all runs were, which policy had the shortest waits, and a line for each.

    Args:
        runs: All of them; the figures are of those that ended well.
    """
    lines = wrapped(f"{outcome_of(runs)} {longest_waits_of(runs)}", _COLUMNS)
    width = max(map(len, runs))
    for name, told in waits_of(runs).items():
        first, *others = wrapped(told, max(_COLUMNS - width - 4, _ROOM_MIN))
        lines.append(f"  {name:<{width}}  {first}")
        lines += [f"{'':{width + 4}}{other}" for other in others]
    lines += [f"  FAILED {line}" for line in failures_of(runs)]
    return "".join(f"{line}\n" for line in lines)


def _facts(runs: Runs) -> dict[str, list[Facts]]:
    return {name: [facts_of(each.report) for each in good(runs[name])] for name in runs}


def _told(facts: Sequence[Facts]) -> Iterator[str]:
    """Yield what a row waited for, over all its runs."""
    if not facts:
        yield "no run ended well"
        return
    waiting = _median(each.waiting_share for each in facts)
    stage_ms = {
        stage: sum(each.stage_ms.get(stage, 0.0) for each in facts) for stage in STAGE_WORDS
    }
    total_ms = sum(stage_ms.values())
    mostly = ""
    if total_ms:
        stage = max(stage_ms, key=lambda name: stage_ms[name])
        mostly = f"{percent(stage_ms[stage] / total_ms)} of {{}}: {STAGE_WORDS[stage]}"
    if waiting is not None:
        more = f" ({mostly.format('that')})" if mostly else ""
        yield f"waited {percent(waiting)} of postcopy{more}"
    else:
        # Of a QEMU's run nobody knows how long it had been in postcopy.
        yield mostly.format("the waits") or "no wait recorded"
    used = _median(each.link_share for each in facts)
    if used is not None:
        yield f"used {percent(used)} of the link"


def _median(shares: Iterable[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return statistics.median_low(known) if known else None
