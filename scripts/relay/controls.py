"""Two QEMUs with nothing between them: the control of what scenarios with a relay have shown.

    python -m scripts.relay.controls [--qemu FILE] [--settle SECONDS] [NAME...]

Connections are broken by `shutdown(2)` of the source's own sockets (`pidfd_getfd`), processes are
stopped by signals, pages are touched from outside (`process_vm_readv`); all else is QMP.  It says
what was seen, and expects nothing.  It takes the right to reach into one's own children, and two
of the controls take huge pages that are set aside.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import click
import trio

from protocol.errors import MidstreamError, MigrationError
from protocol.units import parse_geometry
from scripts.qemu.command import PROGRAM
from scripts.qemu.drive import connections_to
from scripts.qemu.machine import MachineSpec
from scripts.relay.side import Side, differing_bytes, two_sides
from scripts.relay.steps import NamedPage
from scripts.runtime.looping import run_until_signalled

_ACTIVE = "postcopy-active"

_BASE, _HUGE = "4KiB", "2MiB"

# While neither is at anything, who says nothing new for so long says nothing more.
_SETTLED_SECONDS = 1.0
_AT_IT = {_ACTIVE, "postcopy-recover", "postcopy-recover-setup"}

_POLL_SECONDS = 0.02
_CONTROL_SECONDS_MAX = 120.0

# include/uapi/linux/tcp.h, struct tcp_info: tcpi_bytes_acked.
_BYTES_ACKED = struct.Struct("=120xQ")

# The preempt connection has brought a page or two of 4 KiB where the main one has had its package.
_PREEMPT_BYTES_MAX = 16 << 10

# What is done by then has been heard at the other end.
_BETWEEN_SECONDS = 0.1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Terms:
    """How a control is run.

    Attributes:
        program: QEMU's executable.
        settle_seconds: Who is still at it, and says nothing new for so long, says nothing more.
        say: Is told what is seen.
    """

    program: str
    settle_seconds: float
    say: Say


class Direct:
    """A source, a destination, and two connections between them.

    Attributes:
        source: Who migrates.
        dest: Where to.
    """

    def __init__(self, source: Side, dest: Side, nursery: trio.Nursery, terms: Terms) -> None:
        """Take two QEMUs that run; `begin` has them migrate."""
        self.source, self.dest = source, dest
        self._nursery = nursery
        self._terms = terms
        self._port = 0
        self._started_at = 0.0

    async def begin(self, postcopy_bandwidth: int) -> None:
        """Have them migrate and switch over; time counts from then on."""
        for side in (self.source, self.dest):
            await side.allow(preempt=True)
        _, self._port = await self.dest.listen("migrate-incoming")
        await self.source.switch_over(f"tcp:127.0.0.1:{self._port}", postcopy_bandwidth)
        await self.dest.reaches(_ACTIVE)
        self._started_at = trio.current_time()

    def say(self, text: str) -> None:
        """Tell what was seen, and when."""
        self._terms.say(f"  {trio.current_time() - self._started_at:7.3f} s  {text}")

    async def sent_bytes(self) -> int:
        """Return how much the source has sent, as it says."""
        return int((await self.source.call("query-migrate"))["ram"]["transferred"])

    async def touch(self, block: str, index: int) -> trio.Event:
        """Touch a page; return what is set when it has come."""
        address = await self.dest.address_of(NamedPage(block, index))
        came = trio.Event()

        async def wait() -> None:
            if await self.dest.touch(address):
                self.say(f"page {index} of {block} has come")
                came.set()

        self.say(f"page {index} of {block} is touched")
        self._nursery.start_soon(wait)
        await trio.sleep(_BETWEEN_SECONDS)
        return came

    def break_connections(self, *, preempt_only: bool) -> None:
        """Shut the source's connections down; the preempt one is that which has sent the least."""
        counts = {
            _acked_bytes(sock): sock.getsockname()[1]
            for sock in connections_to(self._port, self.source.pid)
        }
        chosen = {counts[min(counts)]} if preempt_only else set(counts.values())
        for sock in connections_to(self._port, self.source.pid):
            if sock.getsockname()[1] in chosen:
                sock.shutdown(socket.SHUT_RDWR)
        which = "preempt connection is" if preempt_only else "connections are"
        self.say(f"the source's {which} shut down")

    def end_return_path(self) -> None:
        """Let the source see the end of file on its main connection, and send on."""
        for sock in connections_to(self._port, self.source.pid):
            if _acked_bytes(sock) > _PREEMPT_BYTES_MAX:
                sock.shutdown(socket.SHUT_RD)
        self.say("the source's return path ends")

    async def watch(self) -> tuple[str, str]:
        """Tell each change of their states, until none comes any more; return the last."""
        seen, changed_at = ("", ""), trio.current_time()
        while True:
            now = await self.source.state(), await self.dest.state()
            if now != seen:
                seen, changed_at = now, trio.current_time()
                self.say(f"source {now[0]}, dest {now[1]}")
            at_it = bool(set(now) & _AT_IT)
            settle_seconds = self._terms.settle_seconds if at_it else _SETTLED_SECONDS
            if trio.current_time() - changed_at >= settle_seconds:
                return seen
            await trio.sleep(_POLL_SECONDS)

    async def recover(self, *, stopped: bool = False) -> None:
        """Have the destination listen again, and the source resume, unlimited; tell who refuses.

        Args:
            stopped: The destination's process is stopped when it listens.
        """
        try:
            _, self._port = await self.dest.listen("migrate-recover")
            if stopped:
                os.kill(self.dest.pid, signal.SIGSTOP)
            await self.source.call("migrate-set-parameters", **{"max-postcopy-bandwidth": 0})
            await self.source.call("migrate", uri=f"tcp:127.0.0.1:{self._port}", resume=True)
        except MigrationError as error:
            self.say(f"resuming is refused: {error}")
            return
        self.say("the migration is resumed")

    async def end(self) -> None:
        """Tell what there is to tell of an end: of both, and of their memories."""
        if await self.watch() == ("completed", "completed"):
            count = differing_bytes(self.source.memory, self.dest.memory)
            self.say(f"{count} bytes of the memories differ")


def _acked_bytes(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
    return int(_BYTES_ACKED.unpack(info)[0])


@asynccontextmanager
async def direct(terms: Terms, size: str, page_size: str) -> AsyncIterator[Direct]:
    """Start both QEMUs; nothing of them is left.

    Args:
        terms: Which, and how they are watched.
        size: Of the guest, as in `--size`.
        page_size: As in `--page-size`.

    Raises:
        MidstreamError: There is no memory for them, or one could not be started.
    """
    spec = MachineSpec(program=terms.program)
    async with two_sides(parse_geometry(size, page_size), 0, spec, spec) as (source, dest, nursery):
        terms.say(f"  QEMU {'.'.join(map(str, source.version))}")
        with trio.move_on_after(_CONTROL_SECONDS_MAX) as patience:
            yield Direct(source, dest, nursery, terms)
        if patience.cancelled_caught:
            terms.say(f"  ended from outside after {_CONTROL_SECONDS_MAX:g} s")


async def two_blocks(terms: Terms) -> None:
    """Ask for page 0 of b, among others of b, while page 0 of a is sent, which takes 2 s."""
    async with direct(terms, "a=4MiB,b=8MiB", _HUGE) as pair:
        await pair.begin(1 << 20)
        while await pair.sent_bytes() < 1 << 18:  # noqa: ASYNC110 - QEMU tells nobody
            await trio.sleep(_POLL_SECONDS)
        touched = [await pair.touch("b", index) for index in (2, 0, 1, 3)]
        for came in touched:
            await came.wait()


async def preempt_dies(terms: Terms) -> None:
    """Break the preempt connection alone; the main one has a section for each tenth of a second."""
    async with direct(terms, "8MiB", _BASE) as pair:
        await pair.begin(2 << 20)
        await (await pair.touch("ram", 1900)).wait()
        pair.break_connections(preempt_only=True)
        await pair.watch()
        await pair.recover()
        await pair.end()


async def preempt_dies_late(terms: Terms) -> None:
    """Break it in the main connection's last section: the only one, where a page takes 31 ms."""
    async with direct(terms, "64MiB", _HUGE) as pair:
        await pair.begin(64 << 20)
        await (await pair.touch("ram", 28)).wait()
        pair.break_connections(preempt_only=True)
        await pair.watch()
        await pair.recover()
        await pair.end()


async def recovery_breaks(terms: Terms) -> None:
    """Break all while the destination is asked what it has: it is stopped while that is done."""
    async with direct(terms, "8MiB", _BASE) as pair:
        await pair.begin(2 << 20)
        # Before that the destination may not have loaded its devices, and gives up.
        await (await pair.touch("ram", 1900)).wait()
        pair.break_connections(preempt_only=False)
        await pair.watch()
        await pair.recover(stopped=True)
        # Then it has asked, and waits.
        await pair.source.reaches("postcopy-recover")
        await trio.sleep(_BETWEEN_SECONDS)
        pair.break_connections(preempt_only=False)
        os.kill(pair.dest.pid, signal.SIGCONT)
        await pair.watch()
        await pair.recover()
        await pair.end()


async def return_path_ends(terms: Terms) -> None:
    """End the return path at the source, in the middle of postcopy, and ask for a page then."""
    async with direct(terms, "8MiB", _BASE) as pair:
        await pair.begin(4 << 20)
        await (await pair.touch("ram", 1900)).wait()
        pair.end_return_path()
        await pair.touch("ram", 1800)
        await pair.watch()
        await pair.recover()
        await pair.end()


CONTROLS: Mapping[str, Callable[[Terms], Awaitable[None]]] = {
    "two-blocks": two_blocks,
    "preempt-dies": preempt_dies,
    "preempt-dies-late": preempt_dies_late,
    "recovery-breaks": recovery_breaks,
    "return-path-ends": return_path_ends,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CONTROLS)))
@click.option("--qemu", default=PROGRAM, show_default=True, metavar="FILE", help="Which QEMU.")
@click.option(
    "--settle", default=8.0, show_default=True, type=click.FloatRange(0), metavar="SECONDS",
    help="How long states that should change are watched.",
)  # fmt: skip
def main(names: tuple[str, ...], qemu: str, settle: float) -> None:
    """Run controls, all by default, and tell what is seen."""
    terms = Terms(qemu, settle, click.echo)
    for name in names or CONTROLS:
        click.echo(f"{name}: {CONTROLS[name].__doc__}")
        try:
            run_until_signalled(partial(CONTROLS[name], terms))
        except MidstreamError as error:
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
