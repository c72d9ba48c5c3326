"""What `--link` says: `1Gbit/s,rtt=10ms,queue=fifo`; one grammar for commands and scenarios.

A rate, and behind it what else is to be so, each at most once and in any order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocol.errors import LocalProtocolError
from protocol.text import did_you_mean
from protocol.units import parse_duration_ms
from scripts.links.shape import parse_link_rate

# The queues that may stand under a link's token bucket, by the kernel's names for them but for
# FIFO, of which it has one that counts bytes and one that counts packets.
PFIFO_FAST, FIFO, FQ_CODEL = "pfifo_fast", "fifo", "fq_codel"
QUEUES = (PFIFO_FAST, FIFO, FQ_CODEL)

# What Linux gives a network card that nobody has said anything about.
QUEUE_DEFAULT = PFIFO_FAST

_PERCENT = re.compile(r"(?P<number>[0-9]{1,2}(?:\.[0-9]{1,6})?)\s*%")

# Longer than a signal takes to a satellite and back, and what TCP has long given up at.
_RTT_US_MAX = 2_000_000
_LOSS_MAX = 0.5

_QUEUE, _RTT, _LOSS = "queue", "rtt", "loss"
_FORMS = {_QUEUE: "|".join(QUEUES), _RTT: "TIME", _LOSS: "PERCENT%"}


@dataclass(frozen=True)
class LinkSpec:
    """What a link is wanted to be.

    Attributes:
        bytes_per_second: The rate, each direction for itself; 0 for plain loopback.
        queue: One of QUEUES; empty where any will do, and then it is QUEUE_DEFAULT if that can be.
        rtt_us: How long a packet and its answer take beside what the rate makes them take.
        loss: Which share of packets is lost, each way.
    """

    bytes_per_second: int = 0
    queue: str = ""
    rtt_us: int = 0
    loss: float = 0.0

    def __str__(self) -> str:  # type: ignore[explicit-override]
        """Return it as it can be typed again."""
        if not self.bytes_per_second:
            return "0"
        return ",".join(filter(None, (f"{self.bytes_per_second}B/s", self.terms)))

    def __bool__(self) -> bool:
        """Tell whether there is to be a link at all."""
        return self.bytes_per_second > 0

    @property
    def terms(self) -> str:
        """What it is to be beside the rate, as it can be typed."""
        terms = {
            _QUEUE: self.queue,
            _RTT: f"{self.rtt_us}us" if self.rtt_us else "",
            _LOSS: f"{self.loss * 100:.6f}".rstrip("0").rstrip(".") + "%" if self.loss else "",
        }
        return ",".join(f"{key}={value}" for key, value in terms.items() if value)

    @property
    def is_relayed(self) -> bool:
        """Whether packets are to come late, or not at all."""
        return bool(self.rtt_us or self.loss)


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
        if key not in _FORMS or not equals:
            forms = ", ".join(f"{name}={form}" for name, form in _FORMS.items())
            raise LocalProtocolError(
                f"{term.strip()[:40]!r} says nothing of a link{did_you_mean(key, _FORMS)}; it is a "
                f"rate, and behind it any of {forms}"
            )
        if key in found:
            raise LocalProtocolError(f"{key}= is there twice")
        found[key] = value
    if found and not bytes_per_second:
        raise LocalProtocolError(f"plain loopback has no {', '.join(found)}; give a rate")
    return LinkSpec(
        bytes_per_second,
        _queue(found.get(_QUEUE)),
        _rtt_us(found.get(_RTT)),
        _loss(found.get(_LOSS)),
    )


def _queue(text: str | None) -> str:
    if text is None:
        return ""
    if text not in QUEUES:
        hint = did_you_mean(text, QUEUES)
        raise LocalProtocolError(
            f"a link has no {_QUEUE} {text[:40]!r}{hint}; known: {', '.join(QUEUES)}"
        )
    return text


def _rtt_us(text: str | None) -> int:
    if text is None:
        return 0
    rtt_us = 0 if text == "0" else round(parse_duration_ms(text) * 1000)
    if rtt_us > _RTT_US_MAX:
        raise LocalProtocolError(f"a link's {_RTT} is at most {_RTT_US_MAX / 1e6:g} s")
    return rtt_us


def _loss(text: str | None) -> float:
    if text is None:
        return 0.0
    match = _PERCENT.fullmatch(text)
    loss = float(match["number"]) / 100 if match else 1.0
    if loss > _LOSS_MAX:
        raise LocalProtocolError(
            f"{text[:40]!r} is no share of packets such as 0.1%, up to {_LOSS_MAX:.0%}"
        )
    return loss
