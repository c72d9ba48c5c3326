"""How fast memory streams: precopy and postcopy beside a plain socket pair, in turn.

Machines drift: what can be trusted is the ratio of neighbours, with its spread.
"""

from __future__ import annotations

from collections.abc import Iterator

from scripts.bench.figure import Figure, Limit, Plan, Target
from scripts.bench.yardsticks import has_iperf, measure_iperf
from scripts.figures.raw_pair import measure
from scripts.figures.runs import migrate

SECTION = "stream"
YARDSTICK = "plain sendall/recv_into pair"

# Idle vCPUs, so that one pass is all there is: the stream and nothing else.
_PRECOPY = {"program": "scripted", "vcpus": "1", "postcopy-after": "never"}
# One vCPU that reads without pause on the destination, from the first page on.
_POSTCOPY = {
    "vcpus": "1", "access-rate": "0", "write-ratio": "0", "postcopy-after": "0", "start-paused": ""
}  # fmt: skip

# Of the plain pair's rate, by page size.
_PRECOPY_SHARES = {"2MiB": 0.95, "4KiB": 0.60}
_POSTCOPY_TIME = 1.3


def measure_stream(plan: Plan) -> list[Figure]:
    """Measure all of it, so often and in turn, after one warm-up of each.

    Raises:
        MigrationError: A run failed.
    """
    rounds: dict[str, list[float]] = {}
    for number in range(plan.runs + 1):
        plan.say(f"{SECTION}: run {number} of {plan.runs}" if number else f"{SECTION}: warm-up")
        for name, value in _round(plan):
            if number:
                rounds.setdefault(name, []).append(value)
    return _figures(plan, {name: tuple(values) for name, values in rounds.items()})


def _round(plan: Plan) -> Iterator[tuple[str, float]]:
    """Yield what one round gives: bytes a second by name, and seconds of the postcopy."""
    yield YARDSTICK, measure(plan.length_bytes, "auto", plan.link).bytes_per_second
    if has_iperf(plan.link):
        yield "iperf3 -P 1", measure_iperf(plan.length_bytes, plan.link)
    for page_size in plan.page_sizes:
        report = migrate({**_PRECOPY, **plan.shape(page_size)})
        yield f"precopy, {page_size} pages", report["ram"]["mbps"] * 1e6 / 8
    report = migrate({**_POSTCOPY, **plan.shape(plan.page_sizes[0])})
    yield "postcopy", (report["total-time"] - report["setup-time"]) / 1000


def _figures(plan: Plan, rounds: dict[str, tuple[float, ...]]) -> list[Figure]:
    rates = {
        name: tuple(value / 1e9 for value in values)
        for name, values in rounds.items()
        if name != "postcopy"
    }
    plain = rates.pop(YARDSTICK)
    figures = [Figure(SECTION, YARDSTICK, "GB/s", plain)]
    for name, values in rates.items():
        share = next((s for size, s in _PRECOPY_SHARES.items() if f" {size} " in name), None)
        target = Target(share, at_least=True) if share else None
        figures.append(
            Figure(SECTION, name, "GB/s", values, Limit("the plain pair", plain), target)
        )
    times = tuple(plan.length_bytes / 1e9 / rate for rate in plain)
    figures.append(
        Figure(
            SECTION,
            f"postcopy, {plan.page_sizes[0]} pages, a continuously faulting vCPU",
            "s",
            rounds["postcopy"],
            Limit("the plain pair's time", times),
            Target(_POSTCOPY_TIME),
            "without the set-up",
        )
    )
    return figures
