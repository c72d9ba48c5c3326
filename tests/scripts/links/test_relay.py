"""Packets come late by what was said, in their order, and as many are lost as was said."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from protocol.errors import MigrationError
from scripts.links.link import namespaces_link
from scripts.links.namespaces import ADDRESSES
from scripts.links.relay import Delay
from scripts.links.spec import LinkSpec
from tests.scripts.links.test_link import relayed_link, run

RATE = 12_500_000


def test_packets_arrive_late_and_in_order() -> None:
    """Each so long after it was taken; what is due together comes together."""
    way = Delay(0.5, 0.0, random.Random(0))
    assert way.due_at == float("inf")
    for number in range(4):
        way.take(bytes([number]), number / 4)
    assert way.due_at == 0.5
    assert way.arrived(0.49) == []
    assert way.arrived(0.8) == [b"\0", b"\1"]
    assert way.arrived(9.0) == [b"\2", b"\3"]
    assert way.due_at == float("inf")


def test_as_many_are_lost_as_is_said() -> None:
    """A tenth of many, and none without loss; those that come are in order."""
    way = Delay(0.0, 0.1, random.Random(0))
    for number in range(10_000):
        way.take(number.to_bytes(2, "big"), 0.0)
    came = way.arrived(0.0)
    assert came == sorted(came)
    assert 8800 < len(came) < 9200


_HEAR = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((%r, 4000))
print("up", flush=True)
count = 0
while True:
    packet, sender = sock.recvfrom(9)
    if packet == b"end":
        break
    count += 1
    if packet == b"answer":
        sock.sendto(packet, sender)
print(count)
"""
_SAY = """
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((%r, 4000))
took = [0]
for number in range(%d):
    began = time.monotonic()
    sock.send(%r)
    if %r:
        sock.recv(9)
        took.append(time.monotonic() - began)
# One of so many comes, whatever becomes of the others.
for _ in range(99):
    sock.send(b"end")
print(min(took[1:] or took))
"""


def say(spec: str, count: int, *, answered: bool) -> tuple[int, float]:
    """Return of so many packets how many came; and the shortest time that an answer took."""
    with relayed_link(spec) as link:
        hearing = subprocess.Popen(
            [*link.prefixes["dest"], sys.executable, "-c", _HEAR % ADDRESSES["dest"]],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert hearing.stdout is not None
        with hearing:
            assert hearing.stdout.readline() == "up\n"
            word = b"answer" if answered else b"word"
            code = _SAY % (ADDRESSES["dest"], count, word, answered)
            seconds = float(run(link.prefixes["source"], sys.executable, "-c", code))
            return int(hearing.stdout.read()), seconds


def test_an_answer_takes_a_round_trip() -> None:
    """None comes before its time, and none is lost."""
    count, seconds = say("100Mbit/s,rtt=100ms", 5, answered=True)
    assert count == 5
    assert seconds >= 0.1


def test_packets_are_lost_on_a_real_link() -> None:
    """A fifth of them; the others come."""
    count, _ = say("100Mbit/s,loss=20%", 200, answered=False)
    assert 130 < count < 190


def test_what_keeps_a_relay_from_being_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why there is none, in the words of whoever says so; nothing less takes its place."""
    spec = LinkSpec(RATE, rtt_us=1000)
    with relayed_link(str(spec)):
        pass
    monkeypatch.setattr("scripts.links.namespaces._RELAY", "scripts.links.no_such_relay")
    with (
        pytest.raises(MigrationError, match=r"no relay can be made: .*no_such_relay"),
        namespaces_link(spec),
    ):
        pass
