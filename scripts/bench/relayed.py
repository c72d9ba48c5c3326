"""`midstream relay` between two real QEMUs, beside the same two without it, in turn.

Memory, link and the order of touches are the same; one thread touches the destination's pages
without pause.
"""

from __future__ import annotations

from functools import partial

from guest.latency import summary_of
from scripts.bench.against import Setting, setting_of
from scripts.bench.figure import Figure, LeftOut, Limit, Plan
from scripts.relay.timed import Timed, run_timed
from scripts.runtime.looping import run_until_signalled

SECTION = "relay"

_SIZE, _QUICK_SIZE = "256MiB", "64MiB"
_DIRECT = "without the relay"


def measure_relay(plan: Plan) -> list[Figure]:
    """Measure both so often, in turn.

    Raises:
        LeftOut: There is no QEMU to measure.
        MidstreamError: A run failed.
    """
    if plan.against is None:
        raise LeftOut("no QEMU is named by --against")
    runs: dict[bool, list[Timed]] = {False: [], True: []}
    size = _QUICK_SIZE if plan.quick else _SIZE
    with setting_of(plan, SECTION, size, sides=2) as setting:
        for number in range(1, plan.runs + 1):
            plan.say(f"{SECTION}: run {number} of {plan.runs}")
            for relayed, done in runs.items():
                run = partial(
                    run_timed, plan.against.program, setting.geometry, setting.link, number,
                    relayed=relayed,
                )  # fmt: skip
                done.append(run_until_signalled(run))
        title = (
            f"between two of {plan.against.title}, preempt, {setting.size} of {setting.page_size} "
            f"pages, 1 thread without pause, {setting.link_option}"
        )
        return list(_figures(title, setting, runs[False], runs[True]))


def _figures(
    title: str, setting: Setting, direct: list[Timed], relayed: list[Timed]
) -> tuple[Figure, ...]:
    waits = [
        tuple(summary_of(run.waits_ns) for run in runs if run.waits_ns)
        for runs in (direct, relayed)
    ]
    faults = [sum(len(run.waits_ns) for run in runs) for runs in (direct, relayed)]
    note = f"faults in all runs: {faults[1]}, {_DIRECT} {faults[0]}"
    without, through = waits
    percentiles = (
        Figure(
            SECTION, f"{title}: {key}", "ms",
            tuple(getattr(each, f"{key}_us") / 1000 for each in through),
            Limit(_DIRECT, tuple(getattr(each, f"{key}_us") / 1000 for each in without)),
            note=note,
        )
        for key in ("p50", "p99")
    )  # fmt: skip
    wire_seconds = setting.geometry.length_bytes / setting.link.bytes_per_second
    return (
        *percentiles,
        Figure(
            SECTION, f"{title}: in all", "s", tuple(run.seconds for run in relayed),
            Limit(_DIRECT, tuple(run.seconds for run in direct)),
            note=f"from the order to switch over; the wire takes {wire_seconds:.3g} s",
        ),
        Figure(
            SECTION, f"{title}: the relay's processor time", "s",
            tuple(run.relay_cpu_seconds for run in relayed), note="its start left out",
        ),
    )  # fmt: skip
