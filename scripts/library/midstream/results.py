"""Results of runs: the report as the command wrote it, and what is asked of it most."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from scripts.results.reading import read_report, run_of
from scripts.results.rows import flat, rows_of
from scripts.results.schema import read_schema
from scripts.views.columns import columns_of

if TYPE_CHECKING:
    from midstream.running import Done

Row = dict[str, Any]
# A column of each field: int64, float64 with NaN where an event has none, or objects.
Events = dict[str, NDArray[Any]]


class RunFailed(Exception):
    """A command did not do what it was asked; says why, in its own words.

    Attributes:
        exit_status: Its exit status: 1 failed or refused, 2 a wrong option, 3 wrong memory, 4
            memory lost, 5 all well but a policy of the user's own, 130 cancelled.
        report: What it had reported by then; None if it had not begun.
    """

    def __init__(self, reason: str, exit_status: int, report: dict[str, Any] | None) -> None:
        """Carry the reason."""
        super().__init__(reason)
        self.exit_status = exit_status
        self.report = report


@dataclass(frozen=True)
class Report:
    """The report of a migration.

    Attributes:
        data: All of it, as `--report` writes it.
        events: The events of its run, as `load_events` returns them; None if they were not kept.
    """

    data: dict[str, Any] = field(repr=False)
    events: Events | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of_run(cls, done: Done) -> Report:
        """Return the report of a run that has ended."""
        return cls(done.report, dict(done.events) if done.events is not None else None)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Return the report of a migration that a file holds.

        Raises:
            LocalProtocolError: It holds none.
        """
        return cls(read_report(Path(path)))

    @property
    def status(self) -> str:
        """How it ended: completed, failed or cancelled."""
        return str(self.data["status"])

    @property
    def reason(self) -> str:
        """Why it did not end well; empty if it did."""
        return str(self.own.get("reason", ""))

    @property
    def own(self) -> dict[str, Any]:
        """The part that QEMU has no name for: the object `midstream`."""
        own: dict[str, Any] = self.data["midstream"]
        return own

    @property
    def verified(self) -> bool:
        """Whether both sides' memory was compared and is the same, and no read was wrong."""
        verified = self.own.get("verified", {})
        return bool(verified.get("digest-equal")) and not verified.get("mismatches")

    @property
    def options(self) -> dict[str, Any]:
        """All options as they count, in one unit a kind: equal for runs asked the same."""
        options: dict[str, Any] = run_of(self.data)["options"]["resolved"]
        return options

    @property
    def faults(self) -> dict[str, Any]:
        """Latencies of faults in postcopy: `count`, `p50-us`, `p99-us`, `max-us` and so on."""
        faults: dict[str, Any] = self.own["faults"]
        return faults

    @property
    def downtime_ms(self) -> float:
        """How long the guest ran on neither side."""
        return float(self.own["downtime-ms"])

    def row(self, **more: object) -> Row:
        """Return it as a row of a table, a column a field; `more` are columns before these."""
        return {**more, **flat(self.data)}


@dataclass(frozen=True)
class Comparison(Mapping[str, Report]):
    """The reports of `compare`, by the policy's name.

    Attributes:
        data: All of it, as `--report` writes it.
    """

    data: dict[str, Any] = field(repr=False)

    def __getitem__(self, name: str) -> Report:  # type: ignore[explicit-override]
        return Report(self.data["policies"][name]["report"])

    def __iter__(self) -> Iterator[str]:  # type: ignore[explicit-override]
        return iter(self.data["policies"])

    def __len__(self) -> int:  # type: ignore[explicit-override]
        return len(self.data["policies"])

    def runs(self, name: str) -> list[Report]:
        """Return the reports of all runs under a policy."""
        row = self.data["policies"][name]
        return [Report(each["report"]) for each in row.get("runs", [row])]

    def latencies_us(self, name: str) -> list[float]:
        """Return every fault's latency under a policy, of all runs that ended well."""
        row = self.data["policies"][name]
        return [us for run in row.get("runs", [row]) for us in run["fault-latencies-us"]]

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The runs that did not end well: `row`, `number`, `reason` and `exit-status`."""
        return list(self.data.get("failures", []))

    def rows(self) -> list[Row]:
        """Return a row a run, for a table; its column `row` is the policy."""
        return rows_of("compare", self.data)


@dataclass(frozen=True)
class Findings:
    """The outcome of `inject`.

    Attributes:
        data: All of it, as `--report` writes it.
    """

    data: dict[str, Any] = field(repr=False)

    @property
    def met(self) -> bool:
        """Whether all was as expected in every run."""
        return str(self.data["status"]) == "completed"

    @property
    def failures(self) -> list[dict[str, str]]:
        """The expectations that were not met: `what`, `expected`, `seen`, and the `scenario`."""
        return [
            {"scenario": scenario["name"], **failure}
            for scenario in self.data["scenarios"]
            for run in scenario["runs"]
            for failure in run["failures"]
        ]

    def rows(self) -> list[Row]:
        """Return a row a run, for a table; its column `row` is the scenario."""
        return rows_of("inject", self.data)


def load_events(path: str | os.PathLike[str]) -> Events:
    """Return the events of a file that `--events` wrote, as columns of one length.

    A column is a field (`t-ns`, `event`, `side`, `page`, `latency-us`), in the order of the file's
    lines: whole numbers that every event has are int64, other numbers float64 with NaN where an
    event has none, all else objects with None there.  It is what `pandas.DataFrame` takes.

    Raises:
        LocalProtocolError: The file cannot be read, or a line is no event: which, and why.
    """
    return columns_of(Path(path))


def schema() -> dict[str, Any]:
    """Return the JSON Schema of all reports; each number's unit is what it refers to."""
    return read_schema()
