"""Facts about a migration: what a report tells, and what follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.report import assemble, assemble_failed
from scripts.screen.facts import Busy, facts_of
from tests.scripts.screen.test_sentences import GOOD_RUN
from tests.sides import dest_part, report_of_drop, source_part


@pytest.mark.parametrize(("share", "bound"), [(0.85, "link"), (0.84, ""), (0.5, "")])
def test_a_link_is_the_limit_from_a_share_on(share: float, bound: str) -> None:
    """Of what a link carries some percent are heads of packets; much less is not all of it."""
    assert replace(GOOD_RUN, bytes_per_second=share * 125_000_000).bound == bound


@pytest.mark.parametrize(("waiting", "bound"), [(0.3, "dest"), (0.29, "")])
def test_a_processor_is_the_limit_from_a_share_on(waiting: float, bound: str) -> None:
    """To wait for a processor counts as to have one; the busier side is named."""
    slow = replace(GOOD_RUN, bytes_per_second=1e6, source=Busy(0.79, 0.0))
    assert replace(slow, dest=Busy(0.5, waiting)).bound == bound


def test_what_is_asked_of_facts_is_what_the_report_tells() -> None:
    """Figures of both sides, by the names that a verdict knows them by."""
    facts = facts_of(report_of_drop())
    assert (facts.status, facts.policy, facts.vcpus) == ("completed", "drop", 2)
    assert facts.verified is True
    assert facts.has_postcopy is True
    assert (facts.ram_bytes, facts.page_bytes) == (8 << 20, 2 << 20)
    assert (facts.downtime_ms, facts.postcopy_ms) == (3.0, 100.0)
    assert facts.bytes_per_second == 100e6
    assert facts.link_share == 0.1
    assert facts.source == Busy(0.9, 0.05)
    assert facts.bound == "source"


def test_a_run_that_converged_had_no_postcopy() -> None:
    """All pages were there when the guest came; of a failed one nobody knows what was compared."""
    report = assemble("completed", source_part(switch_over_reason="converged"), dest_part())
    assert facts_of(report).has_postcopy is False
    facts = facts_of(assemble_failed("failed", "no route to host"))
    assert (facts.verified, facts.has_postcopy, facts.reason) == (None, False, "no route to host")
