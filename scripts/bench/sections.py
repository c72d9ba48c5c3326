"""The sections of a benchmark, by the names that `--only` takes, in their order."""

from __future__ import annotations

from collections.abc import Callable

from scripts.bench import (
    against,
    clean_pass,
    cost,
    growth,
    latency,
    scheduling,
    startup,
    stream,
)
from scripts.bench.figure import Figure
from scripts.bench.plan import Plan

SECTIONS: dict[str, Callable[[Plan], list[Figure]]] = {
    stream.SECTION: stream.measure_stream,
    scheduling.SECTION: scheduling.measure_scheduler,
    latency.SECTION: latency.measure_latency,
    against.SECTION: against.measure_against,
    cost.SECTION: cost.measure_cost,
    clean_pass.SECTION: clean_pass.measure_clean_pass,
    growth.SECTION: growth.measure_growth,
    startup.SECTION: startup.measure_startup,
}
