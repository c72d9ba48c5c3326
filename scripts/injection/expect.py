"""Expectations of a scenario: its `[expect]` table, as checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from protocol import events
from protocol.geometry import PageId
from protocol.policy import HalfSent
from protocol.states import FINAL
from scripts.injection.checks import (
    Bounds,
    Carriers,
    Check,
    Count,
    Failure,
    MemoryEqual,
    Never,
    OfSides,
    Order,
    PlacedBefore,
    ServedOrder,
    WaitRatio,
)
from scripts.injection.outcome import Outcome
from scripts.injection.scenario_text import Where
from scripts.injection.triggers import (
    SIDES,
    Guest,
    page_name,
    read_channel,
    read_page,
    read_pages,
)

COUNTS = (
    "boosted",
    "preemptions",
    "mismatches",
    "recoveries",
    "bytes-sent-twice",
    "pages-sent-twice",
    "bytes-lost",
    "changed",
    "postponed",
)
MEMORY_EQUAL = "memory-equal"
SERVED_ORDER, URGENT_ORDER = "served-order", "urgent-order"
_BOUNDS = ("at-least", "at-most")


@dataclass(frozen=True)
class Expect:
    """All expectations of a scenario.

    Attributes:
        watched: Pages of which must be known what carried them, and when.
        compares: Both sides' memory is to be compared, byte by byte.
    """

    checks: tuple[Check, ...] = ()
    watched: tuple[PageId, ...] = ()
    compares: bool = False

    def failures(self, outcome: Outcome) -> list[Failure]:
        """Return what was not met."""
        return [failure for check in self.checks if (failure := check.failure(outcome)) is not None]


def read_expect(
    table: Mapping[str, Any],
    where: Where,
    guest: Guest,
    *,
    touched: Collection[PageId] | None = None,
    of_qemu: bool = False,
) -> Expect:
    """Return what an [expect] table expects.

    Args:
        table: The table.
        where: Where it stands.
        guest: What it is about.
        touched: All pages that vCPUs touch; None if nobody knows.
        of_qemu: The source is a QEMU, which does not tell what midstream's own tells.

    Raises:
        ScenarioError: It expects what no run can have.
    """
    where.check_keys(table, tuple(_READERS), "[expect]")
    for key in table:
        if of_qemu and key in (*COUNTS, SERVED_ORDER):
            raise where.wrong(key, f"a QEMU does not tell {key}")
        if key in (SERVED_ORDER, URGENT_ORDER) and not guest.postcopy:
            raise where.wrong(key, "with postcopy-after = never no page is asked for")
        if not of_qemu and key == MEMORY_EQUAL:
            raise where.wrong(key, f"{key} is of a QEMU; else `mismatches` and `status` tell")
    checks = [check for key in table for check in _READERS[key](key, table[key], where, guest)]
    watched = [check.page for check in checks if isinstance(check, Carriers)]
    for check in checks:
        if isinstance(check, (Order, ServedOrder)):
            _check_order(check, where, touched)
        if isinstance(check, ServedOrder):
            watched += check.pages
    return Expect(tuple(checks), tuple(watched), MEMORY_EQUAL in table)


def _read_sides(key: str, value: object, where: Where, _guest: Guest) -> list[Check]:
    sides: Mapping[Any, Any] = value if isinstance(value, dict) else {None: value}
    checks: list[Check] = []
    for side, expected in sides.items():
        if side is not None and side not in SIDES:
            raise where.wrong(key, f"{key} has no {side!r}; it has: {', '.join(SIDES)}")
        if key == "status":
            states = [*sorted(state.value for state in FINAL), *(["killed"] if side else [])]
            if expected not in states:
                raise where.wrong(key, f"status {expected!r} is none of {', '.join(states)}")
        elif type(expected) is not int:
            raise where.wrong(key, f"exit-status {expected!r} is not a whole number")
        checks.append(OfSides(key, side, expected))
    return checks


def _read_count(key: str, value: object, where: Where, guest: Guest) -> list[Check]:
    if type(value) is int and value >= 0:
        bounds = Bounds(value, value)
    elif isinstance(value, dict):
        bounds = _bounds(key, value, where)
    else:
        raise where.wrong(key, f"{key} is neither a number nor {{ at-least, at-most }}")
    if bounds.least > 0 and (reason := _why_never(key, guest)):
        raise where.wrong(key, f"{key} is always 0: {reason}")
    return [Count(key, bounds)]


def _why_never(key: str, guest: Guest) -> str:
    """Return why a count is 0 in every run, empty if it may be another."""
    policy = guest.policy
    if key not in ("boosted", "preemptions"):
        return ""
    if not guest.postcopy:
        return "with postcopy-after = never nobody requests a page"
    if not policy.preempts:
        return f"the policy {policy.name} breaks no page off"
    if key == "boosted" and policy.half_sent is HalfSent.POSTPONE:
        return f"the policy {policy.name} postpones a request for the half-sent page"
    return ""


def _bounds(key: str, table: Mapping[str, Any], where: Where) -> Bounds:
    if not table or not table.keys() <= set(_BOUNDS):
        raise where.wrong(key, f"{key} is bounded by {' and '.join(_BOUNDS)}")
    for value in table.values():
        if type(value) not in (int, float) or value < 0:
            raise where.wrong(key, f"{value!r} is not a number from 0")
    bounds = Bounds(table.get("at-least", 0), table.get("at-most", float("inf")))
    if bounds.least > bounds.most:
        raise where.wrong(key, f"no number is {bounds}")
    return bounds


def _read_order(key: str, value: object, where: Where, guest: Guest) -> list[Check]:
    return [Order(key, read_pages(value, where, guest, key), guest.geometry)]


def _read_served(key: str, value: object, where: Where, guest: Guest) -> list[Check]:
    pages = read_pages(value, where, guest, key)
    return [ServedOrder(pages, guest.geometry, in_turn=not guest.policy.concurrent)]


def _check_order(
    check: Order | ServedOrder, where: Where, touched: Collection[PageId] | None
) -> None:
    key = check.what if isinstance(check, Order) else SERVED_ORDER
    for place, page in enumerate(check.pages):
        name = page_name(page, check.geometry)
        if page in check.pages[:place]:
            raise where.wrong(key, f"page {name} stands twice in the order")
        if touched is not None and page not in touched:
            raise where.wrong(key, f"page {name} is touched by no step")


def _read_placed_before(key: str, value: object, where: Where, guest: Guest) -> list[Check]:
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in value
    ):
        raise where.wrong(key, f"{key} is not a list of pairs of pages")
    pairs = [read_pages(pair, where, guest, key) for pair in value]
    return [PlacedBefore(first, second, guest.geometry) for first, second in pairs]


def _read_wait_ratio(key: str, value: object, where: Where, guest: Guest) -> list[Check]:
    checks: list[Check] = []
    for table in value if isinstance(value, list) else [value]:
        if not isinstance(table, dict) or not {"of", "to"} <= table.keys():
            raise where.wrong(key, f"{key} is not a table {{ of, to, at-least, at-most }}")
        of, to = (read_page(table[name], where, guest, key) for name in ("of", "to"))
        rest = {name: table[name] for name in table if name not in ("of", "to")}
        checks.append(WaitRatio(of, to, _bounds(key, rest, where), guest.geometry))
    return checks


def _read_never(key: str, value: object, where: Where, _guest: Guest) -> list[Check]:
    known = sorted(name for name, event in events.KINDS.items() if events.INJECT not in event.sides)
    if not isinstance(value, list) or not value:
        raise where.wrong(key, f"{key} is not a list of events")
    for event in value:
        if event not in known:
            raise where.wrong(key, f"event {event!r} is none of {', '.join(known)}")
    return [Never(event) for event in value]


def _read_channels(key: str, value: object, where: Where, guest: Guest) -> list[Check]:
    if not isinstance(value, dict) or not value:
        raise where.wrong(key, f'{key} is not a table such as {{ 5 = ["precopy"] }}')
    checks: list[Check] = []
    for name, channels in value.items():
        page = read_page(name, where, guest, key)
        if not isinstance(channels, list) or not channels:
            raise where.wrong(key, f"the channels of page {name} are not a list of channels")
        names = tuple(read_channel(channel, where, guest, key) for channel in channels)
        checks.append(Carriers(page, names, guest.geometry))
    return checks


def _read_equal(key: str, value: object, where: Where, _guest: Guest) -> list[Check]:
    if value is not True:
        raise where.wrong(key, f"{key} can only be true")
    return [MemoryEqual()]


_READERS: dict[str, Callable[[str, object, Where, Guest], list[Check]]] = {
    "status": _read_sides,
    "exit-status": _read_sides,
    URGENT_ORDER: _read_order,
    SERVED_ORDER: _read_served,
    **dict.fromkeys(COUNTS, _read_count),
    "placed-before": _read_placed_before,
    "wait-ratio": _read_wait_ratio,
    "channels": _read_channels,
    "never": _read_never,
    MEMORY_EQUAL: _read_equal,
}
