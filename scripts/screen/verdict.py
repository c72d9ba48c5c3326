"""Verdict on a migration: was it good, what did it cost, what held it back, what to try.  Pure.

All views say the same because all take it from here.  Facts come out of a report (`facts_of`) or
out of events (`scripts/views/facts.py`); where a fact is missing, its sentence is.  No sentence
says more than the figures: what was at its limit is named only where that was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from textwrap import fill
from typing import Any, NamedTuple

from protocol.report import STAGE_WORDS
from protocol.units import format_bytes, format_rate
from scripts.screen.words import counted, percent, time_ms, time_us

# From which share on a link, or a processor, counts as used up.  Of what a link carries some
# percent are heads of packets, and a stream has its gaps.
LINK_FULL = 0.85
PROCESSOR_FULL = 0.8
# Which share of a guest's time is worth a word on how to have less of it.
_WAITING_MUCH = 0.2

COMPLETED, CANCELLED, FAILED = "completed", "cancelled", "failed"
GOOD, BAD, OPEN = "good", "bad", "open"


class Busy(NamedTuple):
    """Shares of the time that a side's thread ran, and waited for a processor."""

    running: float
    waiting: float

    @property
    def total(self) -> float:
        """How much of the time it had, or wanted, a processor."""
        return self.running + self.waiting


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about one migration; None, or nothing, where they are not known.

    Attributes:
        status: The state in which it ended, by QEMU's name.
        reason: Why it ended badly.
        guest_side: Which side has the guest: source, dest, unknown; empty if nobody says.
        verified: Whether both sides' memory was compared and is right; None if it was not compared.
        ram_bytes: The guest's memory.
        lost_bytes: Memory that is gone.
        downtime_ms: How long the guest stood still; None if it was not moved, or nobody says.
        has_postcopy: The guest ran on the destination before all of it was there.
        postcopy_ms: For how long it did.
        vcpus: How many it has; 0 where waits are not a vCPU's.
        waits: How many waits there were, in `waited_ms` together.
        stage_ms: What they were made of, by `protocol.report.STAGES`.
        policy: The policy's name.
        page_bytes: The largest page.
        bytes_per_second: Page bytes while they were being sent.
        link_bytes_per_second: The rate of a link that is known; 0 for none.
        limits: Bytes a second that the user allowed, in precopy and to postcopy's background.
        source: How busy the source was, and `dest` the destination.
        breaks: How often it was resumed after a break.
        paused_ms: How long a connection was gone.
        resent_bytes: What went again because of that.
    """

    status: str
    reason: str = ""
    guest_side: str = ""
    verified: bool | None = None
    ram_bytes: int = 0
    lost_bytes: int = 0
    downtime_ms: float | None = None
    has_postcopy: bool = False
    postcopy_ms: float = 0.0
    vcpus: int = 0
    waits: int = 0
    waited_ms: float = 0.0
    median_us: float = 0.0
    longest_us: float = 0.0
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    policy: str = ""
    page_bytes: int = 0
    bytes_per_second: float = 0.0
    link_bytes_per_second: int = 0
    limits: tuple[int, int] = (0, 0)
    source: Busy | None = None
    dest: Busy | None = None
    breaks: int = 0
    paused_ms: float = 0.0
    resent_bytes: int = 0

    @property
    def waiting_share(self) -> float | None:
        """Which share of postcopy its vCPUs waited, on average; None if that is not known."""
        time_ms = self.vcpus * self.postcopy_ms
        return min(self.waited_ms / time_ms, 1.0) if self.has_postcopy and time_ms else None

    @property
    def waited_for(self) -> tuple[str, float] | None:
        """The stage that took most of the waits, and which share of them."""
        total_ms = sum(self.stage_ms.values())
        if not total_ms:
            return None
        stage = max(self.stage_ms, key=lambda name: self.stage_ms[name])
        return stage, self.stage_ms[stage] / total_ms

    @property
    def link_share(self) -> float | None:
        """How much of the link was used while memory was being sent; None if nobody knows."""
        if not (self.link_bytes_per_second and self.bytes_per_second):
            return None
        return min(self.bytes_per_second / self.link_bytes_per_second, 1.0)

    @property
    def bound(self) -> str:
        """The limit that was reached: link, limit (the user's), source, dest; empty for none."""
        if (self.link_share or 0.0) >= LINK_FULL:
            return "link"
        if any(self.limits):
            return "limit"
        busy = {name: side.total for name, side in self._sides if side is not None}
        name = max(busy, key=lambda each: busy[each], default="")
        return name if name and busy[name] >= PROCESSOR_FULL else ""

    @property
    def _sides(self) -> tuple[tuple[str, Busy | None], ...]:
        return ("source", self.source), ("dest", self.dest)


class Sentence(NamedTuple):
    """A sentence, and what it is about: outcome, downtime, waits, rate, breaks or try."""

    kind: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """A verdict on a migration.

    Attributes:
        tone: GOOD, BAD, or OPEN for what has not ended or was not compared.
        sentences: The outcome first.
    """

    facts: Facts
    tone: str
    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """All of it for a terminal, in lines of less than 80 characters."""
        return self.in_lines(79)

    def in_lines(self, width: int) -> str:
        """Return all of it in lines of at most so many characters."""
        first, *others = (sentence.text for sentence in self.sentences)
        lines = [fill(first, width, break_on_hyphens=False)]
        lines += [
            fill(text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
            for text in others
        ]
        return "".join(f"{line}\n" for line in lines)

    def to_plain(self) -> dict[str, Any]:
        """Return it for a report."""
        facts, stage = self.facts, self.facts.waited_for
        return {
            "tone": self.tone,
            "verified": facts.verified,
            "bound": facts.bound or None,
            "waiting-share": _rounded(facts.waiting_share),
            "waited-for": stage[0] if stage is not None else None,
            "link-share": _rounded(facts.link_share),
            "sentences": [sentence.text for sentence in self.sentences],
        }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def judge(facts: Facts) -> Verdict:
    """Return the verdict that facts come to."""
    tone, outcome = _outcome(facts)
    told = [Sentence("outcome", outcome)]
    for kind, say in _SAYERS.items():
        told += [Sentence(kind, text) for text in say(facts)]
    return Verdict(facts, tone, tuple(told))


_PLACES = {"source": "The guest is at the source.", "dest": "The guest is at the destination."}


def _outcome(facts: Facts) -> tuple[str, str]:
    memory = f"{format_bytes(facts.ram_bytes)} of its memory" if facts.ram_bytes else "its memory"
    place = _PLACES.get(facts.guest_side, "")
    why = f": {facts.reason}" if facts.reason else ""
    if facts.lost_bytes:
        return BAD, f"MEMORY LOST: {format_bytes(facts.lost_bytes)} of the guest are gone{why}."
    if facts.verified is False:
        return BAD, f"WRONG MEMORY: what arrived is not what was sent{why}."
    if facts.status == COMPLETED and facts.verified:
        return GOOD, f"Verified: the guest has moved, and all {memory} are the same on both sides."
    if facts.status == COMPLETED:
        return OPEN, f"Completed, not verified: nobody here compared all {memory}."
    if facts.status in {FAILED, CANCELLED}:
        return BAD, f"{facts.status.upper()}{why}. {place}".strip()
    return OPEN, f"Not finished{why}: the last state told is {facts.status}."


def _say_downtime(facts: Facts) -> Iterator[str]:
    if facts.downtime_ms:
        yield f"Downtime: {time_ms(facts.downtime_ms)}."


def _say_waits(facts: Facts) -> Iterator[str]:
    if not facts.has_postcopy:
        if facts.status == COMPLETED:
            yield "All of it went in precopy: no vCPU waited for a page."
        return
    if not facts.waits:
        yield "No vCPU waited for a page."
        return
    share, stage = facts.waiting_share, facts.waited_for
    waits = f"{counted(facts.waits, 'wait', 'waits')}, median {time_us(facts.median_us)}, longest "
    waits += time_us(facts.longest_us)
    mostly = ""
    if stage is not None:
        mostly = f"; the largest part of it: {STAGE_WORDS[stage[0]]} ({percent(stage[1])})"
    if share is None:
        yield f"Pages were waited for: {waits}{mostly}."
        return
    who = "Its vCPU" if facts.vcpus == 1 else f"Its {facts.vcpus} vCPUs"
    yield (
        f"{who} waited {percent(share)} of the {time_ms(facts.postcopy_ms)} of postcopy: "
        f"{waits}{mostly}."
    )


_SIDES = {"source": "the source's", "dest": "the destination's"}


def _say_rate(facts: Facts) -> Iterator[str]:
    if not facts.bytes_per_second:
        return
    rate = f"Memory went at {facts.bytes_per_second / 1e6:.3g} MB/s"
    if facts.link_share is not None:
        rate += f", {percent(facts.link_share)} of the link"
    bound = facts.bound
    if bound == "link":
        yield f"{rate}, which was the limit."
    elif bound == "limit":
        yield f"{rate}; the user's limits were {_limits(facts)}."
    elif bound:
        busy = facts.source if bound == "source" else facts.dest
        assert busy is not None
        waited = (
            f" and waited for a processor {percent(busy.waiting)} of it" if busy.waiting else ""
        )
        yield (
            f"{rate}; {_SIDES[bound]} processor was the limit: it ran "
            f"{percent(busy.running)} of the time{waited}."
        )
    elif facts.source is not None and facts.dest is not None:
        yield (
            f"{rate}; nothing that is measured was used up (processors: source "
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
        costs.append(f"{format_bytes(facts.resent_bytes)} that went again")
    cost = f", which cost {' and '.join(costs)}" if costs else ""
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
        yield "Try a network that does not break: most of the waiting was for a connection."
    elif stage[0] in {"queue", "send", "receive"}:
        if facts.policy != "critical-first" and facts.page_bytes > 4096:
            yield "Try --policy critical-first: it sends the 4 KiB that a vCPU needs first."
        elif facts.bound == "link":
            yield "Try a faster link: with all pages as small as can be it is what is left."
    elif facts.bound in _SIDES:
        yield f"Try again with less on this machine: {_SIDES[facts.bound]} processor was busy."


_SAYERS = {
    "downtime": _say_downtime,
    "waits": _say_waits,
    "rate": _say_rate,
    "breaks": _say_breaks,
    "try": _say_try,
}


def facts_of(report: Mapping[str, Any]) -> Facts:
    """Return the facts of a report, whole or of a migration that failed."""
    own, ram = report.get("midstream", {}), report.get("ram", {})
    faults = own.get("faults", {})
    count = int(faults.get("count", 0))
    verified = own.get("verified") or {}
    is_right: bool | None = None
    if own.get("peer") != "qemu" and verified.get("pages"):
        is_right = bool(verified["digest-equal"] and not verified["mismatches"])
    limits = own.get("limits", {})
    busy = {
        side: Busy(share["running"], share["waiting"])
        for side, share in own.get("processor", {}).items()
    }
    return Facts(
        status=report["status"],
        reason=str(own.get("reason", "")),
        guest_side=str(own.get("guest-side", "")),
        verified=is_right,
        ram_bytes=ram.get("total", 0),
        downtime_ms=own.get("downtime-ms"),
        has_postcopy=_has_postcopy(report),
        postcopy_ms=own.get("postcopy-ms", 0.0),
        vcpus=own.get("vcpus", 0),
        waits=count,
        waited_ms=count * faults.get("mean-us", 0.0) / 1000,
        median_us=faults.get("p50-us", 0.0),
        longest_us=faults.get("max-us") or 0.0,
        stage_ms={
            stage: figures["count"] * figures["mean-us"] / 1000
            for stage, figures in own.get("stages", {}).items()
        },
        policy=str(own.get("policy", "")),
        page_bytes=own.get("page-bytes", 0),
        bytes_per_second=ram.get("mbps", 0.0) * 1e6 / 8,
        link_bytes_per_second=own.get("link", {}).get("bytes-per-second", 0),
        limits=(limits.get("max-bandwidth", 0), limits.get("max-postcopy-bandwidth", 0)),
        source=busy.get("source"),
        dest=busy.get("dest"),
        breaks=own.get("recoveries") or 0,
        paused_ms=own.get("paused-ms", 0.0),
        resent_bytes=own.get("bytes-lost") or 0,
    )


def _has_postcopy(report: Mapping[str, Any]) -> bool:
    own = report.get("midstream", {})
    if own.get("peer") == "qemu":
        return bool(own.get("requests", {}).get("received") or own.get("faults", {}).get("count"))
    return own.get("switch-over", {}).get("reason") not in {None, "converged"}


def put_verdict(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report with the verdict that its figures come to."""
    if "midstream" in report:
        report["midstream"]["verdict"] = judge(facts_of(report)).to_plain()
    return report
