"""How long vCPUs wait for pages over links as they are: fast ones, long ones, and both queues.

One table: a line a kind of run, with the median and the 99th percentile beside what the wire needs,
and the share of the link that page data has.  It takes a quarter of an hour, so it is measured only
where it is named.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from protocol.errors import MigrationError
from protocol.units import parse_bytes
from scripts.bench.figure import Figure, LeftOut, Limit, Plan, Target
from scripts.bench.yardsticks import ask
from scripts.figures.runs import Record, migrate
from scripts.links.link import namespaces_link
from scripts.links.spec import FIFO, parse_link

SECTION = "links"
# What has nothing to do with any link, and ought to take as long in each round.
YARDSTICK = "a plain question and answer over loopback"
_YARDSTICK_BYTES = 4096

P50, P99, SHARE = COLUMNS = ("p50", "p99", "page data on the link")

RATE, FAST_RATE = "1Gbit/s", "10Gbit/s"
ROUND_TRIPS = ("", "1ms", "10ms", "50ms")
QUEUES = ("", FIFO)

_HUGE, _BASE = "2MiB", "4KiB"
_BEST = ("ordered", "critical-first")
# An access every 20 ms.
_SLOW_RATE = 50
_SIZE, _LONG_SIZE = "128MiB", "256MiB"
_QUICK_SIZE, _QUICK_LONG_SIZE = "64MiB", "128MiB"
_GUEST = {"write-ratio": "0", "postcopy-after": "0", "start-paused": ""}

# What a wait over a distance may take beside the round trip and the wire's time.
_MARGIN_MS = 2.0


@dataclass(frozen=True)
class Case:
    """One kind of run.

    Attributes:
        access_rate: Of each vCPU; 0 for no pause.
        rate: Of the link.
        rtt: Its round trip; empty for none.
        queue: What stands under its rate; empty for what a card has by default.
    """

    policy: str
    vcpus: int
    rate: str = RATE
    rtt: str = ""
    queue: str = ""
    access_rate: int = 0
    page_size: str = _HUGE

    @property
    def link(self) -> str:
        """As in `--link`."""
        terms = {"rtt": self.rtt, "queue": self.queue}
        return ",".join([self.rate, *(f"{key}={value}" for key, value in terms.items() if value)])

    @property
    def title(self) -> str:
        """Its name, for a person."""
        pause = f"every {1000 // self.access_rate} ms" if self.access_rate else "without pause"
        vcpus = "1 vCPU" if self.vcpus == 1 else f"{self.vcpus} vCPUs"
        return f"{self.policy}, {self.page_size}, {vcpus} {pause}, {self.link}"

    def options(self, *, quick: bool) -> dict[str, str]:
        """Return the options of `midstream migrate`."""
        short, long = (_QUICK_SIZE, _QUICK_LONG_SIZE) if quick else (_SIZE, _LONG_SIZE)
        return {
            "policy": self.policy, "vcpus": str(self.vcpus), "access-rate": str(self.access_rate),
            "link": self.link, "page-size": self.page_size,
            "size": long if self.access_rate else short,
        }  # fmt: skip

    def limit(self) -> Limit:
        """Return what a wait stands beside: a page on the wire; over a distance, what is asked."""
        spec = parse_link(self.link)
        if not self.access_rate:
            wire_ms = parse_bytes(_HUGE) / spec.bytes_per_second * 1000
            return Limit("the wire's time for 2 MiB", (wire_ms,))
        asked_bytes = parse_bytes(_BASE if self.policy == "critical-first" else self.page_size)
        wire_ms = asked_bytes / spec.bytes_per_second * 1000
        return Limit(
            f"a round trip, {_MARGIN_MS:g} ms and the wire's time for what is asked",
            (spec.rtt_us / 1000 + _MARGIN_MS + wire_ms,),
        )


_SHARE = Target(0.95, at_least=True, of_ratio=False)

# What is wanted of a case, column by column.
TARGETS: dict[Case, dict[str, Target]] = {
    Case("critical-first", 1): {P50: Target(0.018), P99: Target(0.06), SHARE: _SHARE},
    Case("critical-first", 4): {P50: Target(0.038), P99: Target(0.18), SHARE: _SHARE},
    Case("critical-first", 16): {P50: Target(0.10)},
    Case("ordered", 1): {P50: Target(1.07), P99: Target(1.12)},
    Case("ordered", 1, page_size=_BASE): {
        P50: Target(0.30, of_ratio=False), P99: Target(1.2, of_ratio=False)
    },
    Case("critical-first", 4, FAST_RATE): {
        P50: Target(0.5, of_ratio=False), SHARE: Target(0.6, at_least=True, of_ratio=False)
    },
    **{
        Case(policy, 1, rtt="10ms", access_rate=_SLOW_RATE): {
            P50: Target(1.0), SHARE: Target(0.9, at_least=True, of_ratio=False)
        }
        for policy in _BEST
    },
}  # fmt: skip


def cases() -> list[Case]:
    """Return what there is to measure, in the order of the table."""
    busy = [case for case in TARGETS if case.rate == RATE and not case.access_rate]
    return list(
        dict.fromkeys(
            [
                *(
                    Case(case.policy, case.vcpus, queue=queue, page_size=case.page_size)
                    for queue in QUEUES
                    for case in busy
                ),
                *(
                    Case(policy, vcpus, FAST_RATE, queue=queue)
                    for queue in QUEUES
                    for policy in reversed(_BEST)
                    for vcpus in (1, 4, 16)
                ),
                *(
                    Case(policy, 1, rtt=rtt, queue=queue, access_rate=_SLOW_RATE)
                    for queue in QUEUES
                    for rtt in ROUND_TRIPS
                    for policy in _BEST
                ),
            ]
        )
    )


def measure_links(plan: Plan) -> list[Figure]:
    """Measure every case so often, in turn.

    Raises:
        LeftOut: The user wants another link.
        MigrationError: A run failed.
    """
    if plan.has_link:
        raise LeftOut(f"--link {plan.link.option} is the only one")
    chosen = _to_be_had(cases(), plan.say)
    reports: dict[Case, list[Record]] = {case: [] for case in chosen}
    answers_us = []
    for number in range(1, plan.runs + 1):
        plan.say(f"{SECTION}: run {number} of {plan.runs}")
        answers_us.append(statistics.median(ask(_YARDSTICK_BYTES)) * 1e6)
        for case in chosen:
            options = {**_GUEST, **case.options(quick=plan.quick), "guest": plan.guest}
            reports[case].append(migrate(options))
    yardstick = Figure(SECTION, YARDSTICK, "us", tuple(answers_us))
    return [yardstick, *(each for case in chosen for each in _figures(case, reports[case]))]


def _to_be_had(chosen: list[Case], say: Callable[[str], None]) -> list[Case]:
    """Return the cases whose links this machine can have; of the others it is said why not."""
    refused = set()
    for link in dict.fromkeys(case.link for case in chosen):
        spec = parse_link(link)
        try:
            with namespaces_link(spec) if spec.is_relayed else nullcontext():
                pass
        except MigrationError as error:
            say(f"{SECTION}: {link} is left out: {error}")
            refused.add(link)
    return [case for case in chosen if case.link not in refused]


def _figures(case: Case, runs: list[Record]) -> list[Figure]:
    wanted, limit = TARGETS.get(case, {}), case.limit()
    rate = parse_link(case.link).bytes_per_second
    faults = [run["midstream"]["faults"] for run in runs]
    return [
        *(
            Figure(
                SECTION, f"{case.title}: {column}", "ms",
                tuple(each[f"{column}-us"] / 1000 for each in faults), limit, wanted.get(column),
                column=column,
            )
            for column in (P50, P99)
        ),
        Figure(
            SECTION, f"{case.title}: {SHARE}", "",
            tuple(run["ram"]["mbps"] * 1e6 / 8 / rate for run in runs), target=wanted.get(SHARE),
            column=SHARE,
        ),
    ]  # fmt: skip
