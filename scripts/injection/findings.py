"""Findings of `midstream inject`: for each run what was not as expected, and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.injection.checks import Failure
from scripts.reports import COMPLETED, FAILED
from scripts.resolved import printable

SCHEMA = "midstream-inject/1"


class Findings:
    """The outcomes of the runs of some scenarios, in their order."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._scenarios: list[dict[str, Any]] = []
        self._run_count = self._unmet_count = 0

    def begin(self, name: str, path: Path) -> None:
        """Begin the runs of the scenario of that name and file."""
        self._scenarios.append({"name": name, "file": printable(str(path)), "runs": []})

    def add(
        self,
        number: int,
        failures: Sequence[Failure],
        report: Mapping[str, Any] | None,
        breaks_seed: int | None = None,
    ) -> None:
        """Add a run.

        Args:
            number: Which of its scenario, from 1.
            failures: What was not as expected.
            report: That of the migration; None if it wrote none.
            breaks_seed: Of what broke its connections; None if its steps did.
        """
        self._run_count += 1
        self._unmet_count += bool(failures)
        seed = {} if breaks_seed is None else {"breaks-seed": breaks_seed}
        self._scenarios[-1]["runs"].append(
            {
                "number": number,
                **seed,
                "met": not failures,
                "failures": [failure._asdict() for failure in failures],
                "report": report,
            }
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the report of all."""
        told: dict[str, Any] = {"schema": SCHEMA, "status": COMPLETED}
        if self._unmet_count:
            reason = f"{self._unmet_count} of {self._run_count} runs were not as expected"
            told |= {"status": FAILED, "reason": reason}
        return {**told, "scenarios": self._scenarios}
