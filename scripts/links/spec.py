"""What `--link` says of a link: `1Gbit/s,queue=fifo`; one grammar for every command and scenario.

A rate, and behind it what else is to be so, each at most once and in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import LocalProtocolError
from protocol.text import did_you_mean
from scripts.links.shape import parse_link_rate

# The queues that may stand under a link's token bucket, by the kernel's names for them but for
# FIFO, of which it has one that counts bytes and one that counts packets.
PFIFO_FAST, FIFO, FQ_CODEL = "pfifo_fast", "fifo", "fq_codel"
QUEUES = (PFIFO_FAST, FIFO, FQ_CODEL)

# What Linux gives a network card that nobody has said anything about.
QUEUE_DEFAULT = PFIFO_FAST

_QUEUE = "queue"
_KEYS = (_QUEUE,)


@dataclass(frozen=True)
class LinkSpec:
    """What a link is wanted to be.

    Attributes:
        bytes_per_second: The rate, each direction for itself; 0 for plain loopback.
        queue: One of QUEUES; empty where any will do, and then it is QUEUE_DEFAULT if that can be.
    """

    bytes_per_second: int = 0
    queue: str = ""

    def __str__(self) -> str:  # type: ignore[explicit-override]
        """Return it as it can be typed again."""
        if not self.bytes_per_second:
            return "0"
        queue = f",{_QUEUE}={self.queue}" if self.queue else ""
        return f"{self.bytes_per_second}B/s{queue}"

    def __bool__(self) -> bool:
        """Tell whether there is to be a link at all."""
        return self.bytes_per_second > 0


PLAIN = LinkSpec()


def parse_link(text: str) -> LinkSpec:
    """Return what is said of a link.

    Raises:
        LocalProtocolError: It is said wrongly, or no link here can be so.
    """
    rate, *terms = text.split(",")
    bytes_per_second = parse_link_rate(rate)
    found: dict[str, str] = {}
    for term in terms:
        key, equals, value = (part.strip() for part in term.partition("="))
        if key not in _KEYS or not equals:
            hint = did_you_mean(key, _KEYS)
            raise LocalProtocolError(
                f"{term.strip()[:40]!r} says nothing of a link{hint}; it is a rate, and behind it "
                f"{_QUEUE}={'|'.join(QUEUES)}"
            )
        if key in found:
            raise LocalProtocolError(f"{key}= is there twice")
        found[key] = value
    if found and not bytes_per_second:
        raise LocalProtocolError(f"plain loopback has no {', '.join(found)}; give a rate")
    return LinkSpec(bytes_per_second, _queue(found.get(_QUEUE)))


def _queue(text: str | None) -> str:
    if text is None:
        return ""
    if text not in QUEUES:
        hint = did_you_mean(text, QUEUES)
        raise LocalProtocolError(
            f"a link has no {_QUEUE} {text[:40]!r}{hint}; known: {', '.join(QUEUES)}"
        )
    return text
