"""Whether the stages of waits are true: held against what both sides' events say, by one clock.

    python -m tests.true_stages --waits 200

runs migrations between two processes until it has so many waits of each kind of answer, and prints
how far their stages are from the events: which share of them within 5 % of the wait or 0.2 ms.

An event is told right after what it tells of, by the same thread.  So where one stage ends and the
next begins lies between that event and the one before it, however slow the machine is: that is what
`misplaced` holds the waits of any run against.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from protocol import page_messages as answers
from protocol.report import STAGES

Event = dict[str, Any]

# Told together, once something was decided.
_NOTICES = frozenset({"page-start", "part-sent", "preempt", "boost", "overtake"})

# A stage may be off by so much: of the wait, or in microseconds.
SHARE_MAX = 0.05
OFF_US_MAX = 200.0

# The runs that have waits of every kind of answer; each is repeated with other seeds.  vCPUs pause:
# where they compete for processors with who tells events, those are late, and the stages are not.
_COMMON = ("--postcopy-after=0", "--access-rate=300", "--backing=base", "--quiet")
RUNS: dict[str, tuple[str, ...]] = {
    answers.QUEUED: ("--policy=ordered", "--size=32MiB", "--vcpus=4", "--link=1Gbit/s"),
    answers.BOOSTED: ("--policy=ordered", "--size=16MiB", "--vcpus=7", "--link=400Mbit/s"),
    answers.URGENT_IN_PLACE: (
        "--policy=own-channel", "--size=16MiB", "--vcpus=7", "--link=400Mbit/s",
    ),
    answers.ALREADY_SENT: (
        "--policy=ordered", "--size=4MiB", "--page-size=4KiB", "--vcpus=4", "--link=100Mbit/s",
    ),
    answers.POSTPONED: ("--policy=drop", "--size=16MiB", "--vcpus=7", "--link=400Mbit/s"),
    answers.SENT_AGAIN: (
        "--policy=critical-first", "--size=16MiB", "--page-size=4KiB", "--vcpus=7",
        "--link=100Mbit/s",
    ),
    "parallel": ("--policy=parallel", "--size=16MiB", "--vcpus=7", "--link=400Mbit/s"),
}  # fmt: skip


@dataclass
class Truth:
    """What the events say of a wait: when, and the latest moment before that something was told.

    Attributes:
        wake: The wait's last event, with its stages.
        channel: Over which channel its page came; None where nobody told.
        marks_ns: By the stage that ends there, (not before, not after).
    """

    wake: Event
    channel: str | None = None
    marks_ns: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """How the request was answered; empty where nobody told."""
        return str(self.wake.get("answer", ""))

    def ends_ns(self) -> dict[str, int]:
        """Return when each stage ended, as the wait's stages say; only of one without a break."""
        time_ns = float(self.wake["fault-ns"])
        ends = {}
        for stage in STAGES:
            time_ns += self.wake[f"{stage}-us"] * 1000
            ends[stage] = round(time_ns)
        return ends

    def misplaced(self) -> list[str]:
        """Return the stages that end where the events say that they do not."""
        ends = self.ends_ns()
        # The events file has whole nanoseconds, and the stages microseconds with three decimals.
        return [
            f"{stage} of page {self.wake['page']} ({self.answer}) ends at {ends[stage]}, "
            f"not between {low} and {high}"
            for stage, (low, high) in self.marks_ns.items()
            if not low - 1 <= ends[stage] <= high + 1
        ]

    def off_us(self) -> dict[str, float]:
        """Return by how much each stage is longer or shorter than between the events."""
        before_ns = self.wake["fault-ns"]
        told_ns = before_ns
        ends, off = self.ends_ns(), {}
        for stage, (_, high) in self.marks_ns.items():
            off[stage] = ((ends[stage] - told_ns) - (high - before_ns)) / 1000
            before_ns, told_ns = high, ends[stage]
        return off


def truths(events: Sequence[Event]) -> Iterator[Truth]:
    """Yield what the events say of each wait whose request went one way, once and without a break.

    Args:
        events: Both sides', each side's in the order in which it told them.
    """
    source = [event for event in events if event["side"] == "source"]
    dest = [event for event in events if event["side"] == "dest"]
    came: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, event in enumerate(source):
        if event["event"] == "page-request":
            came[_page(event)].append(number)
    asked = Counter(_page(event) for event in dest if event["event"] == "page-request")
    for number, event in enumerate(dest):
        if event["event"] != "vcpu-wake" or event["broken-us"] or not event.get("answer"):
            continue
        page = _page(event)
        if asked[page] != 1 or len(came[page]) != 1:
            continue
        truth = Truth(event)
        _mark_dest(truth, dest, number)
        if _mark_source(truth, source, came[page][0]):
            yield truth


def _mark_dest(truth: Truth, dest: Sequence[Event], number: int) -> None:
    """Note when the engine knew, and when the page was placed."""
    wake = truth.wake
    # A vCPU may be stopped at a page again, even after that is placed.  It knows only when it first
    # touched it, and what was told first after that is when the engine knew.
    begun = next(
        at
        for at in range(number)
        if dest[at]["event"] == "vcpu-wait"
        and (_page(dest[at]), dest[at]["vcpu"]) == (_page(wake), wake["vcpu"])
        and dest[at]["t-ns"] >= wake["fault-ns"]
    )
    truth.marks_ns["detect"] = _between(dest, begun)
    placed = [at for at in range(number) if _places(dest[at], wake)]
    if placed:
        truth.marks_ns["place"] = _between(dest, placed[-1])
        truth.channel = dest[placed[-1]]["channel"]


def _mark_source(truth: Truth, source: Sequence[Event], came: int) -> bool:
    """Note when the request came, its page was begun and sent; return whether all is told."""
    page, ends = _page(truth.wake), truth.ends_ns()
    sent = [at for at in range(len(source)) if _sends(source[at], page)]
    before = [at for at in sent if at < came]
    after = [at for at in sent if at > came]
    marks = {"request": _between(source, came)}
    if source[came]["t-ns"] >= ends["receive"]:
        # It was here by then, and nothing of this is in the wait.
        return False
    if truth.answer == answers.SENT_AGAIN and truth.channel == "postcopy":
        copy = [at for at in range(came, len(source)) if _is_of_copy(source[at], page)]
        ended = [at for at in copy if source[at]["event"] == "part-sent"]
        if not ended:
            return False
        begun = max(at for at in copy if at < ended[0])
        marks["queue"] = _between(source, begun)
        # It is told of with what goes next.
        marks["send"] = source[begun]["t-ns"], source[ended[0]]["t-ns"]
    elif truth.answer in (answers.ALREADY_SENT, answers.SENT_AGAIN):
        # Of a frame that was not whole by then it may have been with the socket, or not.
        if not before:
            return False
        marks["queue"] = marks["send"] = marks["request"]
    else:
        if not after:
            return False
        started = [
            at
            for at in range(after[0])
            if source[at]["event"] == "page-start" and _page(source[at]) == page
        ]
        if not started:
            return False
        waits = "postponed" if truth.answer == answers.POSTPONED else "queue"
        if started[-1] < came:
            marks[waits] = marks["request"]
        elif sum(at > came for at in started) == 1 and not _is_under_way(source[:came], page):
            marks[waits] = _between(source, started[-1])
        # Else it was being sent and put off by turns: neither has an end of its own.
        marks["send"] = _between(source, after[0])
    # Who joins a wait late has nothing of what was before, and the last byte may be here before the
    # source's thread goes on to say that it has gone.
    first, last = ends["detect"], ends["receive"]
    truth.marks_ns |= {
        stage: (min(max(low, first), last), min(max(high, first), last))
        for stage, (low, high) in marks.items()
    }
    truth.marks_ns = {stage: truth.marks_ns[stage] for stage in STAGES if stage in truth.marks_ns}
    return True


def _is_under_way(source: Sequence[Event], page: tuple[int, int]) -> bool:
    """Tell whether a page is being sent, or a run that begins with it."""
    ends = ("page-start", "page-sent", "part-sent", "preempt")
    last = [event["event"] for event in source if event["event"] in ends and _page(event) == page]
    return last[-1:] == ["page-start"]


def _between(events: Sequence[Event], number: int) -> tuple[int, int]:
    """Return between which times something happened that an event tells of."""
    before = number - 1
    while before >= 0 and events[before]["event"] in _NOTICES:
        before -= 1
    return events[before]["t-ns"] if before >= 0 else 0, events[number]["t-ns"]


def _page(event: Event) -> tuple[int, int]:
    return event["block"], event["page"]


def _places(event: Event, wake: Event) -> bool:
    return event["event"] == "page-placed" and _holds(event, _page(wake))


def _sends(event: Event, page: tuple[int, int]) -> bool:
    return event["event"] == "page-sent" and _holds(event, page)


def _is_of_copy(event: Event, page: tuple[int, int]) -> bool:
    is_it = event["event"] in ("page-start", "part-sent") and event["channel"] == "postcopy"
    return is_it and _page(event) == page


def _holds(event: Event, page: tuple[int, int]) -> bool:
    block, index = page
    return bool(event["block"] == block and 0 <= index - event["page"] < event.get("pages", 1))


def read(path: Path) -> list[Event]:
    """Return the events of a file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _is_near(truth: Truth, off_us: float) -> bool:
    return bool(abs(off_us) <= max(OFF_US_MAX, SHARE_MAX * truth.wake["latency-us"]))


@click.command()
@click.option("--waits", default=200, help="How many of each kind of answer.")
@click.option("--runs", "runs_max", default=200, help="How many runs at most for each kind.")
def main(waits: int, runs_max: int) -> None:
    """Collect waits of each kind, and print how far their stages are from the events."""
    for kind, arguments in RUNS.items():
        wanted = kind if kind in answers.ANSWERS else None
        found: list[Truth] = []
        for seed in range(runs_max):
            found += [truth for truth in _run(arguments, seed) if wanted in (None, truth.answer)]
            if len(found) >= waits:
                break
        _print(kind, found[:waits])


def _run(arguments: Sequence[str], seed: int) -> list[Truth]:
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events"
        command = (
            sys.executable, "-m", "scripts", "migrate", *_COMMON, *arguments,
            f"--seed={seed}", f"--events={events}",
        )  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return list(truths(read(events)))


def _print(kind: str, found: Sequence[Truth]) -> None:
    off = [(truth, stage, us) for truth in found for stage, us in truth.off_us().items()]
    near = sum(_is_near(truth, us) for truth, _, us in off)
    good = sum(all(_is_near(truth, us) for us in truth.off_us().values()) for truth in found)
    misplaced = sum(bool(truth.misplaced()) for truth in found)
    sizes = sorted(abs(us) for _, _, us in off)
    middle = sizes[len(sizes) // 2] if sizes else 0.0
    click.echo(
        f"{kind:16} {len(found)} waits, {good} with every stage near, {near} of {len(off)} stages "
        f"near, median {middle:.0f} us off, most {sizes[-1] if sizes else 0:.0f} us, "
        f"{misplaced} misplaced"
    )
    for truth in found:
        for words in truth.misplaced():
            click.echo(f"    {words}")


if __name__ == "__main__":
    main()
