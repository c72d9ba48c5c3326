"""Verdict on a migration: was it good, what did it cost, what held it back, what to try.  Pure.

All views say the same because all take it from here: `facts` has what a verdict is made of,
`sentences` what is said of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scripts.screen.facts import Facts, facts_of
from scripts.screen.sentences import Sentence, outcome_of, sentences_on
from scripts.screen.words import wrapped


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
        lines = wrapped(first, width)
        for text in others:
            lines += wrapped(text, width, "  ")
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
    tone, outcome = outcome_of(facts)
    return Verdict(facts, tone, (Sentence("outcome", outcome), *sentences_on(facts)))


def put_verdict(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report with the verdict that its figures come to."""
    if "midstream" in report:
        report["midstream"]["verdict"] = judge(facts_of(report)).to_plain()
    return report
