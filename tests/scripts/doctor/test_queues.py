"""Which queue a card has, and what that does with the priority of urgent packets."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field

import pytest

from guest.streams import queues as kernel
from scripts.doctor import queues
from scripts.doctor.feature import Feature


@dataclass
class Card:
    """A machine's one card, of which the kernel tells this."""

    kinds: list[str] = field(default_factory=list)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """Have the kernel tell of one card, whatever leads where."""
    card = Card()
    monkeypatch.setattr(kernel, "device_to", lambda _: 7)
    monkeypatch.setattr(kernel, "kinds_at", lambda _: card.kinds)
    monkeypatch.setattr("socket.if_indextoname", lambda _: "eth0")
    return card


@pytest.mark.parametrize(
    ("kinds", "ok", "words"),
    [
        (["pfifo_fast"], True, "eth0 has pfifo_fast: what is urgent goes before all else"),
        (["mq", "fq_codel", "fq_codel"], True, "eth0 has fq_codel: what is urgent goes before a"),
        (["mq", "fq", "fq"], True, "bands"),
        (["noqueue"], True, "does not wait in this host"),
        (["pfifo"], False, "a FIFO heeds no priority"),
        (["tbf"], False, "eth0 has bfifo"),
        (["tbf", "pfifo_fast"], True, "eth0 has pfifo_fast"),
        (["htb"], False, "eth0 has pfifo"),
        (["mq", "fq_codel", "pfifo"], False, "fq_codel: .*; pfifo: "),
        (["prio", "clsact"], True, "eth0 has prio"),
        (["hhf"], False, "nobody here knows"),
    ],
)
def test_a_queue_is_told_with_what_it_does(
    card: Card, kinds: list[str], ok: bool, words: str
) -> None:
    """Where urgent packets wait behind others there is a command that helps."""
    card.kinds = kinds
    found = answer()
    assert found.ok is ok
    assert re.search(words, found.detail)
    assert found.remedy == ("" if ok else "tc qdisc replace dev eth0 root pfifo_fast")


def answer(host: str | None = None) -> Feature:
    """Ask the one question."""
    (question,) = queues.questions(host)
    return question.answer()


def test_where_nobody_can_say_that_is_told(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """No route, no queue, no such host: a reason, and no crash."""
    assert answer().detail == "the kernel tells of no queue at eth0"
    assert card.kinds == []

    def unreachable(_: str) -> int:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr(kernel, "device_to", unreachable)
    found = answer()
    assert (found.ok, found.detail) == (False, "the way to other machines: Network is unreachable")
    assert found.remedy == "ip route"
    assert answer("127.0.0.1").detail == "the way to 127.0.0.1: Network is unreachable"
    assert answer("no.such.host.invalid").detail.startswith("no.such.host.invalid: ")


def test_this_machine_has_one_for_itself() -> None:
    """On loopback nothing waits in a queue; the kernel's own words are understood."""
    found = answer("127.0.0.1")
    assert found.ok
    assert found.detail == "lo has noqueue: what is urgent does not wait in this host"
