"""The verdict says what its facts say, in each case, and never more."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from protocol.report import STAGE_WORDS, STAGES, assemble_failed
from scripts.screen.facts import LINK_FULL, PROCESSOR_FULL, Busy, Facts
from scripts.screen.sentences import GOOD
from scripts.screen.verdict import judge, put_verdict
from scripts.screen.words import percent, time_ms, time_us
from tests.scripts.screen.test_sentences import GOOD_RUN
from tests.sides import report_of_drop


def test_a_good_run_is_told_whole() -> None:
    """Verified, downtime, waits and what they were for, what bounded it, what to try."""
    assert judge(GOOD_RUN).tone == GOOD
    assert dict(judge(GOOD_RUN).sentences) == {
        "outcome": "Verified: the guest has moved, and all 256 MiB of its memory is the same on "
        "both sides.",
        "downtime": "Downtime: 2.86 ms.",
        "waits": "Its 4 vCPUs spent 87 % of the 1.2 s of postcopy waiting for pages: 161 waits, "
        "median 70 ms, longest 90 ms; the largest part: waiting for its turn (60 %).",
        "rate": "Memory was sent at 118 MB/s, 94 % of the link: the link was the limit.",
        "try": "Try --policy critical-first: it first sends the 4 KiB that the vCPU touched.",
    }


def test_it_fits_a_terminal_of_80_columns() -> None:
    """The outcome stands first, all else below it, and no line wraps."""
    lines = judge(GOOD_RUN).text.splitlines()
    assert lines[0].startswith("Verified: ")
    assert max(map(len, lines)) < 80
    assert all(line.startswith("  ") for line in lines[2:])


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
    if ": the link was the limit" in rate:
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
    if " of postcopy waiting " in waits:
        share = facts.waited_ms / (facts.vcpus * facts.postcopy_ms)
        assert f"spent {percent(min(share, 1.0))} of the {time_ms(facts.postcopy_ms)}" in waits
        assert f"longest {time_us(facts.longest_us)}" in waits
    assert ("breaks" in told) == (facts.breaks > 0)
    if "try" in told:
        assert facts.status == "completed"
        assert facts.waiting_share is not None
    assert all(len(line) < 80 for line in verdict.text.splitlines())
    # What is said in numbers for machines is what is said in words.
    plain = verdict.to_plain()
    assert (plain["bound"] == "link") == (": the link was the limit" in rate)
    assert plain["sentences"] == [text for _, text in verdict.sentences]
    assert not re.search(r"None|nan|inf\b", verdict.text)


def test_a_report_has_its_verdict() -> None:
    """The figures of a report come to the sentences, and stand there in words and in numbers."""
    own = put_verdict(report_of_drop())["midstream"]["verdict"]
    assert (own["tone"], own["verified"], own["bound"], own["link-share"]) == (
        "good", True, "source", 0.1
    )  # fmt: skip
    assert own["waiting-share"] == 0
    assert own["sentences"][0].startswith("Verified: ")


def test_a_failed_report_has_one_too() -> None:
    """With what there is: the reason, and nothing of what nobody counted."""
    report = put_verdict(assemble_failed("failed", "no route to host"))
    own = report["midstream"]["verdict"]
    assert own["sentences"] == ["FAILED: no route to host."]
    assert (own["tone"], own["verified"], own["bound"]) == ("bad", None, None)
