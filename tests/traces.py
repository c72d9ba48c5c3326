"""The rules of the trace event format, as far as this project makes such traces."""

from __future__ import annotations

from collections import Counter
from typing import Any

TraceEvent = dict[str, Any]

# What each phase cannot be without.
NEEDED = {
    "X": {"name", "cat", "ts", "dur", "pid", "tid"},
    "b": {"name", "cat", "ts", "pid", "tid", "id"},
    "n": {"name", "cat", "ts", "pid", "tid", "id"},
    "e": {"name", "cat", "ts", "pid", "tid", "id"},
    "s": {"name", "cat", "ts", "pid", "tid", "id"},
    "t": {"name", "cat", "ts", "pid", "tid", "id"},
    "f": {"name", "cat", "ts", "pid", "tid", "id", "bp"},
    "i": {"name", "ts", "pid", "tid", "s"},
    "C": {"name", "ts", "pid", "args"},
    "M": {"name", "pid", "tid", "args"},
}
ROUNDING_US = 0.0015


def check_rules(trace: list[TraceEvent]) -> None:
    """Check what holds of every trace."""
    threads = {(each["pid"], each["tid"]) for each in trace if each["name"] == "thread_name"}
    for each in trace:
        assert NEEDED[each["ph"]] <= each.keys(), each
        if each["ph"] == "M":
            continue
        assert each["ts"] >= 0
        assert each.get("dur", 0) >= 0
        if each["ph"] == "C":
            assert all(isinstance(value, (int, float)) for value in each["args"].values())
        else:
            assert (each["pid"], each["tid"]) in threads
    check_asynchronous(trace)
    check_arrows(trace)
    check_nesting(trace)


def check_asynchronous(trace: list[TraceEvent]) -> None:
    """Each `b` has one `e`, none of them earlier, and what lies between them is between them."""
    for key in {(each["cat"], each["id"]) for each in trace if each["ph"] in "bne"}:
        mine = [each for each in trace if each["ph"] in "bne" and (each["cat"], each["id"]) == key]
        phases = [each["ph"] for each in mine]
        assert (phases[0], phases[-1]) == ("b", "e")
        assert Counter(phases)["b"] == Counter(phases)["e"] == 1
        assert [each["ts"] for each in mine] == sorted(each["ts"] for each in mine)
        assert mine[0]["name"] == mine[-1]["name"]


def check_arrows(trace: list[TraceEvent]) -> None:
    """Each arrow begins once and ends once, goes forward in time, and ties spans to each other."""
    spans = [each for each in trace if each["ph"] == "X"]
    for number in {each["id"] for each in trace if each["ph"] in "stf"}:
        mine = [each for each in trace if each["ph"] in "stf" and each["id"] == number]
        phases = "".join(each["ph"] for each in mine)
        assert phases in {"sf", "stf"}
        assert [each["ts"] for each in mine] == sorted(each["ts"] for each in mine)
        for each in mine:
            assert any(
                (span["pid"], span["tid"]) == (each["pid"], each["tid"])
                and span["ts"] <= each["ts"] + ROUNDING_US
                and each["ts"] <= span["ts"] + span["dur"] + ROUNDING_US
                for span in spans
            ), each


def check_nesting(trace: list[TraceEvent]) -> None:
    """Spans of one thread lie inside each other or apart, as the viewers require."""
    for thread in {(each["pid"], each["tid"]) for each in trace if each["ph"] == "X"}:
        spans = [
            (each["ts"], each["ts"] + each["dur"])
            for each in trace
            if each["ph"] == "X" and (each["pid"], each["tid"]) == thread
        ]
        around: list[float] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while around and around[-1] <= start + ROUNDING_US:
                around.pop()
            assert not around or end <= around[-1] + ROUNDING_US
            around.append(end)
