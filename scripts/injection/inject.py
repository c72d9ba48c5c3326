"""`midstream inject`: runs scripted fault injections and checks what they expect.

Each run leaves its events and its report in a folder of its own (`scripts/injection/keeping.py`),
and what came of it in the findings (`scripts/injection/findings.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from guest.spec import GUEST_CHOICES
from protocol.errors import MidstreamError, MigrationCancelled
from protocol.geometry import PageId
from scripts.configure import parsed
from scripts.files import check_fillable
from scripts.injection.actions import Fault
from scripts.injection.checks import Failure
from scripts.injection.findings import SCHEMA, Findings
from scripts.injection.keeping import run_folder
from scripts.injection.outcome import Outcome
from scripts.injection.qemu import early_pages
from scripts.injection.scenario import Scenario, read_scenario
from scripts.injection.storm import Ending, Passages, broken_at_random, judge_storm
from scripts.injection.trial import Trial
from scripts.injection.triggers import Received, page_name
from scripts.named_files import Command, FileArgument, Use, file_option
from scripts.policies import file_of, policy_of
from scripts.relay.judging import run_pair
from scripts.relay.scenario import PairScenario, is_pair, read_pair, with_qemu
from scripts.reports import STANDARD_OUTPUT, begin_report, check_report, write_report
from scripts.runtime.looping import run_until_signalled
from scripts.screen.output import print_result, tell

EXIT_UNMET = 1
_RUNS_MAX = 10_000

# How often in a row a run with a QEMU may come to nothing.
_UNCOUNTED_MAX = 4


@click.command(cls=Command, report_schema=SCHEMA)
@click.argument(
    "scenarios", nargs=-1, required=True, metavar="SCENARIO.toml...", cls=FileArgument, use=Use.READ
)
@click.option(
    "--repeat", default=1, show_default=True, type=click.IntRange(1, _RUNS_MAX), metavar="N",
    help="Run each so often, whatever comes of it; every run must inject the same.",
)  # fmt: skip
@click.option(
    "--breaks", default=0, type=click.IntRange(0, _RUNS_MAX), metavar="N",
    help="Instead of its steps, break connections at random bytes, in so many runs.",
)  # fmt: skip
@click.option(
    "--breaks-seed", default=0, show_default=True, type=click.IntRange(0), metavar="N",
    help="The first run's seed; each run's is one more.",
)  # fmt: skip
@click.option(
    "--guest", type=click.Choice(GUEST_CHOICES), metavar="KIND",
    help="Run each with such a guest, as in migrate, whatever it says.",
)  # fmt: skip
@file_option(
    "--policy", metavar="NAME", use=Use.READ, find=file_of,
    help="Run each under this policy, as in migrate, whatever it says: FILE.py:NAME for your own.",
)  # fmt: skip
@file_option(
    "--keep",
    metavar="DIR",
    use=Use.FILL,
    help="Leave each run's events and report there; else those of repeated runs that fail, "
    "among the temporary files.",
)  # fmt: skip
@file_option(
    "--qemu", metavar="FILE", use=Use.READ,
    help="Of scenarios between two QEMUs, take this one in the place of those that they name.",
)  # fmt: skip
@file_option(
    "--report", metavar="FILE", use=Use.WRITE,
    help="Write each run's report and what was not as expected as JSON; - for standard output.",
)  # fmt: skip
def inject(  # noqa: PLR0913, PLR0917 - one argument an option
    scenarios: tuple[str, ...],
    repeat: int,
    breaks: int,
    breaks_seed: int,
    guest: str | None,
    policy: str | None,
    keep: str | None,
    qemu: str | None,
    report: str | None,
) -> int:
    """Run scripted fault injections between a real source and destination.

    Exit status: 0 all is as expected; 1 something is not; 2 a scenario is wrong.
    """
    # All are read first: a typing error in the last should not cost the time of the others.
    if policy is not None:
        parsed("--policy", partial(policy_of, policy))
    read = [_read(Path(path), guest, policy, qemu) for path in scenarios]
    if keep is not None:
        _check_kept([scenario.path for scenario in read], Path(keep))
    check_report(report)
    breakable = list(_breakable(read)) if breaks else []
    begin_report(report, SCHEMA)
    runs = Runs(keep, prints=report != STANDARD_OUTPUT)
    if breaks:
        seeds = range(breaks_seed, breaks_seed + breaks)
        good = [runs.storm(scenario, seeds) for scenario in breakable]
    else:
        good = [runs.run_all(scenario, repeat) for scenario in read]
    if report is not None:
        write_report(report, runs.findings.to_plain())
    return 0 if all(good) else EXIT_UNMET


def _read(
    path: Path, guest: str | None, policy: str | None, qemu: str | None
) -> Scenario | PairScenario:
    """Return the scenario of a file, of either kind.

    Raises:
        ScenarioError: The file is wrong.
    """
    if is_pair(path):
        return with_qemu(read_pair(path), qemu)
    return read_scenario(path, guest, policy)


def _check_kept(paths: Sequence[Path], keep: Path) -> None:
    """Refuse what cannot be kept, or would be kept in the place of something else.

    Raises:
        click.BadParameter: That is so.
    """
    check_fillable("--keep", str(keep))
    kept: dict[str, Path] = {}
    for path in paths:
        other = kept.setdefault(path.stem, path)
        if other is not path:
            raise click.BadParameter(
                f"{other} and {path} would be kept under one name", param_hint="--keep"
            )


def _breakable(scenarios: Sequence[Scenario | PairScenario]) -> Iterator[Scenario]:
    for scenario in scenarios:
        if isinstance(scenario, PairScenario) or scenario.qemu is not None:
            raise click.BadParameter(
                f"{scenario.path}: the proxy does not speak QEMU's protocol", param_hint="--breaks"
            )
        yield scenario


class Runs:
    """Runs of scenarios, one after the other.

    Attributes:
        findings: What came of them so far.
    """

    def __init__(self, keep: str | None, *, prints: bool) -> None:
        """Begin.

        Args:
            keep: Where all runs are kept; None if only those of repeated runs that fail are.
            prints: A line a scenario goes to standard output.
        """
        self._keep = keep
        self._print = print_result if prints else _print_nothing
        self.findings = Findings()

    def run_all(self, scenario: Scenario | PairScenario, repeat: int) -> bool:
        """Run a scenario so often; print what came of it, return whether all was as expected."""
        self.findings.begin(scenario.name, scenario.path)
        good = 0
        # What the first good run injected: the others must have injected the same.
        model: tuple[object, ...] | None = None
        for number in range(1, repeat + 1):
            with run_folder(self._keep, f"{scenario.path.stem}-{number}") as folder:
                injected, failures, report = _run_once(scenario, folder.path)
                if not failures:
                    model = model or injected
                    if injected != model:
                        failures = [Failure("injections", f"{model} as before", str(injected))]
                self.findings.add(number, failures, report)
                if not failures:
                    good += 1
                    continue
                lines = [f"FAILED {scenario.name}", *map(_line, failures)]
                if repeat > 1:
                    lines[0] += f" (run {number} of {repeat})"
                    lines.append(f"  kept in {folder.keep()}")
                self._print("".join(f"{line}\n" for line in lines))
        if repeat > 1:
            word = "ok" if good == repeat else "FAILED"
            self._print(f"{word} {scenario.name}: {good} of {repeat}\n")
        elif good:
            self._print(f"ok {scenario.name}\n")
        return good == repeat

    def storm(self, scenario: Scenario, seeds: range) -> bool:
        """Break a scenario's connections at random, once a seed; print and return how that went."""
        self.findings.begin(scenario.name, scenario.path)
        calm, passages = self._run_storm(broken_at_random(scenario, {}, 0), 0, seeds.start)
        if calm.fault:
            self._print(f"FAILED {scenario.name} without a break\n  {calm.fault}\n")
            return False
        recovered, good = 0, True
        for number, seed in enumerate(seeds, 1):
            broken = broken_at_random(scenario, passages, seed)
            ending, _ = self._run_storm(broken, number, seed)
            recovered += ending.recovered
            if ending.fault:
                self._print(f"FAILED {scenario.name} (seed {seed})\n  {ending.fault}\n")
                good = False
        if good:
            self._print(f"ok {scenario.name} ({len(seeds)} times, {recovered} of them resumed)\n")
        return good

    def _run_storm(self, scenario: Scenario, number: int, seed: int) -> tuple[Ending, Passages]:
        """Run a scenario with what breaks it; of number 0, without a break."""
        with run_folder(self._keep, f"{scenario.path.stem}-{seed}") as folder:
            trial = Trial(scenario, folder.path)
            outcome = run_until_signalled(trial.run)
        ending = judge_storm(outcome)
        failures = [Failure("end", "of one guest, whole", ending.fault)] if ending.fault else []
        if number or failures:
            self.findings.add(number, failures, outcome.report, seed)
        return ending, trial.passages


def _print_nothing(text: str) -> None:
    """Leave standard output to a report."""


Report = Mapping[str, Any] | None


def _run_once(
    scenario: Scenario | PairScenario, folder: Path
) -> tuple[tuple[object, ...], list[Failure], Report]:
    """Run a scenario; return what was injected, what was not as expected, and the report."""
    try:
        if isinstance(scenario, PairScenario):
            return *run_pair(scenario, folder), None
        trial, outcome = _run_counted(scenario, folder)
    except MigrationCancelled:
        raise
    except MidstreamError as error:
        return (), [Failure("run", "one", str(error))], None
    return trial.director.fingerprint(), judge(scenario, outcome), outcome.report


def _run_counted(scenario: Scenario, folder: Path) -> tuple[Trial, Outcome]:
    """Run a scenario until a run counts: what a QEMU's socket holds, nobody can hold back.

    Raises:
        MidstreamError: A run could not be begun.
    """
    uncounted = 0
    while True:
        trial = Trial(scenario, folder)
        outcome = run_until_signalled(trial.run)
        early = early_pages(_half_sent_steps(scenario), outcome.placed())
        if not early or uncounted == _UNCOUNTED_MAX:
            return trial, outcome
        uncounted += 1
        names = ", ".join(page_name(page, scenario.geometry) for page in early)
        tell(f"not counted: page {names} was in QEMU's socket when it was asked for; once more")


def _half_sent_steps(scenario: Scenario) -> Iterator[tuple[PageId, tuple[PageId, ...]]]:
    for step in scenario.steps if scenario.qemu is not None else ():
        if isinstance(step.when, Received) and isinstance(step.action, Fault):
            yield step.when.page, step.action.pages


def judge(scenario: Scenario, outcome: Outcome) -> list[Failure]:
    """Return what of a run was not as its scenario expects."""
    failures = []
    if outcome.timed_out:
        reason = "ended from outside" + "".join(
            f"; {side}: {outcome.state_of(side)}" for side in outcome.statuses
        )
        failures.append(Failure("end", f"by itself in {scenario.timeout_ms / 1000:g} s", reason))
    for step in scenario.steps:
        if step.number in outcome.unfired:
            what = f"step {step.number} ({scenario.path.name}:{step.line})"
            failures.append(Failure(what, "its moment", "it never came"))
    return [*failures, *scenario.expect.failures(outcome)]


def _line(failure: Failure) -> str:
    return f"  {failure.what}: expected {failure.expected}, seen {failure.seen}"
