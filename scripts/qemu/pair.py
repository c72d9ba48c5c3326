"""A QEMU and a destination for it as two processes on a link: `midstream migrate`'s counterpart."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from protocol.errors import MigrationError
from scripts.links.link import ADDRESSES, NAMESPACES, Link
from scripts.options import DEST, SOURCE
from scripts.processes.child import Child
from scripts.processes.launcher import (
    END_SECONDS_MAX,
    LAST_WORDS_SECONDS_MAX,
    LISTEN_SECONDS_MAX,
    LISTENING,
)
from scripts.qemu.drive import NO_REASON
from scripts.runtime.interrupts import EXIT_CANCELLED
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
        listen.append(f"--only-from={ADDRESSES[SOURCE]}")
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
