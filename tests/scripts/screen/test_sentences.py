"""Each sentence says what its facts say, and there is none of what nobody told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.screen.facts import Busy, Facts
from scripts.screen.sentences import BAD, OPEN, outcome_of, sentences_on

GOOD_RUN = Facts(
    status="completed", verified=True, ram_bytes=256 << 20, downtime_ms=2.857, has_postcopy=True,
    postcopy_ms=1200.0, vcpus=4, waits=161, waited_ms=4176.0, median_us=70e3, longest_us=90e3,
    stage_ms={"queue": 2500.0, "receive": 1676.0}, policy="ordered", page_bytes=2 << 20,
    bytes_per_second=118e6, link_bytes_per_second=125_000_000, source=Busy(0.3, 0.1),
    dest=Busy(0.2, 0.0), guest_side="dest",
)  # fmt: skip


def said(facts: Facts) -> dict[str, str]:
    """Return the sentences, by what they are about."""
    return {"outcome": outcome_of(facts)[1], **dict(sentences_on(facts))}


@pytest.mark.parametrize(
    ("changes", "tone", "outcome"),
    [
        ({"verified": False}, BAD, "WRONG MEMORY: what arrived is not what was sent."),
        (
            {"verified": None}, OPEN,
            "Completed, but not verified: not all 256 MiB of its memory was compared here.",
        ),
        (
            {"status": "failed", "verified": None, "reason": "no route", "guest_side": "source"},
            BAD, "FAILED: no route. The guest stays at the source.",
        ),
        (
            {"status": "cancelled", "verified": None, "reason": "", "guest_side": ""}, BAD,
            "CANCELLED.",
        ),
        (
            {
                "status": "cancelled", "verified": None, "reason": "cancelled by SIGINT",
                "guest_side": "source",
            },
            BAD, "CANCELLED by SIGINT. The guest stays at the source.",
        ),
        (
            {"status": "failed", "lost_bytes": 3 << 20, "reason": "the source is gone"}, BAD,
            "MEMORY LOST: 3 MiB of the guest's memory is gone: the source is gone.",
        ),
        (
            {"status": "postcopy-active", "verified": None}, OPEN,
            "Not finished: the last recorded state is postcopy-active.",
        ),
    ],
)  # fmt: skip
def test_each_end_has_its_first_sentence(
    changes: dict[str, object], tone: str, outcome: str
) -> None:
    """Whatever came of it stands first, with the reason where it is bad."""
    facts = replace(GOOD_RUN, **changes)  # type: ignore[arg-type]
    assert outcome_of(facts) == (tone, outcome)


def test_what_bounded_it() -> None:
    """A full link, the user's limits, a processor that was used up or waited for, or nothing."""
    slow = replace(GOOD_RUN, bytes_per_second=60e6)
    assert (
        "no limit that is measured was reached (processors: source 40 %, destination 20 %)"
        in (said(slow)["rate"])
    )
    busy = replace(slow, dest=Busy(0.5, 0.4))
    assert said(busy)["rate"] == (
        "Memory was sent at 60 MB/s, 48 % of the link; the destination's processor was the limit: "
        "its thread ran 50 % of the time and waited for a processor another 40 %."
    )
    assert "the source's processor was the limit" in said(
        replace(busy, source=Busy(0.95, 0.0))
    )["rate"]  # fmt: skip
    limited = replace(busy, limits=(50_000_000, 0))
    assert said(limited)["rate"].endswith(", with --max-bandwidth 50 MB/s.")
    unknown = replace(slow, source=None, dest=None, link_bytes_per_second=0)
    assert said(unknown)["rate"] == "Memory was sent at 60 MB/s."
    assert "rate" not in said(replace(slow, bytes_per_second=0.0))


def test_what_breaks_cost() -> None:
    """How often, for how long, and what went again; what is not known is not said."""
    broken = replace(GOOD_RUN, breaks=2, paused_ms=1500.0, resent_bytes=3 << 20)
    assert said(broken)["breaks"] == (
        "It was interrupted and resumed 2 times: 1.5 s without a connection, 3 MiB sent again."
    )
    once = replace(GOOD_RUN, breaks=1)
    assert said(once)["breaks"] == "It was interrupted and resumed 1 time."


def test_precopy_alone_and_postcopy_without_waits() -> None:
    """Nobody waits for what has come before; where somebody could have and did not, it is said."""
    assert said(replace(GOOD_RUN, has_postcopy=False, waits=0))["waits"] == (
        "All memory was sent in precopy: no vCPU waited for a page."
    )
    assert said(replace(GOOD_RUN, waits=0))["waits"] == "No vCPU waited for a page."
    one = said(replace(GOOD_RUN, vcpus=1, waits=1, stage_ms={}))["waits"]
    assert one.startswith(
        "Its vCPU spent 100 % of the 1.2 s of postcopy waiting for pages: 1 wait, "
    )
    # Between two QEMUs requests are seen, and no vCPUs.
    assert said(replace(GOOD_RUN, vcpus=0))["waits"].startswith("Pages were waited for: 161 waits")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage_ms": {"postponed": 1.0}, "policy": "drop"}, "--policy ordered"),
        ({"stage_ms": {"broken": 1.0}}, "a more reliable network"),
        ({"policy": "critical-first"}, "a faster link"),
        ({"policy": "critical-first", "bytes_per_second": 1e6}, ""),
        (
            {"stage_ms": {"detect": 1.0}, "bytes_per_second": 1e6, "dest": Busy(0.5, 0.5)},
            "less load on this machine",
        ),
        ({"waited_ms": 1.0}, ""),
        ({"status": "failed"}, ""),
        ({"page_bytes": 4096, "bytes_per_second": 1e6}, ""),
    ],
)
def test_what_to_try_hangs_on_what_was_waited_for(changes: dict[str, object], words: str) -> None:
    """One thing that is likely to help, and nothing where nothing is."""
    told = said(replace(GOOD_RUN, **changes)).get("try", "")  # type: ignore[arg-type]
    assert words in told
    assert bool(words) == bool(told)
