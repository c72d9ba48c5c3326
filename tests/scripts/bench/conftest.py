"""A plan of a benchmark that is over at once."""

import pytest

from scripts.bench.figure import Plan
from scripts.links.link import LOOPBACK


@pytest.fixture
def plan() -> Plan:
    """One run of a small guest on loopback, told to nobody."""
    return Plan(
        quick=True, runs=1, length_bytes=8 << 20, page_sizes=("2MiB", "4KiB"), chunk_size="1MiB",
        link=LOOPBACK, say=lambda _: None,
    )  # fmt: skip
