"""What a migration takes of the machine."""

from dataclasses import replace

from scripts.bench.cost import measure_cost
from scripts.bench.plan import Plan


def test_a_real_run_is_watched(plan: Plan) -> None:
    """Processor time while pages are sent is part of that in all; both sides' memory is seen."""
    sending, in_all, source, dest = measure_cost(replace(plan, page_sizes=("4KiB",)))

    assert 0 < sending.values[0] < in_all.values[0]
    assert sending.ratios[0] > 0
    assert source.values[0] > 1
    assert dest.values[0] > 1
