"""What a migration takes of both machines: processor time and memory of its own.

Processor time is that between the first page and the destination's word that all have come, when
the plain pair does its work, too.  Starting, populating memory and proving that it is right are
outside of it; they are in the figure "in all".
"""

from __future__ import annotations

from scripts.bench.figure import Figure, Limit, Target
from scripts.bench.plan import Plan
from scripts.bench.sampling import Sampler
from scripts.figures.raw_pair import measure
from scripts.figures.runs import Record, migrate_with_events
from scripts.options import DEST, SOURCE

SECTION = "cost"

_GUEST = {"program": "scripted", "vcpus": "1", "postcopy-after": "never"}
_CPU_RATIO = 1.5
_SIDES = (SOURCE, DEST)


def measure_cost(plan: Plan) -> list[Figure]:
    """Measure the plain pair and a migration by precopy for each page size, in turn.

    Raises:
        MigrationError: A run failed.
    """
    gib = plan.length_bytes / (1 << 30)
    plain: list[float] = []
    rows: dict[str, list[tuple[float, float, Sampler]]] = {size: [] for size in plan.page_sizes}
    for number in range(1, plan.runs + 1):
        plan.say(f"{SECTION}: run {number} of {plan.runs}")
        plain.append(measure(plan.length_bytes, "auto", plan.link).cpu_seconds / gib)
        for page_size, runs in rows.items():
            with Sampler() as sampler:
                report, events = migrate_with_events({**_GUEST, **plan.shape(page_size)})
            cpu = report["midstream"]["cpu-seconds"]
            runs.append((_while_sending(sampler, events) / gib, sum(cpu.values()) / gib, sampler))
    limit = Limit("the plain pair", tuple(plain))
    return [figure for size, runs in rows.items() for figure in _figures(size, runs, limit)]


def _while_sending(sampler: Sampler, events: list[Record]) -> float:
    """Return the processor seconds of both sides while pages were under way."""
    begin_ns = next(
        event["t-ns"]
        for event in events
        if (event["side"], event.get("state")) == (SOURCE, "active")
    )
    end_ns = next(event["t-ns"] for event in events if event["event"] == "pass-end")
    return sum(sampler.cpu_seconds(side, begin_ns, end_ns) for side in _SIDES)


def _figures(
    page_size: str, runs: list[tuple[float, float, Sampler]], limit: Limit
) -> list[Figure]:
    sending, in_all, samplers = zip(*runs, strict=True)
    figures = [
        Figure(
            SECTION, f"CPU a GiB while sending, {page_size} pages, both sides", "s", sending, limit,
            Target(_CPU_RATIO),
        ),
        Figure(SECTION, f"CPU a GiB in all, {page_size} pages, both sides", "s", in_all),
    ]  # fmt: skip
    for side in _SIDES:
        peaks = tuple(sampler.peak_bytes(side) / (1 << 20) for sampler in samplers)
        name = f"memory of its own, {page_size} pages, {side}"
        figures.append(Figure(SECTION, name, "MiB", peaks))
    return figures
