"""A real QEMU beside midstream's policies: what `--against` names, and one run of it.

The destination, the link and the accesses are those of the policies; the source alone is QEMU.
Both are processes of their own, as `midstream migrate` has them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from protocol.errors import MigrationError
from scripts.links.link import NAMESPACES, Link
from scripts.links.namespaces import ADDRESSES
from scripts.options import DEST, SOURCE
from scripts.processes.child import Child
from scripts.processes.launcher import (
    END_SECONDS_MAX,
    LAST_WORDS_SECONDS_MAX,
    LISTEN_SECONDS_MAX,
    LISTENING,
)
from scripts.qemu.command import PROGRAM
from scripts.qemu.drive import NO_REASON
from scripts.runtime.interrupts import EXIT_CANCELLED
from scripts.runtime.looping import run_until_signalled
from scripts.runtime.parent import Orders
from scripts.runtime.spawn import spawn

_RUN_SECONDS_MAX = 1800.0


async def run_pair(
    qemu_arguments: Sequence[str], dest_arguments: Sequence[str], link: Link
) -> None:
    """Migrate out of a QEMU; return when both have ended well.

    Args:
        qemu_arguments: Of `midstream qemu`, but for --connect.
        dest_arguments: Of `midstream dest`, but for --listen and --peer.
        link: Where the two run.

    Raises:
        MigrationError: One has not; in its own words.
    """
    children: list[Child] = []
    async with trio.open_nursery() as nursery:
        try:
            with trio.move_on_after(_RUN_SECONDS_MAX):
                await _run(children, nursery, qemu_arguments, dest_arguments, link)
        finally:
            with trio.CancelScope(shield=True):
                for child in reversed(children):
                    await child.end(LAST_WORDS_SECONDS_MAX)
        nursery.cancel_scope.cancel()
    failed = [child for child in reversed(children) if child.status and not child.put_down]
    failed.sort(key=_has_no_reason)
    if failed:
        raise MigrationError(f"the {failed[0].title} has failed: {failed[0].last_words}")
    if any(child.status for child in children):
        raise MigrationError(f"a run with a QEMU took longer than {_RUN_SECONDS_MAX:g} s")


def _has_no_reason(child: Child) -> bool:
    return child.status == EXIT_CANCELLED or child.last_words.endswith(NO_REASON)


async def _run(
    children: list[Child],
    nursery: trio.Nursery,
    qemu_arguments: Sequence[str],
    dest_arguments: Sequence[str],
    link: Link,
) -> None:
    def start(command: str, side: str, arguments: Sequence[str]) -> Child:
        child = Child(
            spawn(
                command, arguments, capture=True, prefix=link.prefixes[side],
                orders=Orders(link=link.note if side == DEST else None),
            )
        )  # fmt: skip
        children.append(child)
        nursery.start_soon(child.collect_errors, lambda _: None)
        return child

    listen = [f"--listen={link.listen_host}:0"]
    if link.kind == NAMESPACES:
        listen.append(f"--allow-from={ADDRESSES[SOURCE]}")
    dest = start("dest", DEST, [*listen, "--peer=qemu", "--quiet", *dest_arguments])
    with trio.move_on_after(LISTEN_SECONDS_MAX) as patience:
        address = await link.lead_to(await dest.read_line(LISTENING), nursery)
    if patience.cancelled_caught:
        raise MigrationError(f"the destination did not listen in {LISTEN_SECONDS_MAX:g} s")
    source = start("qemu", SOURCE, [f"--connect={address}", "--quiet", *qemu_arguments])
    if await source.wait():
        # The destination may have the better reason, and may not have met anybody.
        with trio.move_on_after(END_SECONDS_MAX):
            dest.interrupt()
            await dest.wait()
        return
    with trio.move_on_after(END_SECONDS_MAX):
        await dest.wait()


# The rows of a QEMU, and the option of `midstream qemu` that makes each.
ROWS = {"qemu": "--no-preempt", "qemu-preempt": "--preempt"}

# What a migration's options say of its source, and of its destination.
_OF_SOURCE = ("size", "page-size", "seed", "postcopy-after")
_OF_DEST = ("program", "vcpus", "access-rate", "events")

# Where a run leaves its report, in the folder that it is given.
REPORT = "qemu-report.json"

# It prints a line and loads no machine.
_VERSION_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class Peer:
    """A QEMU that can be started.

    Attributes:
        program: Its name or path.
        title: What it is and which version, for a person.
    """

    program: str
    title: str


def peer_of(against: str | None) -> Peer | None:
    """Return the QEMU that --against names, None if there is none.

    Raises:
        click.BadParameter: It names something else, or what cannot be started.
    """
    if against is None:
        return None
    name, _, program = against.partition("=")
    if name != "qemu":
        raise click.BadParameter(f"{against[:60]!r} is not qemu", param_hint="--against")
    program = program or PROGRAM
    if shutil.which(program) is None:
        raise click.BadParameter(f"there is no program {program}", param_hint="--against")
    return Peer(program, f"QEMU {_version_of(program)}")


def run_qemu(
    peer: Peer, row: str, options: Mapping[str, str], folder: Path, link: Link
) -> dict[str, Any]:
    """Migrate out of a QEMU as `run_migration` does out of midstream's source; return the report.

    Args:
        peer: Which QEMU.
        row: One of ROWS.
        options: As `run_migration` takes them; QEMU has no use for some.
        folder: Where the report may be written.
        link: What lies between the two.

    Raises:
        MigrationError: One of the two has failed.
    """
    report = folder / REPORT
    arguments = (
        [f"--qemu={peer.program}", ROWS[row], *_arguments(options, _OF_SOURCE)],
        [f"--report={report}", *_arguments(options, _OF_DEST)],
    )
    run_until_signalled(partial(run_pair, *arguments, link))
    told: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return told


def _arguments(options: Mapping[str, str], names: tuple[str, ...]) -> list[str]:
    return [f"--{name}={options[name]}" for name in names if name in options]


def _version_of(program: str) -> str:
    try:
        told = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_VERSION_SECONDS_MAX,
            check=False,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "it does not end"
        raise click.BadParameter(f"{program}: {reason}", param_hint="--against") from error
    version = re.match(r"QEMU emulator version ([0-9.]{1,20})", told)
    if version is None:
        raise click.BadParameter(f"{program} is no QEMU", param_hint="--against")
    return version[1]
