"""Sentences on a migration: how it ended, what it cost, what held it back, what to try.  Pure.

None says more than the facts: what was at its limit is named only where that was measured, and
where a fact is missing, so is its sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from protocol.report import STAGE_WORDS
from protocol.units import format_bytes, format_rate
from protocol.whereabouts import sentence_on
from scripts.screen.facts import CANCELLED, COMPLETED, FAILED, Facts
from scripts.screen.words import counted, percent, time_ms, time_us

# Which share of a guest's time is worth a word on how to have less of it.
_WAITING_MUCH = 0.2

GOOD, BAD, OPEN = "good", "bad", "open"


class Sentence(NamedTuple):
    """A sentence, and what it is about: outcome, downtime, waits, rate, breaks or try."""

    kind: str
    text: str


def outcome_of(facts: Facts) -> tuple[str, str]:
    """Return the tone of how it ended, and the sentence that says it: the first of all."""
    memory = f"{format_bytes(facts.ram_bytes)} of its memory" if facts.ram_bytes else "its memory"
    place = sentence_on(facts.guest_side, facts.reason)
    why = f": {facts.reason}" if facts.reason else ""
    if facts.lost_bytes:
        return (
            BAD,
            f"MEMORY LOST: {format_bytes(facts.lost_bytes)} of the guest's memory is gone{why}.",
        )
    if facts.verified is False:
        return BAD, f"WRONG MEMORY: what arrived is not what was sent{why}."
    if facts.status == COMPLETED and facts.verified:
        return GOOD, f"Verified: the guest has moved, and all {memory} is the same on both sides."
    if facts.status == COMPLETED:
        return OPEN, f"Completed, but not verified: not all {memory} was compared here."
    if facts.status in {FAILED, CANCELLED}:
        by_whom = facts.reason.removeprefix(CANCELLED)
        how = by_whom if by_whom.startswith(" by ") else why
        return BAD, f"{facts.status.upper()}{how}. {place}".strip()
    return OPEN, f"Not finished{why}: the last recorded state is {facts.status}."


def _say_downtime(facts: Facts) -> Iterator[str]:
    if facts.downtime_ms:
        yield f"Downtime: {time_ms(facts.downtime_ms)}."


def _say_waits(facts: Facts) -> Iterator[str]:
    if not facts.has_postcopy:
        if facts.status == COMPLETED:
            yield "All memory was sent in precopy: no vCPU waited for a page."
        return
    if not facts.waits:
        yield "No vCPU waited for a page."
        return
    share, stage = facts.waiting_share, facts.waited_for
    waits = f"{counted(facts.waits, 'wait', 'waits')}, median {time_us(facts.median_us)}, longest "
    waits += time_us(facts.longest_us)
    mostly = ""
    if stage is not None:
        mostly = f"; the largest part: {STAGE_WORDS[stage[0]]} ({percent(stage[1])})"
    if share is None:
        yield f"Pages were waited for: {waits}{mostly}."
        return
    who = "Its vCPU" if facts.vcpus == 1 else f"Its {facts.vcpus} vCPUs"
    yield (
        f"{who} spent {percent(share)} of the {time_ms(facts.postcopy_ms)} of postcopy waiting "
        f"for pages: {waits}{mostly}."
    )


_SIDES = {"source": "the source's", "dest": "the destination's"}


def _say_rate(facts: Facts) -> Iterator[str]:
    if not facts.bytes_per_second:
        return
    rate = f"Memory was sent at {format_rate(facts.bytes_per_second)}"
    if facts.link_share is not None:
        rate += f", {percent(facts.link_share)} of the link"
    bound = facts.bound
    if bound == "link":
        yield f"{rate}: the link was the limit."
    elif bound == "limit":
        yield f"{rate}, with {_limits(facts)}."
    elif bound:
        busy = facts.source if bound == "source" else facts.dest
        assert busy is not None
        waited = (
            f" and waited for a processor another {percent(busy.waiting)}" if busy.waiting else ""
        )
        yield (
            f"{rate}; {_SIDES[bound]} processor was the limit: its thread ran "
            f"{percent(busy.running)} of the time{waited}."
        )
    elif facts.source is not None and facts.dest is not None:
        yield (
            f"{rate}; no limit that is measured was reached (processors: source "
            f"{percent(facts.source.total)}, destination {percent(facts.dest.total)})."
        )
    else:
        yield f"{rate}."


def _limits(facts: Facts) -> str:
    names = ("--max-bandwidth", "--max-postcopy-bandwidth")
    return " and ".join(
        f"{name} {format_rate(rate)}"
        for name, rate in zip(names, facts.limits, strict=True)
        if rate
    )


def _say_breaks(facts: Facts) -> Iterator[str]:
    if not facts.breaks:
        return
    costs = []
    if facts.paused_ms:
        costs.append(f"{time_ms(facts.paused_ms)} without a connection")
    if facts.resent_bytes:
        costs.append(f"{format_bytes(facts.resent_bytes)} sent again")
    cost = f": {', '.join(costs)}" if costs else ""
    yield f"It was interrupted and resumed {counted(facts.breaks, 'time', 'times')}{cost}."


def _say_try(facts: Facts) -> Iterator[str]:
    """Say the one thing that is most likely to help, by what was waited for."""
    if facts.status != COMPLETED or (facts.waiting_share or 0.0) < _WAITING_MUCH:
        return
    stage = facts.waited_for
    if stage is None:
        return
    if stage[0] == "postponed":
        yield "Try --policy ordered: it serves each request in its turn."
    elif stage[0] == "broken":
        yield "Try a more reliable network: most of the waiting was for a connection."
    elif stage[0] in {"queue", "send", "receive"}:
        if facts.policy != "critical-first" and facts.page_bytes > 4096:
            yield "Try --policy critical-first: it first sends the 4 KiB that the vCPU touched."
        elif facts.bound == "link":
            yield "Try a faster link: what is sent on request is as small as it can be."
    elif facts.bound in _SIDES:
        yield f"Try again with less load on this machine: {_SIDES[facts.bound]} processor was busy."


def sentences_on(facts: Facts) -> Iterator[Sentence]:
    """Return what is to be said besides, in this order: its cost, its limit, what to try."""
    for kind, say in _SAYERS.items():
        for text in say(facts):
            yield Sentence(kind, text)


_SAYERS = {
    "downtime": _say_downtime,
    "waits": _say_waits,
    "rate": _say_rate,
    "breaks": _say_breaks,
    "try": _say_try,
}
