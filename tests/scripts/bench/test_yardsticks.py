"""What others do on the same sockets: iperf3, and a plain question."""

from __future__ import annotations

import json

import pytest

from protocol.errors import MigrationError
from scripts.bench import yardsticks
from scripts.bench.yardsticks import has_iperf, measure_iperf, rate_of
from scripts.links.link import LOOPBACK, PROXY, Link
from scripts.links.spec import LinkSpec
from tests.bounds import nothing_left


def test_the_receivers_count_is_taken() -> None:
    """Bits a second become bytes."""
    told = {"end": {"sum_sent": {"bits_per_second": 1}, "sum_received": {"bits_per_second": 80}}}

    assert rate_of(json.dumps(told).encode()) == 10.0


@pytest.mark.parametrize("output", [b"", b"[]", b'{"error": "unable to connect"}'])
def test_a_failure_is_told(output: bytes) -> None:
    """What it says stands in the error."""
    with pytest.raises(MigrationError, match="told no rate"):
        rate_of(output)


def test_it_stands_aside_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without the program nor through a proxy is anything measured."""
    monkeypatch.setenv("PATH", "/nowhere")

    assert not has_iperf(LOOPBACK)
    assert not has_iperf(Link(LinkSpec(1000), PROXY))


@pytest.mark.skipif(not has_iperf(LOOPBACK), reason="iperf3 is not installed")
def test_a_real_one_gives_a_rate() -> None:
    """Where it is installed, it sends what it is told to."""
    assert measure_iperf(8 << 20, LOOPBACK) > 0


def test_every_question_is_answered() -> None:
    """Each takes its time, and the process that answers is gone afterwards."""
    with nothing_left():
        took = yardsticks.ask(4096, questions=20)

    assert len(took) == 20
    assert min(took) > 0


def test_nobody_who_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not come is told of in one line, in time."""
    monkeypatch.setattr(yardsticks, "_MODULE", "no_such_module")
    monkeypatch.setattr(yardsticks, "_SECONDS_MAX", 0.5)
    with nothing_left(), pytest.raises(MigrationError, match="no answer over a plain socket"):
        yardsticks.ask(4096)
