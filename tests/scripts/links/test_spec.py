"""What `--link` says: one grammar, read back as it is written."""

import pytest

from protocol.errors import LocalProtocolError
from scripts.links.spec import FIFO, PFIFO_FAST, LinkSpec, parse_link


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("0", LinkSpec()),
        ("1Gbit/s", LinkSpec(125_000_000)),
        ("1Gbit/s,queue=fifo", LinkSpec(125_000_000, FIFO)),
        (" 10MB/s , queue = pfifo_fast ", LinkSpec(10_000_000, PFIFO_FAST)),
        ("1Gbit/s,rtt=10ms", LinkSpec(125_000_000, rtt_us=10_000)),
        ("1Gbit/s,loss=0.1%,rtt=1500us", LinkSpec(125_000_000, rtt_us=1500, loss=0.001)),
        ("1Gbit/s,rtt=0,loss=0%,queue=fifo", LinkSpec(125_000_000, FIFO)),
    ],
)
def test_what_is_said_is_read_and_can_be_typed_again(text: str, spec: LinkSpec) -> None:
    """A rate alone says nothing of the queue; 0 is no link."""
    assert parse_link(text) == spec
    assert parse_link(str(spec)) == spec
    assert bool(spec) is (text != "0")
    assert spec.is_relayed is ("rtt=1" in text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a rate"),
        ("queue=fifo", "is not a rate"),
        ("1kbit/s,queue=fifo", "64kbit/s to 1000Gbit/s"),
        ("0,queue=fifo", "plain loopback has no queue"),
        ("1Gbit/s,", "says nothing of a link"),
        ("1Gbit/s,fifo", "says nothing of a link"),
        ("1Gbit/s,queu=fifo", "did you mean 'queue'"),
        ("1Gbit/s,queue", "says nothing of a link"),
        ("1Gbit/s,queue=", "no queue ''"),
        ("1Gbit/s,queue=pfifofast", "did you mean 'pfifo_fast'"),
        ("1Gbit/s,queue=fifo,queue=fifo", "queue= is there twice"),
        ("0,rtt=1ms,loss=1%", "plain loopback has no rtt, loss"),
        ("1Gbit/s,rtt=10", "is not a duration"),
        ("1Gbit/s,rtt=-1ms", "is not a duration"),
        ("1Gbit/s,rtt=3s", "at most 2 s"),
        ("1Gbit/s,loss=0.1", "no share of packets"),
        ("1Gbit/s,loss=51%", "up to 50%"),
        ("1Gbit/s,loss=x%", "no share of packets"),
    ],
)
def test_what_is_no_link_is_refused(text: str, words: str) -> None:
    """The complaint quotes the part, and says what may stand there."""
    with pytest.raises(LocalProtocolError, match=words):
        parse_link(text)
