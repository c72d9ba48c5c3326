"""A run's own events become accesses: what vCPUs waited for, where and when."""

import json
from pathlib import Path

import pytest

from guest.access_line import WrongLineError
from scripts.traces.found import Found, Wishes
from scripts.traces.own_events import import_events

EVENTS = (Path(__file__).parent / "files" / "events.jsonl").read_text(encoding="utf-8")
BLOCK = {
    "t-ns": 1, "side": "dest", "event": "ram-block", "block": 1, "name": "rom",
    "length-bytes": 4 << 20, "page-bytes": 2 << 20,
}  # fmt: skip
WAIT = {"t-ns": 9, "side": "dest", "event": "vcpu-wait", "vcpu": 3, "block": 1, "page": 1}


def found(text: str, event: str = "vcpu-wait") -> list[Found]:
    """Return what lines tell of."""
    return list(import_events(iter(text.splitlines(keepends=True)), Wishes(event=event)))


def text_of(*events: dict[str, object]) -> str:
    """Return events as they are written."""
    return "".join(json.dumps(event) + "\n" for event in events)


def test_a_real_file_is_imported() -> None:
    """As a destination wrote it: each wait once, in the order of the faults."""
    told = [json.loads(line) for line in EVENTS.splitlines()]
    waits = [event for event in told if event["event"] == "vcpu-wait"]
    assert found(EVENTS) == [
        Found(event["page"] * 4096, event["fault-ns"], event["vcpu"], "ram") for event in waits
    ]
    assert len(waits) > 2


def test_requests_are_imported_where_they_are_wanted() -> None:
    """They name no vCPU, and of both sides that tell of one the destination is heard."""
    request = {"t-ns": 7, "side": "dest", "event": "page-request", "block": 1, "page": 0}
    text = text_of(BLOCK, request, {**request, "side": "source", "answer": "queued"}, WAIT)
    assert found(text, "page-request") == [Found(0, 7, 0, "rom")]
    relayed = text_of({**BLOCK, "side": "relay"}, {**request, "side": "relay"})
    assert found(relayed, "page-request") == [Found(0, 7, 0, "rom")]


def test_a_file_of_before_faults_were_timed_is_imported() -> None:
    """The time at which the wait was told stands in for it."""
    assert found(text_of(BLOCK, WAIT)) == [Found(2 << 20, 9, 3, "rom")]


def test_an_unfinished_last_line_is_left_out() -> None:
    """As `midstream report` does; in the middle it is an error."""
    torn = text_of(WAIT).rstrip("\n")[:-5]
    assert len(found(text_of(BLOCK, WAIT) + torn)) == 1
    with pytest.raises(WrongLineError, match="no JSON"):
        found(text_of(BLOCK, WAIT) + torn + "\n" + text_of(WAIT))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (text_of(WAIT), "no line before it tells of block 1"),
        (text_of(BLOCK, {**WAIT, "page": 2}), "page 2 is outside RAMBlock 'rom'"),
        (text_of(BLOCK, {**WAIT, "vcpu": 512}), "'vcpu' cannot be 512"),
        (text_of({"event": "state"}), "'side' is missing"),
        ("[]\n", "no JSON object"),
        ("perf\n", "no JSON"),
    ],
)
def test_a_wrong_line_is_refused(text: str, reason: str) -> None:
    """Every event of a known name is checked as it is where views are made."""
    with pytest.raises(WrongLineError, match=reason):
        found(text)
