"""Figures of what prefetching was worth: network faults, and what went for nothing.

A fault *over the network* is a page request.  How many a prefetcher *avoids* no single run tells:
it is the difference to the same switches, or else to the first policy that was run, without one.
Of several runs each figure is the median.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from protocol.policy import Policy

Report = Mapping[str, Any]

_MIB = 1 << 20


@dataclass(frozen=True)
class Prefetching:
    """Figures of one policy, over all its runs.

    Attributes:
        network_faults: Page requests.
        avoided: So many fewer than without a prefetcher, negative if more; None where there is
            nothing to hold it against, or this is that.
        against: The policy that it is held against; None likewise.
        late, useful, useless, useless_bytes: As in the migration's report; None without one.
    """

    network_faults: int
    avoided: int | None
    against: str | None
    p50_ms: float
    p99_ms: float
    blocked_ms: int
    late: int | None
    useful: int | None
    useless: int | None
    useless_bytes: int | None

    def to_plain(self) -> dict[str, Any]:
        """Return this as a report has it: what is avoided follows from the others."""
        named = {name.replace("_", "-"): value for name, value in asdict(self).items()}
        return {name: value for name, value in named.items() if name != "avoided"}


def prefetch_figures(
    policies: Mapping[str, Policy], reports: Mapping[str, Sequence[Report]]
) -> dict[str, Prefetching]:
    """Return the figures of all policies, in their order; of none where none has a prefetcher.

    Args:
        policies: By the names under which they were run.
        reports: Of all these runs, by the same names; a policy without any is left out.
    """
    if not any(map(_prefetches, policies.values())):
        return {}
    there = {name: policy for name, policy in policies.items() if reports[name]}
    return {
        name: _figures(name, reports, _baseline(policy, there)) for name, policy in there.items()
    }


def _prefetches(policy: Policy) -> bool:
    return getattr(policy, "prefetcher", None) is not None


def _baseline(policy: Policy, policies: Mapping[str, Policy]) -> str | None:
    """Return what a policy with a prefetcher is held against: the most alike without one."""
    if not _prefetches(policy):
        return None
    without = {name: each for name, each in policies.items() if not _prefetches(each)}
    alike = (name for name, each in without.items() if each.switches == policy.switches)
    return next(alike, next(iter(without), None))


def _figures(
    name: str, reports: Mapping[str, Sequence[Report]], against: str | None
) -> Prefetching:
    own = reports[name]
    count = _median(own, _network_faults)
    before = _median(reports[against], _network_faults) if against is not None else None
    return Prefetching(
        network_faults=count,
        avoided=None if before is None else before - count,
        against=against,
        p50_ms=_median(own, lambda report: report["midstream"]["faults"]["p50-us"]) / 1000,
        p99_ms=_median(own, lambda report: report["midstream"]["faults"]["p99-us"]) / 1000,
        blocked_ms=_median(own, lambda report: report["postcopy-blocktime"]),
        late=_prefetched(own, "late"),
        useful=_prefetched(own, "useful"),
        useless=_prefetched(own, "useless"),
        useless_bytes=_prefetched(own, "useless-bytes"),
    )


def _network_faults(report: Report) -> int:
    count: int = report["midstream"]["requests"]["received"]
    return count


def _median(reports: Sequence[Report], figure: Callable[[Report], Any]) -> Any:  # noqa: ANN401
    """Return the median of a figure; of two in the middle the lower: it was measured."""
    return statistics.median_low(map(figure, reports))


def _prefetched(reports: Sequence[Report], name: str) -> int | None:
    """Return the median of what a prefetcher's figure is; None if a run does not know it."""
    told = [(report["midstream"].get("prefetch") or {}).get(name) for report in reports]
    known = [count for count in told if count is not None]
    return statistics.median_low(known) if len(known) == len(told) else None


def prefetch_table(figures: Mapping[str, Prefetching]) -> Table:
    """Return the figures for a person."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("policy", overflow="fold")
    columns = ("faults", "avoided", "p50", "p99", "blocked", "late", "useful", "useless", "useless")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("", "network", "", *["ms"] * 3, *["pages"] * 3, "MiB", style="dim")
    for name, own in figures.items():
        useless_bytes = own.useless_bytes
        table.add_row(
            name,
            str(own.network_faults),
            _shown(own.avoided),
            f"{own.p50_ms:.2f}",
            f"{own.p99_ms:.2f}",
            str(own.blocked_ms),
            _shown(own.late),
            _shown(own.useful),
            _shown(own.useless),
            "-" if useless_bytes is None else f"{useless_bytes / _MIB:.1f}",
        )
    return table


def _shown(count: int | None) -> str:
    return "-" if count is None else str(count)
