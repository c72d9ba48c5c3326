"""How long vCPUs wait for pages, beside what the wire needs for what they asked for.

On a link that is its rate's word; on loopback the plain pair's, measured in the same round; for a
single page on an idle stream that of a plain question and answer.  Other queues, and distances, are
in `scripts.bench.links`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from protocol.policy import PRESETS
from protocol.units import parse_bytes
from scripts.bench.figure import Figure, Limit, Plan, Target
from scripts.bench.yardsticks import ask
from scripts.figures.raw_pair import measure
from scripts.figures.runs import Record, migrate
from scripts.links.link import link_of
from scripts.links.spec import parse_link

SECTION = "latency"

LINK, FAST_LINK = "1Gbit/s", "10Gbit/s"
_PAGE_SIZE = "2MiB"
_SIZE, _QUICK_SIZE = "128MiB", "64MiB"
# What the plain pair sends to say how long a page takes on loopback.
_YARDSTICK_BYTES = 256 << 20
# What it sends over the fast link: the better part of a second.
_FAST_YARDSTICK_BYTES = 1 << 30

_GUEST = {"write-ratio": "0", "postcopy-after": "0", "start-paused": ""}
# Hardly any background: what a request finds is an idle stream.
_IDLE = {
    "size": "16MiB", "page-size": "4KiB", "max-postcopy-bandwidth": "4MB/s", "vcpus": "1",
    "access-rate": "0",
}  # fmt: skip
_IDLE_P50 = Target(2.8)

# Of the wire's time for a page, median and 99th percentile, by policy and vCPUs.
_TARGETS = {
    ("ordered", 1): (1.07, 1.12),
    ("critical-first", 1): (0.018, 0.06),
    ("critical-first", 4): (0.038, 0.18),
}
# An access every 20 ms.
_SLOW_RATE = 50
# What nobody judges is measured for its order of magnitude.
_UNJUDGED_RUNS_MAX = 1
_LINK_SHARE = Target(0.95, at_least=True, of_ratio=False)


@dataclass(frozen=True)
class Case:
    """One kind of run.

    Attributes:
        access_rate: Of each vCPU; 0 for no pause.
        link: As in `--link`.
    """

    policy: str
    vcpus: int
    access_rate: int
    link: str

    @property
    def title(self) -> str:
        """Its name, for a person."""
        pause = f"every {1000 // self.access_rate} ms" if self.access_rate else "without pause"
        vcpus = "1 vCPU" if self.vcpus == 1 else f"{self.vcpus} vCPUs"
        return f"{self.policy}, {vcpus} {pause}, {'loopback' if self.link == '0' else self.link}"

    @property
    def options(self) -> dict[str, str]:
        """Of `midstream migrate`."""
        return {
            "policy": self.policy, "vcpus": str(self.vcpus), "access-rate": str(self.access_rate),
            "link": self.link, "page-size": _PAGE_SIZE,
        }  # fmt: skip


def cases(plan: Plan) -> list[Case]:
    """Return what there is to measure: the two policies that matter most in all ways, all in one.

    Of a quick plan it is what is judged, and of one with policies of the user's these.  With a link
    of the user's own it is that and no other.
    """
    link = plan.link.option if plan.has_link else LINK
    if plan.policies:
        return [Case(policy, vcpus, 0, link) for policy in plan.policies for vcpus in (1, 4)]
    if plan.quick:
        return [Case(policy, vcpus, 0, link) for policy, vcpus in _TARGETS]
    best = ("ordered", "critical-first")
    chosen = [
        Case(policy, vcpus, access_rate, each)
        for each in ((link,) if plan.has_link else (link, FAST_LINK, "0"))
        for access_rate in (0, _SLOW_RATE)
        for policy in best
        for vcpus in (1, 4, 16)
    ]
    return chosen + [Case(policy, 4, 0, link) for policy in PRESETS if policy not in best]


def measure_latency(plan: Plan) -> list[Figure]:
    """Measure every case so often, in turn.

    Raises:
        MigrationError: A run failed.
    """
    chosen = cases(plan)
    reports: dict[Case, list[Record]] = {case: [] for case in chosen}
    rates, idle, answers = [], [], []
    fast_shares = [] if plan.quick or plan.has_link else [_fast_share()]
    size = {"size": _QUICK_SIZE if plan.quick else _SIZE}
    for number in range(1, plan.runs + 1):
        plan.say(f"{SECTION}: run {number} of {plan.runs}")
        if not plan.has_link:
            rates.append(measure(_YARDSTICK_BYTES, "auto").bytes_per_second)
            answers.append(statistics.median(ask(parse_bytes(_IDLE["page-size"]))) * 1e6)
            idle.append(
                migrate({**_GUEST, **_IDLE, "guest": plan.guest})["midstream"]["faults"]["p50-us"]
            )
        for case in chosen:
            if number > _UNJUDGED_RUNS_MAX and not _is_judged(case):
                continue
            reports[case].append(migrate({**_GUEST, **size, **case.options, "guest": plan.guest}))
    figures = []
    if idle:
        limit = Limit("a plain question and answer", tuple(answers))
        name = "ordered, 4KiB pages, 1 vCPU, loopback, idle stream: p50"
        figures.append(Figure(SECTION, name, "us", tuple(idle), limit, _IDLE_P50))
    if fast_shares:
        name = f"plain pair, {FAST_LINK}: page data over the link's capacity"
        note = "what it lacks of 1 the processors take, not the link"
        figures.append(Figure(SECTION, name, "", tuple(fast_shares), note=note))
    for case, runs in reports.items():
        figures += _figures(case, runs, rates)
    return figures


def _fast_share() -> float:
    """Return how much of the fast link the plain pair can use here."""
    spec = parse_link(FAST_LINK)
    with link_of(spec) as link:
        return measure(_FAST_YARDSTICK_BYTES, "auto", link).bytes_per_second / spec.bytes_per_second


def _figures(case: Case, runs: list[Record], rates: list[float]) -> list[Figure]:
    page_bytes = parse_bytes(_PAGE_SIZE)
    link_rate = parse_link(case.link).bytes_per_second
    near = [link_rate] if link_rate else rates[: len(runs)]
    wire_ms = tuple(page_bytes / rate * 1000 for rate in near)
    limit = Limit("the wire's time for a page", wire_ms)
    bounds = _TARGETS[case.policy, case.vcpus] if _is_judged(case) else None
    figures = []
    for index, key in enumerate(("p50", "p99")):
        values = tuple(run["midstream"]["faults"][f"{key}-us"] / 1000 for run in runs)
        target = Target(bounds[index]) if bounds else None
        figures.append(Figure(SECTION, f"{case.title}: {key}", "ms", values, limit, target))
    if link_rate:
        shares = tuple(run["ram"]["mbps"] * 1e6 / 8 / link_rate for run in runs)
        target = _LINK_SHARE if bounds else None
        name = f"{case.title}: page data over the link's capacity"
        figures.append(Figure(SECTION, name, "", shares, target=target))
    return figures


def _is_judged(case: Case) -> bool:
    key = (case.policy, case.vcpus)
    return case.link == LINK and not case.access_rate and key in _TARGETS
