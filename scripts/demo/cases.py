"""The runs of the demo: one scenario, in which a half-sent page is asked for, under three policies.

Nothing of it is left to luck.  A proxy stands between the two sides and stops at the byte with
which a quarter of the page has passed; vCPUs touch one other page, this one, and then the rest, and
nothing goes on before the source has every request (`scripts/injection`).  So the source finds the
same on every machine, with or without network namespaces, userfaultfd and huge pages.  A run in
which that was not so is no demo, and fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol import events
from protocol.errors import MidstreamError
from scripts.injection.inject import judge
from scripts.injection.outcome import Outcome
from scripts.injection.scenario import read_scenario
from scripts.injection.trial import Trial
from scripts.runtime.looping import run_until_signalled

POLICIES = ("drop", "ordered", "critical-first")

PAGE_BYTES = 2 << 20
HALF_SENT = 5
SHARE = 0.25
FIRST = 9
# Each of 40 vCPUs asks for one page.  With `drop` the half-sent one comes behind all others, most
# of a second later on this link: long enough to be seen, and short enough for three runs.
REQUESTS = 40
LINK, LINK_WORDS = "1Gbit/s", "1 Gbit/s"

# Pages behind those that are asked for, so that there is background to go on with.
_LATER = 4
PAGES = FIRST + REQUESTS - 1 + _LATER
# A page's last 4 KiB: the first ones of a page that lies half-sent are there already, and who
# touches those has nothing to wait for with `critical-first`.
_TARGET_PAGE = PAGE_BYTES // 4096 - 1

_OTHERS = tuple(range(FIRST, FIRST + REQUESTS - 1))

# What each policy must have made of it, or the run is not what the demo says it is.
_EXPECTED = {
    "drop": f"served-order = {[*_OTHERS, HALF_SENT]}\npreemptions = 1\nboosted = 0\npostponed = 1",
    "ordered": f"served-order = {[FIRST, HALF_SENT, *_OTHERS[1:]]}\npreemptions = 1\nboosted = 1",
    "critical-first": f"preemptions = {{ at-least = 1 }}\n"
    f"channels = {{ {HALF_SENT} = ['precopy', 'postcopy'] }}",
}


@dataclass(frozen=True)
class Case:
    """Fate of the half-sent page in one run.

    Attributes:
        policy: The policy's name.
        wait_us: From when the source had read the request until the vCPU ran.
        ahead: How many of the other pages that were asked for were sent whole before it was.
        bytes_sent_twice: As in the report.
        compared_bytes: How much memory was compared in the end, all of it equal.
        events: Of both sides.
    """

    policy: str
    wait_us: float
    ahead: int
    bytes_sent_twice: int
    compared_bytes: int
    events: tuple[Mapping[str, Any], ...]

    def to_plain(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "wait-us": round(self.wait_us, 3),
            "sent-before-it": self.ahead,
            "bytes-sent-twice": self.bytes_sent_twice,
            "compared-bytes": self.compared_bytes,
        }


class NoCase(MidstreamError):
    """A run of the demo failed, or did not come to its case."""


def scenario_text(policy: str) -> str:
    """Return the scenario of a policy, as `midstream inject` takes it."""
    return f"""\
name = "a half-sent page is asked for, and {REQUESTS - 2} others after it: {policy}"

[migration]
size = "{PAGES * PAGE_BYTES >> 20}MiB"
policy = "{policy}"
postcopy-after = 0
chunk-size = "256KiB"
link = "{LINK}"

[[step]]
when = {{ page = {HALF_SENT}, received = {SHARE} }}
fault = {[FIRST, HALF_SENT, *_OTHERS[1:]]}
target-page = {_TARGET_PAGE}

[expect]
status = "completed"
exit-status = 0
mismatches = 0
bytes-sent-twice = 0
{_EXPECTED[policy]}
"""


def run_case(policy: str, folder: Path) -> Case:
    """Migrate a guest under a policy.

    Args:
        policy: One of POLICIES.
        folder: An existing folder of its own; the scenario, the events and the report are left
            there.

    Raises:
        NoCase: The migration failed, or the half-sent page was not asked for in it.
    """
    path = folder / f"{policy}.toml"
    path.write_text(scenario_text(policy), encoding="utf-8")
    scenario = read_scenario(path)
    outcome = run_until_signalled(Trial(scenario, folder).run)
    failures = judge(scenario, outcome)
    if failures:
        raise _no_case(policy, outcome, "; ".join(
            f"{each.what}: expected {each.expected}, seen {each.seen}" for each in failures
        ))  # fmt: skip
    return case_of(policy, outcome)


def case_of(policy: str, outcome: Outcome) -> Case:
    """Return what came of the half-sent page in a run that ended as expected.

    Raises:
        NoCase: It was not asked for, or nobody waited for it.
    """
    came_ns = [
        event["t-ns"]
        for event in outcome.named(events.PageRequest.event)
        if event["side"] == events.SOURCE and _is_half_sent(event)
    ]
    ran_ns = [
        event["fault-ns"] + event["latency-us"] * 1000
        for event in outcome.named(events.VcpuWake.event)
        if _is_half_sent(event)
    ]
    if not came_ns or not ran_ns or outcome.report is None:
        raise _no_case(policy, outcome, f"page {HALF_SENT} was not waited for")
    served = [each.index for each in outcome.served()]
    own = outcome.report["midstream"]
    return Case(
        policy,
        (ran_ns[0] - came_ns[0]) / 1000,
        sum(index in _OTHERS for index in served[: served.index(HALF_SENT)]),
        own["bytes-sent-twice"],
        outcome.report["ram"]["total"],
        tuple(outcome.events),
    )


def _is_half_sent(event: Mapping[str, Any]) -> bool:
    return (event["block"], event["page"]) == (0, HALF_SENT)


def _no_case(policy: str, outcome: Outcome, reason: str) -> NoCase:
    words = [f"{side}: {words}" for side, words in outcome.reasons.items() if words]
    error = NoCase(f"the run with {policy} is no demo: {'; '.join([*words, reason])}")
    error.exit_status = outcome.exit_status or NoCase.exit_status
    return error
