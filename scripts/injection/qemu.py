"""A real QEMU in the place of midstream's own source: the `[source]` of a scenario, its results.

No proxy and no source tells what happens then, so of a run it must be found out otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from protocol import events
from protocol.channels import Channel
from protocol.errors import MidstreamError
from protocol.geometry import TARGET_PAGE_BYTES, PageId
from protocol.policy import preset
from scripts.injection.actions import Action, NetworkAction, ProcessAction
from scripts.injection.scenario_text import Where
from scripts.injection.triggers import Guest, Passed, Received, Trigger
from scripts.options import PASSES_DEFAULT, SOURCE, Values
from scripts.qemu.command import ACCELS, QemuSource, qemu_source

_KEYS = ("qemu", "accel", "precopy", "preempt", "running")

# Of [migration], what QEMU takes and what is the destination's own.
_OF_QEMU = (
    "size", "page_size", "image", "seed", "max_bandwidth", "max_postcopy_bandwidth",
    "postcopy_after", "socket_buffer", "reconnect_timeout",
)  # fmt: skip
_OF_DEST = (
    "backing", "placement", "program", "vcpus", "access_rate", "socket_buffer", "recover_timeout",
)  # fmt: skip


@dataclass(frozen=True)
class QemuTerms:
    """Which QEMU is the source.

    Attributes:
        program: Its executable.
        accel: "auto", "kvm" or "tcg".
        preempt: It has the capability postcopy-preempt.
        running: Its firmware runs.
        precopy: What it sends before it switches over, a size.
    """

    program: str
    accel: str
    preempt: bool
    running: bool
    precopy: str

    def values(self, values: Values) -> dict[str, Any]:
        """Return the values of `midstream qemu` that make what a scenario's values say."""
        own = {
            "qemu": self.program, "accel": self.accel, "precopy": self.precopy,
            "preempt": self.preempt, "running": self.running,
        }  # fmt: skip
        own["postcopy_after"] = values["postcopy_after"] or PASSES_DEFAULT
        return {**{key: values[key] for key in _OF_QEMU}, **own}


def read_source(table: Mapping[str, Any], where: Where) -> QemuTerms | None:
    """Return the QEMU that [source] names, None if there is no such table.

    Raises:
        ScenarioError: It names none, or one that cannot be.
    """
    if not table:
        return None
    where.check_keys(table, _KEYS, "[source]")
    program, accel = table.get("qemu"), table.get("accel", "auto")
    if not isinstance(program, str) or not program or not program.isprintable():
        raise where.wrong("qemu", "qemu is not the name of QEMU's executable")
    if accel not in ACCELS:
        raise where.wrong("accel", f"accel {accel!r} is none of {', '.join(ACCELS)}")
    switches = {key: table.get(key, default) for key, default in _SWITCHES.items()}
    for key, value in switches.items():
        if type(value) is not bool:
            raise where.wrong(key, f"{key} is neither true nor false")
    precopy = table.get("precopy", "0")
    if not isinstance(precopy, str):
        raise where.wrong("precopy", "precopy is no size")
    return QemuTerms(program, str(accel), **switches, precopy=precopy)


_SWITCHES = {"preempt": True, "running": False}


def check_options(
    qemu: QemuTerms, options: Mapping[str, Any], values: Values, where: Where
) -> None:
    """Refuse options of [migration] that a QEMU would not heed.

    Raises:
        ScenarioError: There is one, or a value that cannot be.
    """
    for key in options:
        if key.replace("-", "_") not in (*_OF_QEMU, *_OF_DEST):
            raise where.wrong(key, f"{key} is not for a QEMU to heed")
    if values["postcopy_after"] == "never":
        raise where.wrong("postcopy-after", "a QEMU is only taken with postcopy")
    read_qemu(qemu, values, where)


def read_qemu(qemu: QemuTerms, values: Values, where: Where) -> QemuSource:
    """Return the migration out of a QEMU.

    Raises:
        ScenarioError: A value is none that it can have.
    """
    try:
        return qemu_source({**qemu.values(values), "save": None})
    except click.BadParameter as error:
        raise where.wrong("", f"{error.param_hint}: {error.message}") from error


def guest_of(qemu: QemuTerms, guest: Guest) -> Guest:
    """Return the guest as QEMU makes it: its connections are QEMU's."""
    policy = preset("ordered" if qemu.preempt else "vanilla")
    channels = tuple(Channel) if qemu.preempt else (Channel.PRECOPY,)
    return replace(guest, policy=policy, channels=channels)


def check_step(when: Trigger, action: Action, where: Where) -> None:
    """Refuse what takes somebody between the two sides who understands what they say.

    Raises:
        ScenarioError: The step does.
    """
    if isinstance(action, NetworkAction):
        raise where.wrong("network", "the proxy does not speak QEMU's protocol")
    if isinstance(when, Passed) or (
        isinstance(when, Received) and isinstance(action, ProcessAction)
    ):
        raise where.wrong(
            "when", "this moment is the proxy's, which does not speak QEMU's protocol"
        )
    if isinstance(action, ProcessAction) and action.side == SOURCE and action.do != "kill":
        raise where.wrong("process", "a QEMU can be killed, and not be stopped")


# What is compared at once.
_PIECE_BYTES = 4 << 20


def carriers_told(
    pages: Iterable[PageId], told: Sequence[Mapping[str, Any]]
) -> dict[PageId, list[Channel]]:
    """Return which channel brought each page, as the destination tells: it lets none mix."""
    found: dict[PageId, list[Channel]] = {page: [] for page in pages}
    for event in told:
        if event["event"] != events.PagePlaced.event:
            continue
        run = range(event["page"], event["page"] + event.get("pages", 1))
        for page, channels in found.items():
            if page.block == event["block"] and page.index in run:
                channels.append(Channel(event["channel"]))
    return found


def differing_target_pages(source: Path, dest: Path) -> int | None:
    """Return how many target pages of a source's memory differ from the destination's.

    The destination's has more blocks, behind the one of the source's.  None if either is missing.

    Raises:
        MidstreamError: One cannot be read.
    """
    try:
        with source.open("rb") as ours, dest.open("rb") as theirs:
            if os.fstat(theirs.fileno()).st_size < os.fstat(ours.fileno()).st_size:
                return None
            differing = 0
            while piece := ours.read(_PIECE_BYTES):
                pages, others = (
                    np.frombuffer(data, np.uint64).reshape(-1, TARGET_PAGE_BYTES // 8)
                    for data in (piece, theirs.read(len(piece)))
                )
                differing += int(np.count_nonzero((pages != others).any(axis=1)))
            return differing
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MidstreamError(f"cannot compare the memories: {error.strerror}") from error


def early_pages(
    steps: Iterable[tuple[PageId, Sequence[PageId]]], placed: Sequence[PageId]
) -> list[PageId]:
    """Return the pages that were asked for when they lay half-sent, as it seemed, and were not.

    What QEMU has given to its socket it cannot hold back.  A page of which a part had come and the
    rest was already on its way is placed before the first of those that were asked for before it.

    Args:
        steps: For each step that waits for a share of a page: that page, and what is touched then.
        placed: All pages in the order in which they were placed.
    """
    order = {page: place for place, page in reversed(list(enumerate(placed)))}
    return [
        page
        for page, touched in steps
        if page in touched[1:]
        and page in order
        and order[page] < order.get(touched[0], len(placed))
    ]
