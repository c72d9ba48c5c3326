"""A real QEMU's page faults beside midstream's: both of its modes, in turn with two policies.

The accesses, the link and the destination are the same; of each wait it is told what it is of the
wire's time for a page, and of each migration what it is of the wire's time for all memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from guest.backing import make_block
from guest.trace import write_trace
from protocol.errors import GuestFailed
from protocol.geometry import Geometry
from protocol.units import parse_bytes, parse_geometry
from scripts.bench.figure import Figure, LeftOut, Limit, Plan
from scripts.figures.runs import Record, run_migration
from scripts.links.link import Link, link_of
from scripts.links.spec import parse_link
from scripts.qemu.against import ROWS, run_qemu
from scripts.runtime.folders import temporary_folder

SECTION = "qemu"

_LINK = "1Gbit/s"
_SIZE, _QUICK_SIZE = "128MiB", "64MiB"
# QEMU takes the larger from pages that are set aside, and from nowhere else.
_PAGE_SIZE, _PAGE_SIZE_ELSE = "2MiB", "4KiB"
_POLICIES = ("ordered", "critical-first")
# How many vCPUs fault without pause.
_VCPUS, _QUICK_VCPUS = (1, 4), (1,)

# Without pause, from the first page on; on the source the guest stands still, as QEMU's does.
_GUEST = {"access-rate": "0", "write-ratio": "0", "postcopy-after": "0", "start-paused": ""}


@dataclass(frozen=True)
class Case:
    """One kind of run.

    Attributes:
        row: A policy, or one of ROWS.
        vcpus: How many.
    """

    row: str
    vcpus: int


@dataclass(frozen=True)
class Setting:
    """The options that all runs have in common.

    Attributes:
        size: Of the guest, as in `--size`.
        page_size: As in `--page-size`.
        link_option: As in `--link`.
        link: The one that QEMU's runs are on; midstream's make one like it for themselves.
    """

    size: str
    page_size: str
    link_option: str
    link: Link

    @property
    def geometry(self) -> Geometry:
        """The guest."""
        return parse_geometry(self.size, self.page_size)


def measure_against(plan: Plan) -> list[Figure]:
    """Measure every case so often, in turn.

    Raises:
        LeftOut: There is no QEMU to measure.
        MigrationError: A run failed.
    """
    if plan.against is None:
        raise LeftOut("no QEMU is named by --against")
    cases = [
        Case(row, vcpus)
        for vcpus in (_QUICK_VCPUS if plan.quick else _VCPUS)
        for row in (*_POLICIES, *ROWS)
    ]
    reports: dict[Case, list[Record]] = {case: [] for case in cases}
    with setting_of(plan, SECTION, _QUICK_SIZE if plan.quick else _SIZE) as setting:
        for number in range(1, plan.runs + 1):
            plan.say(f"{SECTION}: run {number} of {plan.runs}")
            for case in cases:
                reports[case].append(_run(plan, setting, case, seed=number))
        return [
            figure
            for case, runs in reports.items()
            for figure in _figures(_title(plan, setting, case), setting, runs)
        ]


@contextmanager
def setting_of(plan: Plan, section: str, size: str, sides: int = 1) -> Iterator[Setting]:
    """Make what all runs with a QEMU have in common; the link is gone when the block is left.

    Args:
        plan: What is wanted.
        section: Who says so where there are no huge pages.
        size: Of the guest.
        sides: How many of both are a QEMU.
    """
    page_size = _PAGE_SIZE if _has_huge_pages(size, sides) else _PAGE_SIZE_ELSE
    if page_size != _PAGE_SIZE:
        plan.say(f"{section}: {page_size} pages, as huge pages for {size} are not set aside")
    if plan.has_link:
        yield Setting(size, page_size, plan.link.option, plan.link)
        return
    with link_of(parse_link(_LINK)) as link:
        yield Setting(size, page_size, _LINK, link)


def _has_huge_pages(size: str, sides: int) -> bool:
    """Return whether guests can have their memory in huge pages (hugetlb), by making it."""
    (block,) = parse_geometry(size, _PAGE_SIZE).blocks
    try:
        with ExitStack() as stack:
            for _ in range(sides):
                stack.enter_context(closing(make_block(block, "hugetlb")))
    except GuestFailed:
        return False
    return True


def _run(plan: Plan, setting: Setting, case: Case, seed: int) -> Record:
    assert plan.against is not None
    with temporary_folder("bench") as folder:
        trace = folder / "trace.txt"
        write_trace(trace, setting.geometry, case.vcpus, seed)
        options = {
            **_GUEST, "size": setting.size, "page-size": setting.page_size, "seed": str(seed),
            "vcpus": str(case.vcpus), "program": f"trace:{trace}",
        }  # fmt: skip
        if case.row in ROWS:
            return run_qemu(plan.against, case.row, options, folder, setting.link)
        shape = {"policy": case.row, "link": setting.link_option}
        return run_migration({**options, **shape, "guest": plan.guest}, folder)


def _title(plan: Plan, setting: Setting, case: Case) -> str:
    assert plan.against is not None
    names = {"qemu": plan.against.title, "qemu-preempt": f"{plan.against.title}, preempt"}
    vcpus = "1 vCPU" if case.vcpus == 1 else f"{case.vcpus} vCPUs"
    row = names.get(case.row, case.row)
    memory = f"{setting.size} of {setting.page_size} pages"
    return f"{row}, {memory}, {vcpus} without pause, {setting.link_option}"


def _figures(title: str, setting: Setting, runs: list[Record]) -> list[Figure]:
    rate = parse_link(setting.link_option).bytes_per_second
    wire_ms = parse_bytes(setting.page_size) / rate * 1000
    figures = []
    for key in ("p50", "p99"):
        values = tuple(run["midstream"]["faults"][f"{key}-us"] / 1000 for run in runs)
        limit = Limit("the wire's time for a page", (wire_ms,))
        figures.append(Figure(SECTION, f"{title}: {key}", "ms", values, limit))
    seconds = tuple((run["total-time"] - run["setup-time"]) / 1000 for run in runs)
    limit = Limit("the wire's time for all memory", (parse_bytes(setting.size) / rate,))
    note = "without the set-up"
    return [*figures, Figure(SECTION, f"{title}: in all", "s", seconds, limit, note=note)]
