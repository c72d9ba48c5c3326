"""The case that midstream exists for: a vCPU touches the page that lies half-sent.

Real processes, real sockets; vCPUs touch only what steps tell them to.  The source's background
stands in the middle of a page until the request that breaks it off has come (tests/rigged.py), and
then the source stops itself until every other request is on its way: so its queue never runs empty,
on any machine.  What is compared is the order of service: bytes of two connections may overtake.
"""

import json
import signal
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from tests.processes import Lab, Process, is_stopped, kill, read_events, until

PAGE_BYTES = 2 << 20

# An urgent page takes so many frames that requests which lie in the socket are read meanwhile.
SMALL_CHUNKS = "--chunk-size=64KiB"
POSTCOPY = ("--program=scripted", "--postcopy-after=0", SMALL_CHUNKS)
# A side that the test has stopped, or that a busy machine lets wait, is not silent.
PATIENT = ("--keepalive-timeout=300s", "--quiet")

HALF_SENT = 5
FIRST = 9

EVENT_FIELDS = {
    "state": {"state"},
    "page-request": {"block", "page"},
    "preempt": {"block", "page", "channel"},
    "boost": {"block", "page", "channel", "urgent"},
    "page-sent": {"block", "page", "channel", "urgent"},
    "page-placed": {"block", "page", "channel"},
    "vcpu-wait": {"vcpu", "block", "page"},
    "vcpu-wake": {"vcpu", "block", "page"},
}

Page = tuple[int, int]


class Done(NamedTuple):
    """A migration that has ended well, and what it told."""

    report: dict[str, Any]
    source: list[dict[str, Any]]
    dest: list[dict[str, Any]]

    def pages(self, event: str) -> list[Page]:
        """Return (block, page) of the destination's events of a name, in their order."""
        return [(line["block"], line["page"]) for line in self.dest if line["event"] == event]

    def served(self) -> list[Page]:
        """Return pages in the order in which the source had handed them whole to a connection."""
        return [
            (line["block"], line["page"] + index)
            for line in self.source
            if line["event"] == "page-sent"
            for index in range(line["pages"])
        ]

    def boosts(self) -> list[Page]:
        """Return the pages that the source has finished urgently where they were broken off."""
        return [(line["block"], line["page"]) for line in self.source if line["event"] == "boost"]

    def answers(self) -> dict[Page, str]:
        """Return the source's answer to the request for each page."""
        requests = [line for line in self.source if line["event"] == "page-request"]
        return {(line["block"], line["page"]): line["answer"] for line in requests}

    def latencies_ms(self, page: Page) -> list[float]:
        """Return how long each vCPU waited for a page."""
        return [
            line["latency-us"] / 1000
            for line in self.dest
            if line["event"] == "vcpu-wake" and (line["block"], line["page"]) == page
        ]


class Run:
    """A scripted migration under way."""

    def __init__(
        self, lab: Lab, name: str, steps: str, *arguments: str, source_rig: str = "",
        dest_rig: str = "",
    ) -> None:  # fmt: skip
        """Start both sides; `name` begins the names of their files."""
        self._source_events = lab.folder / f"{name}-source.jsonl"
        self.dest_events = lab.folder / f"{name}-dest.jsonl"
        self._report = lab.folder / f"{name}.json"
        script = lab.folder / f"{name}.toml"
        script.write_text(steps, encoding="utf-8")
        self.source, self.dest = lab.start_pair(
            *POSTCOPY, *PATIENT, *arguments,
            f"--events={self._source_events}", f"--report={self._report}",
            dest_arguments=(f"--steps={script}", f"--events={self.dest_events}", *PATIENT),
            source_rig=source_rig, dest_rig=dest_rig,
        )  # fmt: skip

    def requests(self) -> list[Page]:
        """Return the pages that the destination has asked for so far."""
        lines = read_events(self.dest_events, "page-request")
        return [(line["block"], line["page"]) for line in lines]

    def sent(self) -> list[range]:
        """Return the pages of the first block that the source has sent so far."""
        lines = read_events(self._source_events, "page-sent")
        return [range(line["page"], line["page"] + line["pages"]) for line in lines]

    def finish(self) -> Done:
        """Wait for both sides' good end."""
        self.source.succeed()
        assert self.dest.wait() == 0
        events = (read_events(self._source_events), read_events(self.dest_events))
        for side in events:
            check_events(side)
        report = json.loads(self._report.read_text(encoding="utf-8"))
        assert report["midstream"]["verified"]["digest-equal"]
        return Done(report, *events)


def check_events(side: list[dict[str, Any]]) -> None:
    """Check that one side's events are in order and say what they are about."""
    times_ns = [line["t-ns"] for line in side]
    assert times_ns == sorted(times_ns)
    assert len({line["side"] for line in side}) == 1
    for line in side:
        assert line.keys() >= EVENT_FIELDS.get(line["event"], set())


def step(when: str, faults: Iterable[int | str]) -> str:
    """Return a step as TOML."""
    return f"[[step]]\nwhen = {{ {when} }}\nfault = {json.dumps(list(faults))}\n"


def until_stopped(process: Process) -> None:
    """Wait until a rigged process has stopped itself."""
    until(lambda: is_stopped(process.pid))


def start_storm(lab: Lab, policy: str, others: list[int]) -> Run:
    """Start a migration in which page 5 is broken off for page 9 and then asked for at once.

    Args:
        lab: Where to run it.
        policy: Its policy.
        others: All pages from page 6 on, as they are asked for, beginning with page 9.
    """
    steps = step(f"page = {HALF_SENT}, received = 0.25", [FIRST]) + step(
        f"requested = {FIRST}", [HALF_SENT, *others[1:]]
    )
    return Run(
        lab, policy, steps, f"--policy={policy}", f"--size={(max(others) + 1) * PAGE_BYTES}",
        f"--vcpus={len(others) + 1}",
        source_rig=f"hold-page {HALF_SENT} 0 {FIRST}; stop-at preempt {HALF_SENT}",
    )  # fmt: skip


def let_storm_loose(run: Run, requests: list[int]) -> Done:
    """Wait until the source stands still and has everything to come; let it go on."""
    until_stopped(run.source)
    until(lambda: run.requests()[-len(requests) :] == [(0, page) for page in requests])
    kill(run.source.pid, signal.SIGCONT)
    return run.finish()


@pytest.mark.parametrize("count", [4, 8, 16])
def test_a_half_sent_page_keeps_its_turn(lab: Lab, count: int) -> None:
    """With `ordered` requests are served in their order; with `drop` one waits for all others."""
    others = [*range(FIRST, HALF_SENT + 1 + count), *range(HALF_SENT + 1, FIRST)]
    requests = [FIRST, HALF_SENT, *others[1:]]
    runs = {policy: start_storm(lab, policy, others) for policy in ("ordered", "drop")}
    done = {policy: let_storm_loose(run, requests) for policy, run in runs.items()}
    served = {
        policy: [page for _, page in each.served() if page in requests]
        for policy, each in done.items()
    }
    assert served["ordered"] == requests
    assert served["drop"] == [*others, HALF_SENT]
    # Which is what the two differ in: how many go before it, whatever the length of the queue.
    assert served["ordered"].index(HALF_SENT) == 1
    assert served["drop"].index(HALF_SENT) == count
    for each in done.values():
        assert {page for _, page in each.pages("page-placed")} >= {*requests}

    seen = {line["event"] for line in [*done["ordered"].source, *done["ordered"].dest]}
    assert seen >= EVENT_FIELDS.keys()
    boosts = {policy: each.boosts() for policy, each in done.items()}
    assert boosts["ordered"].count((0, HALF_SENT)) == 1
    assert boosts["drop"] == []
    own = {policy: each.report["midstream"] for policy, each in done.items()}
    assert own["ordered"]["requests"]["postponed"] == 0
    assert own["drop"]["requests"]["postponed"] >= 1
    for policy, each in done.items():
        size = each.report["ram"]["total"]
        assert own[policy]["preemptions"]["boosted"] == len(boosts[policy])
        # Every byte crossed, and none of them twice.
        assert each.report["ram"]["normal-bytes"] == size
        channels = own[policy]["channels"]
        assert size < channels["precopy"] + channels["postcopy"] < size * 1.01


def test_a_page_is_known_by_its_block_too(lab: Lab) -> None:
    """A page of the half-sent page's number in another RAMBlock is another page; so is its wait."""
    blocks = ("--size=ram=14MiB@2MiB,rom=14MiB@2MiB", "--vcpus=6")
    steps = (
        step("page = 5, received = 0.25", ["1:5"])
        + step('requested = "1:5"', ["1:5", 5, 5, "1:3"])
        + step('placed = "1:3"', [6, "1:0", "1:1", "1:2", "1:4", "1:6"])
    )
    run = Run(
        lab, "blocks", steps, *blocks, source_rig="hold-page 5 1 5; stop-at preempt 5"
    )  # fmt: skip
    until_stopped(run.source)
    until(lambda: run.requests()[-1:] == [(1, 3)])
    # Two of the vCPUs wait for a page that another has asked for.
    until(lambda: len(read_events(run.dest_events, "vcpu-wait")) == 5)
    kill(run.source.pid, signal.SIGCONT)
    done = run.finish()
    assert [page for page in done.pages("page-request") if page[1] in (3, 5)][:3] == [
        (1, 5), (0, 5), (1, 3)
    ]  # fmt: skip
    urgent = [page for page in done.served() if page in ((1, 5), (0, 5), (1, 3))]
    assert urgent == [(1, 5), (0, 5), (1, 3)]
    channels = {
        (line["block"], line["page"]): line["channel"]
        for line in done.dest
        if line["event"] == "page-placed"
    }
    assert channels[1, 5] == channels[1, 3] == "postcopy"
    assert channels[0, 5] == "precopy"
    assert len(done.latencies_ms((1, 5))) == len(done.latencies_ms((0, 5))) == 2
    assert done.boosts().count((0, 5)) == 1
    assert (1, 5) not in done.boosts()
    assert done.report["ram"]["normal-bytes"] == done.report["ram"]["total"]


def test_urgent_pages_ignore_the_limit(lab: Lab) -> None:
    """A page that is being streamed, and others behind it, come at once when a vCPU needs them."""
    # What goes at once is just enough for that.
    first = step("page = 0, received = 0.005", [0])
    steps = first + step("placed = 0", [3]) + step("placed = 3", [1, 2])
    # The limit alone would let page 0 come in half an hour; nobody here waits for so long.
    slow = ("--size=8MiB", "--max-postcopy-bandwidth=1kB/s")
    done = Run(lab, "limit", steps, *slow).finish()
    assert done.answers()[0, 0] == "urgent-in-place"
    assert done.answers()[0, 3] == "queued"
    assert done.pages("page-placed") == [(0, 0), (0, 3), (0, 1), (0, 2)]
    sent = [line for line in done.source if line["event"] == "page-sent"]
    assert [(line["page"], line["urgent"]) for line in sent] == [
        (0, True), (3, True), (1, True), (2, True)
    ]  # fmt: skip


def test_a_request_for_what_is_on_its_way_sends_nothing(lab: Lab) -> None:
    """A page that has left the source when its request comes is not sent again."""
    wanted, page_count = 20, 64
    steps = step("page = 8, received = 1", [wanted]) + step(
        f"placed = {wanted}", range(page_count - 1, wanted, -1)
    )
    small = ("--page-size=4KiB", f"--size={page_count * 4}KiB", "--chunk-size=8KiB")
    # The source stops at page 8 until the destination has stopped with the request in its hands;
    # that goes on when the page has left the source.
    run = Run(
        lab, "sent", steps, *small,
        source_rig="stop-at page-sent 8", dest_rig=f"stop-at page-request {wanted}",
    )  # fmt: skip
    until_stopped(run.source)
    until_stopped(run.dest)
    kill(run.source.pid, signal.SIGCONT)
    until(lambda: any(wanted in pages for pages in run.sent()))
    kill(run.dest.pid, signal.SIGCONT)
    done = run.finish()
    assert done.answers()[0, wanted] == "already-sent"
    assert done.report["midstream"]["requests"]["already-sent"] >= 1
    assert len(done.latencies_ms((0, wanted))) == 1
    assert done.report["ram"]["normal-bytes"] == page_count * 4096
