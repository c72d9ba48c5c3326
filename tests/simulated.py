"""Whole migrations, both sides, in memory and in virtual time: thousands of seeds with breaks.

    python -m tests.simulated 5000         # each ends well, or as it is documented to
    python -m tests.simulated 300 --twice  # and tells the same story when it is repeated

A seed says which policy, how the guest is handed over, which pages its vCPUs touch and when, and
where connections break: at a byte, for a while, and during recoveries, too.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import click
import pytest
import trio
from trio.testing import MockClock

from dest.config import DestConfig
from dest.midstream import MidstreamPeer
from dest.session import DestSession
from guest import clock
from guest.programs import ProgramSpec
from protocol import events
from protocol.errors import MemoryLost, MidstreamError
from protocol.geometry import Geometry, PageId, RamBlock
from protocol.limits import HELLO_SECONDS_MAX, PROOF_SECONDS_MAX
from protocol.policy import PRESETS, preset
from source.control import ControlSocket
from source.leaving import STALL_NS
from source.session import SourceSession
from tests.bounds import bare
from tests.breaking import RULES, Run
from tests.guests import HUGE, KIB, SEED, FakeGuest, FakeGuests
from tests.sides import source_config
from tests.stories import Recorder
from tests.virtual_network import CAPACITY_BYTES, Cut, VirtualNetwork

GEOMETRY = Geometry((RamBlock("ram", HUGE, HUGE), RamBlock("rom", 128 * 4 * KIB, 4 * KIB)))
VCPU_COUNT = 4
# Longer than anything takes that ends: pauses, attempts, farewells.
VIRTUAL_SECONDS_MAX = 600.0
WAIT_SECONDS = 3.0
RECONNECT_SECONDS = 2.0
SILENCE_SECONDS = 1.0
# Policies that serve requests in their order, before all else.
_PROMPT = frozenset({"ordered", "split", "resend", "critical-first"})
_AHEAD_BYTES = CAPACITY_BYTES + 64 * KIB
_SLACK_SECONDS = 0.02
# How a destination says that a break which lasts too long has cost it nothing.
_WHOLE = "all memory of the guest is here"
# Between two accesses of a vCPU.
_THINK_SECONDS = 0.0002


@dataclass(frozen=True)
class Plan:
    """What a seed says.

    Attributes:
        policy: The name of a policy.
        rule: One of RULES.
        touches: By vCPU, the flat target pages that it touches, one after the other.
        cuts: Where connections break.
        checksum: Whether frames go with one.
        bytes_per_second: Of the link.
    """

    policy: str
    rule: str
    touches: tuple[tuple[int, ...], ...]
    cuts: tuple[Cut, ...]
    checksum: bool
    bytes_per_second: float


def plan_of(seed: int) -> Plan:
    """Return what a seed says."""
    rng = random.Random(seed)
    policy = rng.choice(list(PRESETS))
    names = 2 if preset(policy).own_channel else 1
    cuts = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 4])):
        # The later ones break what was made to recover, if it comes to that.
        epoch = rng.choice([0, 0, 0, 1, 1, 2, 3])
        forward = rng.random() < 0.75
        bytes_max = GEOMETRY.length_bytes + 2000 if forward else 1500
        most = rng.choice([300, 2000, bytes_max, bytes_max, bytes_max])
        how = rng.choice(["reset", "reset", "end", "silence"])
        down_seconds = rng.choice([0.0, 0.0, 0.3, 1.5])
        connection = epoch * names + rng.randrange(names)
        cuts.append(Cut(connection, forward, rng.randint(1, most), how, down_seconds))
    pages = GEOMETRY.length_bytes // (4 * KIB)
    # Where all want small pages, one that is not asked for stands out.
    first = rng.choice([0, HUGE // (4 * KIB)])
    touches = tuple(
        tuple(rng.randrange(first, pages) for _ in range(rng.randint(1, 6)))
        for _ in range(VCPU_COUNT)
    )
    rule = rng.choice(["postcopy", "postcopy", *RULES])
    rate = rng.choice([12.5e6, 125e6, 1.25e9])
    return Plan(policy, rule, touches, tuple(cuts), rng.random() < 0.5, rate)


class Waited(NamedTuple):
    """A vCPU's wait for a page; times in seconds."""

    page: PageId
    began: float
    ended: float


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        run: Both sides' reports, errors and events.
        story: All that both sides told, with times, in the order in which they told it.
        calls: What was asked of the guests, by side.
        waits: What vCPUs waited for.
        problem: What is wrong; empty if nothing is.
        seconds: Of virtual time.
        asleep: vCPUs that wait for a page in the end.
        nobody_came: It broke before the destination had a source.
    """

    run: Run = field(default_factory=Run)
    story: list[tuple[str, int, events.Event]] = field(default_factory=list)
    calls: dict[str, list[str]] = field(default_factory=dict)
    waits: list[Waited] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0
    nobody_came: bool = False
    asleep: list[int] = field(default_factory=list)


class Simulation:
    """Runs migrations; made by `simulation`."""

    def __init__(self) -> None:
        """Make no guest yet."""
        self.guests = {"source": FakeGuests(), "dest": FakeGuests(LiveGuest)}
        # All that both sides and trio draw comes from here.
        self.rng = random.Random()

    def run(self, seed: int) -> Outcome:
        """Migrate as a seed says, to the end, however that is."""
        for guests in self.guests.values():
            guests.made.clear()
        return trio.run(self._run, seed, clock=MockClock(autojump_threshold=0))

    def find(self, seed: int) -> str:
        """Return what is wrong with a run, even if that is an error which nobody may see."""
        try:
            return self.run(seed).problem
        except Exception as error:  # noqa: BLE001 - whatever it is
            return f"{type(error).__name__}: {error}"

    async def _run(self, seed: int) -> Outcome:
        plan = plan_of(seed)
        outcome = Outcome()
        outcome.run.events = {side: _Noting(side, outcome.story) for side in ("source", "dest")}
        network = VirtualNetwork(plan.cuts, plan.bytes_per_second)
        # Sessions get their names from what is drawn, and so do proofs.
        self.rng.seed(seed)
        with trio.move_on_after(VIRTUAL_SECONDS_MAX) as patience:
            await self._migrate(plan, outcome, network)
        if patience.cancelled_caught:
            outcome.problem = "it does not end"
        outcome.seconds = trio.current_time()
        outcome.calls = {
            side: guests.made[-1].calls if guests.made else []
            for side, guests in self.guests.items()
        }
        if self.guests["dest"].made:
            outcome.asleep = sorted(self.guests["dest"].made[-1]._waiting)
        if not outcome.problem and not outcome.nobody_came:
            outcome.problem = judge(outcome) or judge_waits(plan, outcome)
        return outcome

    async def _migrate(self, plan: Plan, outcome: Outcome, network: VirtualNetwork) -> None:
        run = outcome.run
        listening = trio.Event()
        address = ""

        def listens(where: str) -> None:
            nonlocal address
            address = where
            listening.set()

        dest_config = DestConfig(
            host="127.0.0.1", port=0, backing="base", wait_seconds=WAIT_SECONDS,
            silence_seconds_max=SILENCE_SECONDS,
        )  # fmt: skip
        taker = DestSession(
            dest_config, MidstreamPeer(dest_config, network), run.events["dest"], listens,
            lambda _: None,
        )  # fmt: skip

        async def give() -> None:
            await listening.wait()
            config = source_config(
                GEOMETRY, int(address.rpartition(":")[2]), policy=preset(plan.policy),
                rule=RULES[plan.rule], spec=ProgramSpec(seed=SEED, vcpu_count=VCPU_COUNT),
                checksum=plan.checksum, chunk_bytes=64 * KIB,
                reconnect_seconds=RECONNECT_SECONDS, silence_seconds_max=SILENCE_SECONDS,
            )  # fmt: skip
            await end("source", SourceSession(config, run.events["source"], network=network).run)
            await trio.sleep(HELLO_SECONDS_MAX + PROOF_SECONDS_MAX)
            if not run.events["dest"].states:
                # Nobody came so far that it would know of him, and it waits for the next.
                outcome.nobody_came = True
                sides.cancel_scope.cancel()

        async def end(side: str, session: Callable[[], Awaitable[Any]]) -> None:
            try:
                result = await session()
                run.reports[side] = result.report
                if result.problem is not None:
                    run.errors[side] = result.problem
            except MidstreamError as error:
                run.errors[side] = bare(error)

        async def touch() -> None:
            guest = cast("LiveGuest", self.guests["dest"].made[-1])
            outcome.waits = guest.waits
            async with trio.open_nursery() as vcpus:
                for vcpu, pages in enumerate(plan.touches):
                    vcpus.start_soon(guest.touch_all, vcpu, pages)

        async with trio.open_nursery() as nursery:
            run.events["dest"].on(
                events.State, lambda: nursery.start_soon(touch), state="postcopy-active"
            )
            async with trio.open_nursery() as sides:
                sides.start_soon(give)
                await end("dest", taker.run)
            nursery.cancel_scope.cancel()


class LiveGuest(FakeGuest):
    """A guest whose vCPUs touch pages, each the next when it has the one before.

    Attributes:
        waits: What they waited for.
    """

    def __init__(self, geometry: Geometry, spec: ProgramSpec) -> None:
        """Start still."""
        super().__init__(geometry, spec)
        self.waits: list[Waited] = []
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self) -> None:  # type: ignore[explicit-override]
        """Run."""
        await super().run()
        self._changed.unpark_all()

    def wake(self, vcpu: int) -> None:  # type: ignore[explicit-override]
        """Make a vCPU look again."""
        super().wake(vcpu)
        self._changed.unpark_all()

    async def touch_all(self, vcpu: int, pages: Sequence[int]) -> None:
        """Have a vCPU touch pages, while the guest runs."""
        for page in pages:
            while not self.is_running:
                await self._changed.park()
            began = trio.current_time()
            self.fault(vcpu, page, clock.now_ns())
            if vcpu in self._waiting:
                while vcpu in self._waiting:
                    await self._changed.park()
                wanted = GEOMETRY.page_of(*GEOMETRY.locate(page))
                self.waits.append(Waited(wanted, began, trio.current_time()))
            await trio.sleep(_THINK_SECONDS)


class _Noting(Recorder):
    """A recorder that also notes in a story when each event was told, and on which side."""

    def __init__(self, side: str, story: list[tuple[str, int, events.Event]]) -> None:
        super().__init__()
        self._side, self._story = side, story

    def __call__(self, event: events.Event, /) -> None:  # type: ignore[explicit-override]
        self._story.append((self._side, clock.now_ns(), event))
        self.note(event)


def judge(outcome: Outcome) -> str:
    """Return what is wrong with how a run ended, empty if nothing.

    It ends well, or before the guest was handed over, and then it stays where it was; or a break
    lasts longer than the source tries to come back, and the destination says what is lost, if
    anything is.
    """
    run = outcome.run
    source, dest = (outcome.calls[side] for side in ("source", "dest"))
    here = bool(source) and source[-1] == "run"
    there = "run" in dest
    errors = run.errors
    nonsense = [
        event.reason
        for _, _, event in outcome.story
        if isinstance(event, events.ChannelLost) and "makes no sense" in event.reason
    ]
    if here and there:
        problem = "the guest runs on both sides"
    elif nonsense:
        # No byte was changed on its way, so one side said it.
        problem = nonsense[0]
    elif not errors:
        problem = _wrong_end(outcome, there=there)
    elif not there:
        # A source that was not connected has not run it yet.  One that does not come back does not
        # know whether it runs over there: it says so, and stands still.
        stays = here or not source or "could not be resumed in" in str(errors.get("source"))
        failed = all(error.exit_status == 1 for error in errors.values())
        problem = "" if stays and failed else "the guest is nowhere, or nobody says that it failed"
    elif list(errors) == ["source"] and run.states("dest")[-1] == "completed":
        # What nobody heard can only be the last word; the guest is whole over there.
        problem = "" if run.states("source")[-1] == "completed" else "one side alone completed"
    else:
        gave_up = "could not be resumed in" in str(errors.get("source"))
        dest_error = errors.get("dest")
        # The guest may be whole by then, and only the source does not know.
        told = isinstance(dest_error, MemoryLost) or _WHOLE in str(dest_error)
        problem = "" if gave_up and told else "memory is lost, and no break was too long"
    if not problem:
        return ""
    return f"{problem}: {errors} {run.states('source')} {run.states('dest')} {source} {dest}"


def judge_waits(plan: Plan, outcome: Outcome) -> str:
    """Return which wait was longer than it may be, empty if none was.

    Where requests go before the background and in their order, a page comes behind those that are
    waited for meanwhile and what the connection holds; after a break all that begins anew.
    """
    if plan.policy not in _PROMPT:
        return ""
    recovered_s = [
        time_ns / 1e9
        for side, time_ns, event in outcome.story
        if side == "dest" and isinstance(event, events.Recovered)
    ]
    broken_s = [
        time_ns / 1e9
        for side, time_ns, event in outcome.story
        if side == "dest" and isinstance(event, events.ChannelLost)
    ]
    for wait in outcome.waits:
        began = max([wait.began, *(at for at in recovered_s if at < wait.ended)])
        if any(began <= at <= wait.ended for at in broken_s):
            continue
        beside = {
            each.page for each in outcome.waits if each.began < wait.ended > began < each.ended
        }
        page_bytes = sum(GEOMETRY.page_span(page).length for page in beside)
        # The background's frame that was begun ends first, and both ends hold something.
        bound_s = (page_bytes + _AHEAD_BYTES) / plan.bytes_per_second + _SLACK_SECONDS
        if any(_is_silent(cut) for cut in plan.cuts):
            # What went over it is waited for until it is clear that nothing moves there.
            bound_s += STALL_NS / 1e9
        if wait.ended - began > bound_s:
            return (
                f"a vCPU waited {wait.ended - began:.4f} s for {wait.page} from {began:.4f} on, "
                f"longer than {bound_s:.4f} s"
            )
    return ""


def _is_silent(cut: Cut) -> bool:
    """Tell whether a precopy connection takes bytes that never arrive, in a policy with both."""
    return cut.how == "silence" and cut.forward and cut.connection % 2 == 0


def _wrong_end(outcome: Outcome, *, there: bool) -> str:
    """Return what is wrong with a good end."""
    reports = outcome.run.reports.values()
    if [report["midstream"]["verified"]["digest-equal"] for report in reports] != [True, True]:
        return "the memory is wrong"
    if outcome.asleep:
        return f"vCPUs {outcome.asleep} sleep for ever"
    return "" if there else "the guest runs nowhere"


@contextmanager
def simulation() -> Iterator[Simulation]:
    """Have both sides of this process go by virtual time, with guests that have no process."""
    result = Simulation()
    with pytest.MonkeyPatch.context() as patch, clock.virtual():
        for side, guests in result.guests.items():
            patch.setattr(f"{side}.session.open_guest", guests.open)
            patch.setattr(f"{side}.session.start_process", guests.start)
        patch.setattr("source.monitor.control_socket", _no_control_socket)
        patch.setattr("source.connect.secrets", SimpleNamespace(token_bytes=result.rng.randbytes))
        # As Hypothesis does it: which of the tasks that may run goes first is drawn, too.
        patch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr(trio._core._run, "_r", result.rng)
        yield result


@asynccontextmanager
async def _no_control_socket(*_: object) -> Any:  # noqa: ANN401
    await trio.lowlevel.checkpoint()
    yield ControlSocket(None, "nobody is there to say anything")


@click.command()
@click.argument("seeds", type=click.IntRange(1))
@click.option("--first", default=0, help="The first seed.")
@click.option("--twice", is_flag=True, help="Run each twice, and compare what was told.")
def main(seeds: int, first: int, *, twice: bool) -> None:
    """Run as many migrations as SEEDS, and tell how they ended."""
    kinds: Counter[str] = Counter()
    bad: list[tuple[int, str]] = []
    began, cpu, virtual_s = time.perf_counter(), time.process_time(), 0.0
    with simulation() as runs:
        for seed in range(first, first + seeds):
            outcome = runs.run(seed)
            virtual_s += outcome.seconds
            last = [outcome.run.states(side)[-1:] or ["nothing"] for side in ("source", "dest")]
            kinds[" / ".join(state for (state,) in last)] += 1
            kinds["pauses"] += outcome.run.states("source").count("postcopy-paused")
            if outcome.problem:
                bad.append((seed, outcome.problem))
            elif twice and runs.run(seed).story != outcome.story:
                bad.append((seed, "it tells another story when it is repeated"))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    click.echo(
        f"{seeds} migrations, {virtual_s:.0f} s of their time, in {seconds:.1f} s "
        f"({cpu:.1f} s of a processor: {60 * seeds / cpu:.0f} a minute)"
    )
    for kind, count in kinds.most_common():
        click.echo(f"  {count:6} {kind}")
    for seed, problem in bad:
        click.echo(f"seed {seed}: {problem}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
