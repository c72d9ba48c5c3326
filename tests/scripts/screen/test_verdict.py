"""The verdict says what its facts say, in each case, and never more."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.report import STAGE_WORDS, STAGES, assemble, assemble_failed
from scripts.screen.verdict import (
    BAD,
    GOOD,
    LINK_FULL,
    OPEN,
    PROCESSOR_FULL,
    Busy,
    Facts,
    facts_of,
    judge,
    put_verdict,
)
from scripts.screen.words import percent, time_ms, time_us
from tests.sides import dest_part, source_part

GOOD_RUN = Facts(
    status="completed", verified=True, ram_bytes=256 << 20, downtime_ms=2.857, has_postcopy=True,
    postcopy_ms=1200.0, vcpus=4, waits=161, waited_ms=4176.0, median_us=70e3, longest_us=90e3,
    stage_ms={"queue": 2500.0, "receive": 1676.0}, policy="ordered", page_bytes=2 << 20,
    bytes_per_second=118e6, link_bytes_per_second=125_000_000, source=Busy(0.3, 0.1),
    dest=Busy(0.2, 0.0), guest_side="dest",
)  # fmt: skip


def said(facts: Facts) -> dict[str, str]:
    """Return the sentences, by what they are about."""
    return dict(judge(facts).sentences)


def test_a_good_run_is_told_whole() -> None:
    """Verified, downtime, waits and what they were for, what bounded it, what to try."""
    assert judge(GOOD_RUN).tone == GOOD
    assert said(GOOD_RUN) == {
        "outcome": "Verified: the guest has moved, and all 256 MiB of its memory are the same on "
        "both sides.",
        "downtime": "Downtime: 2.86 ms.",
        "waits": "Its 4 vCPUs waited 87 % of the 1.2 s of postcopy: 161 waits, median 70 ms, "
        "longest 90 ms; the largest part of it: waiting for its turn (60 %).",
        "rate": "Memory went at 118 MB/s, 94 % of the link, which was the limit.",
        "try": "Try --policy critical-first: it sends the 4 KiB that a vCPU needs first.",
    }


def test_it_fits_a_terminal_of_80_columns() -> None:
    """The outcome stands first, all else below it, and no line wraps."""
    lines = judge(GOOD_RUN).text.splitlines()
    assert lines[0].startswith("Verified: ")
    assert max(map(len, lines)) < 80
    assert all(line.startswith("  ") for line in lines[2:])


@pytest.mark.parametrize(
    ("changes", "tone", "outcome"),
    [
        ({"verified": False}, BAD, "WRONG MEMORY: what arrived is not what was sent."),
        (
            {"verified": None}, OPEN,
            "Completed, not verified: nobody here compared all 256 MiB of its memory.",
        ),
        (
            {"status": "failed", "verified": None, "reason": "no route", "guest_side": "source"},
            BAD, "FAILED: no route. The guest is at the source.",
        ),
        (
            {"status": "cancelled", "verified": None, "reason": "", "guest_side": ""}, BAD,
            "CANCELLED.",
        ),
        (
            {"status": "failed", "lost_bytes": 3 << 20, "reason": "the source is gone"}, BAD,
            "MEMORY LOST: 3 MiB of the guest are gone: the source is gone.",
        ),
        (
            {"status": "postcopy-active", "verified": None}, OPEN,
            "Not finished: the last state told is postcopy-active.",
        ),
    ],
)  # fmt: skip
def test_each_end_has_its_first_sentence(
    changes: dict[str, object], tone: str, outcome: str
) -> None:
    """Whatever came of it stands first, with the reason where it is bad."""
    verdict = judge(replace(GOOD_RUN, **changes))  # type: ignore[arg-type]
    assert (verdict.tone, verdict.sentences[0].text) == (tone, outcome)


def test_what_bounded_it() -> None:
    """A full link, the user's limits, a processor that was used up or waited for, or nothing."""
    slow = replace(GOOD_RUN, bytes_per_second=60e6)
    assert (
        "nothing that is measured was used up (processors: source 40 %, destination 20 %)"
        in (said(slow)["rate"])
    )
    busy = replace(slow, dest=Busy(0.5, 0.4))
    assert said(busy)["rate"] == (
        "Memory went at 60 MB/s, 48 % of the link; the destination's processor was the limit: it "
        "ran 50 % of the time and waited for a processor 40 % of it."
    )
    assert "the source's processor was the limit" in said(
        replace(busy, source=Busy(0.95, 0.0))
    )["rate"]  # fmt: skip
    limited = replace(busy, limits=(50_000_000, 0))
    assert said(limited)["rate"].endswith("; the user's limits were --max-bandwidth 50 MB/s.")
    unknown = replace(slow, source=None, dest=None, link_bytes_per_second=0)
    assert said(unknown)["rate"] == "Memory went at 60 MB/s."
    assert "rate" not in said(replace(slow, bytes_per_second=0.0))


def test_what_breaks_cost() -> None:
    """How often, for how long, and what went again; what is not known is not said."""
    broken = replace(GOOD_RUN, breaks=2, paused_ms=1500.0, resent_bytes=3 << 20)
    assert said(broken)["breaks"] == (
        "It was interrupted and resumed 2 times, which cost 1.5 s without a connection and 3 MiB "
        "that went again."
    )
    once = replace(GOOD_RUN, breaks=1)
    assert said(once)["breaks"] == "It was interrupted and resumed 1 time."


def test_precopy_alone_and_postcopy_without_waits() -> None:
    """Nobody waits for what has come before; where somebody could have and did not, it is said."""
    assert said(replace(GOOD_RUN, has_postcopy=False, waits=0))["waits"] == (
        "All of it went in precopy: no vCPU waited for a page."
    )
    assert said(replace(GOOD_RUN, waits=0))["waits"] == "No vCPU waited for a page."
    one = said(replace(GOOD_RUN, vcpus=1, waits=1, stage_ms={}))["waits"]
    assert one.startswith("Its vCPU waited 100 % of the 1.2 s of postcopy: 1 wait, median")
    # Between two QEMUs requests are seen, and no vCPUs.
    assert said(replace(GOOD_RUN, vcpus=0))["waits"].startswith("Pages were waited for: 161 waits")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage_ms": {"postponed": 1.0}, "policy": "drop"}, "--policy ordered"),
        ({"stage_ms": {"broken": 1.0}}, "a network that does not break"),
        ({"policy": "critical-first"}, "a faster link"),
        ({"policy": "critical-first", "bytes_per_second": 1e6}, ""),
        (
            {"stage_ms": {"detect": 1.0}, "bytes_per_second": 1e6, "dest": Busy(0.5, 0.5)},
            "less on this machine",
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


SHARES = st.floats(0, 1)
BUSY = st.none() | st.builds(lambda ran, rest: Busy(ran, rest * (1 - ran)), SHARES, SHARES)
FACTS = st.builds(
    Facts,
    status=st.sampled_from(["completed", "failed", "cancelled", "active", "postcopy-paused"]),
    reason=st.sampled_from(["", "no route"]),
    guest_side=st.sampled_from(["", "source", "dest", "unknown"]),
    verified=st.sampled_from([None, True, False]),
    ram_bytes=st.integers(0, 1 << 40),
    lost_bytes=st.sampled_from([0, 4096]),
    downtime_ms=st.none() | st.floats(0, 1e6),
    has_postcopy=st.booleans(),
    postcopy_ms=st.floats(0, 1e6),
    vcpus=st.integers(0, 64),
    waits=st.integers(0, 10_000),
    waited_ms=st.floats(0, 1e7),
    median_us=st.floats(0, 1e6),
    longest_us=st.floats(1e6, 1e9),
    stage_ms=st.dictionaries(st.sampled_from(STAGES), st.floats(0, 1e6)),
    policy=st.sampled_from(["ordered", "drop", "critical-first"]),
    page_bytes=st.sampled_from([4096, 2 << 20]),
    bytes_per_second=st.floats(0, 1e10),
    link_bytes_per_second=st.sampled_from([0, 125_000_000]),
    limits=st.tuples(st.sampled_from([0, 10**6]), st.sampled_from([0, 10**6])),
    source=BUSY,
    dest=BUSY,
    breaks=st.integers(0, 3),
    paused_ms=st.floats(0, 1e5),
    resent_bytes=st.integers(0, 1 << 30),
)


@given(FACTS)
def test_no_sentence_says_more_than_its_figures(facts: Facts) -> None:
    """Good, a limit, the largest part, a cost and an advice are said only where figures are."""
    verdict = judge(facts)
    told = dict(verdict.sentences)
    assert (verdict.tone == GOOD) == told["outcome"].startswith("Verified: ")
    if verdict.tone == GOOD:
        assert facts.status == "completed"
        assert facts.verified
        assert not facts.lost_bytes
    rate = told.get("rate", "")
    if ", which was the limit" in rate:
        assert facts.bytes_per_second >= LINK_FULL * facts.link_bytes_per_second > 0
    for name, busy in (("source", facts.source), ("destination", facts.dest)):
        if f"the {name}'s processor was the limit" in rate:
            assert busy is not None
            assert busy.total >= PROCESSOR_FULL
            assert percent(busy.running) in rate
    waits = told.get("waits", "")
    if "the largest part" in waits:
        stage = max(facts.stage_ms.values())
        assert any(
            STAGE_WORDS[name] in waits and facts.stage_ms[name] == stage for name in facts.stage_ms
        )
    if " of postcopy: " in waits:
        share = facts.waited_ms / (facts.vcpus * facts.postcopy_ms)
        assert f"waited {percent(min(share, 1.0))} of the {time_ms(facts.postcopy_ms)}" in waits
        assert f"longest {time_us(facts.longest_us)}" in waits
    assert ("breaks" in told) == (facts.breaks > 0)
    if "try" in told:
        assert facts.status == "completed"
        assert facts.waiting_share is not None
    assert all(len(line) < 80 for line in verdict.text.splitlines())
    # What is said in numbers for machines is what is said in words.
    plain = verdict.to_plain()
    assert (plain["bound"] == "link") == (", which was the limit" in rate)
    assert plain["sentences"] == [text for _, text in verdict.sentences]
    assert not re.search(r"None|nan|inf\b", verdict.text)


def test_a_report_has_its_verdict() -> None:
    """The figures of a report come to the sentences, and stand there in words and in numbers."""
    source = source_part(
        policy="drop", ram_bytes=8 << 20, pages_compared=4, digest_equal=True, downtime_ms=3.0,
        vcpus=2, postcopy_ms=100.0, mbps=800.0, switch_over_reason="postcopy-after",
        host_page_bytes=2 << 20, processor_running=0.9, processor_waiting=0.05,
    )  # fmt: skip
    report = assemble("completed", source, dest_part())
    report["midstream"]["link"] = {"bytes-per-second": 10**9}
    own = put_verdict(report)["midstream"]["verdict"]
    assert (own["tone"], own["verified"], own["bound"], own["link-share"]) == (
        "good", True, "source", 0.1
    )  # fmt: skip
    assert own["waiting-share"] == 0
    assert own["sentences"][0].startswith("Verified: ")
    assert facts_of(report).source == Busy(0.9, 0.05)


def test_a_failed_report_has_one_too() -> None:
    """With what there is: the reason, and nothing of what nobody counted."""
    report = put_verdict(assemble_failed("failed", "no route to host"))
    own = report["midstream"]["verdict"]
    assert own["sentences"] == ["FAILED: no route to host."]
    assert (own["tone"], own["verified"], own["bound"]) == ("bad", None, None)


@pytest.mark.parametrize(("share", "bound"), [(0.85, "link"), (0.84, ""), (0.5, "")])
def test_a_link_is_the_limit_from_a_share_on(share: float, bound: str) -> None:
    """Of what a link carries some percent are heads of packets; much less is not all of it."""
    assert replace(GOOD_RUN, bytes_per_second=share * 125_000_000).bound == bound


@pytest.mark.parametrize(("waiting", "bound"), [(0.3, "dest"), (0.29, "")])
def test_a_processor_is_the_limit_from_a_share_on(waiting: float, bound: str) -> None:
    """To wait for a processor counts as to have one; the busier side is named."""
    slow = replace(GOOD_RUN, bytes_per_second=1e6, source=Busy(0.79, 0.0))
    assert replace(slow, dest=Busy(0.5, waiting)).bound == bound
