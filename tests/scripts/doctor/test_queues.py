"""Which queue a card has, and what that does with the priority of urgent packets."""

from __future__ import annotations

import re
from typing import Any

import pytest

from scripts.doctor import queues
from scripts.doctor.feature import Feature
from scripts.links.tools import path_of


def qdiscs(*kinds: str) -> list[dict[str, Any]]:
    """Return what tc says of an interface with these queues, the outermost first."""
    return [{"kind": kind, "dev": "eth0"} for kind in kinds]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """A machine with one card, of which the tools say what stands here."""
    told: dict[str, list[dict[str, Any]]] = {"ip": [{"dev": "eth0"}], "tc": []}
    monkeypatch.setattr(queues, "_told", lambda tool, *_: told[tool])
    return told


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
    machine: dict[str, list[dict[str, Any]]], kinds: list[str], ok: bool, words: str
) -> None:
    """Where urgent packets wait behind others there is a command that helps."""
    machine["tc"] = qdiscs(*kinds)
    found = answer()
    assert found.ok is ok
    assert re.search(words, found.detail)
    assert found.remedy == ("" if ok else "tc qdisc replace dev eth0 root pfifo_fast")


def answer(host: str | None = None) -> Feature:
    """Ask the one question."""
    (question,) = queues.questions(host)
    return question.answer()


def test_where_nobody_can_say_that_is_told(
    machine: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No route, no queue, no such host: a reason, and no crash."""
    assert answer().detail == "tc tells of no queue at eth0"
    machine["ip"] = []
    assert answer().detail == "there is no way to other machines"
    assert answer("127.0.0.1").detail == "there is no way to 127.0.0.1"
    assert answer("no.such.host.invalid").detail.startswith("no.such.host.invalid: ")
    monkeypatch.undo()
    monkeypatch.setattr(queues, "path_of", lambda _: None)
    found = answer()
    assert (found.ok, found.detail) == (False, "this machine lacks ip")
    assert found.remedy == "apt install iproute2"


@pytest.mark.skipif(path_of("ip") is None or path_of("tc") is None, reason="iproute2")
def test_this_machine_has_one_for_itself() -> None:
    """On loopback nothing waits in a queue; the tools' own words are understood."""
    found = answer("127.0.0.1")
    assert found.ok
    assert found.detail == "lo has noqueue: what is urgent does not wait in this host"
