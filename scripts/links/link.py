"""A shaped link of one's own between the two sides: network namespaces, or else a proxy.

Two network namespaces and a token bucket on each end are the better link: the kernel shapes, and
nobody else's packets are on it.  Under the bucket is the queue that Linux gives a card by default
(`pfifo_fast`), or the one that is wanted.

That needs iproute2's `ip` and `tc` and util-linux's `unshare` and `nsenter`, the kernel's veth and
tbf, and the right to create network namespaces: root's own, or that which a user namespace gives.
Where one of them is missing, a proxy in this process stands between the sides, on loopback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protocol.addresses import parse_host_port
from protocol.errors import MigrationError
from protocol.text import one_line
from scripts.links.namespaces import ADDRESSES, namespaces
from scripts.links.spec import FIFO, PLAIN, QUEUE_DEFAULT, LinkSpec
from scripts.links.tools import overlimits
from scripts.runtime.parent import LinkNote
from scripts.screen.output import tell
from scripts.screen.table import link_title

if TYPE_CHECKING:
    import trio

    from scripts.links.throttle import Throttle

# The kinds of a link, as a report names them.
NAMESPACES, PROXY = "namespaces", "proxy"


@dataclass(frozen=True)
class Link:
    """What lies between the two sides; without a rate it is plain loopback.

    Attributes:
        spec: What was wanted.
        kind: NAMESPACES or PROXY; empty for plain loopback.
        queue: What packets wait in for the rate, one of `spec.QUEUES`; a proxy is a FIFO.
        prefixes: For "source" and "dest", the command line that brings a process to its end.
        listen_host: Where the destination listens, at its end.
        throttles: The proxies that stand between the sides so far.
    """

    spec: LinkSpec = PLAIN
    kind: str = ""
    queue: str = FIFO
    prefixes: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: dict.fromkeys(ADDRESSES, ())
    )
    listen_host: str = "127.0.0.1"
    throttles: list[Throttle] = field(default_factory=list)

    @property
    def bytes_per_second(self) -> int:
        """The rate, each direction for itself; 0 for no limit."""
        return self.spec.bytes_per_second

    @property
    def title(self) -> str:
        """What it is, for a person."""
        return link_title(self.to_plain()) if self.kind else "loopback"

    def to_plain(self) -> dict[str, str | float]:
        """Return what a report says of it."""
        note = self.note
        return note.to_plain() if note is not None else {}

    @property
    def option(self) -> str:
        """The value of `--link` for one like it."""
        return str(self.spec)

    @property
    def note(self) -> LinkNote | None:
        """What a side's report tells of this link; None for plain loopback."""
        if not self.bytes_per_second:
            return None
        return LinkNote(
            kind=self.kind, bytes_per_second=self.bytes_per_second, queue=self.queue,
            rtt_us=self.spec.rtt_us, loss=self.spec.loss,
        )  # fmt: skip

    async def lead_to(self, address: str, nursery: trio.Nursery) -> str:
        """Return the HOST:PORT at which the source finds what listens at the other end.

        Args:
            address: Where that listens.
            nursery: What the link needs done runs there until it is cancelled.
        """
        if self.kind != PROXY:
            return address
        # Imported late: both sides are started before this process has an event loop.
        from scripts.links.throttle import Throttle  # noqa: PLC0415

        throttle = Throttle(self.bytes_per_second)
        self.throttles.append(throttle)
        near: str = await nursery.start(throttle.serve, *parse_host_port(address))
        return near

    def has_held(self) -> bool:
        """Tell whether anything had to wait for the rate so far; True where nobody knows."""
        if self.kind == PROXY:
            return not self.throttles or any(each.has_held for each in self.throttles)
        counts = [overlimits(prefix) for prefix in self.prefixes.values()]
        return not self.kind or any(count != 0 for count in counts)


LOOPBACK = Link()


@contextmanager
def link_of(spec: LinkSpec) -> Iterator[Link]:
    """Make the best link that can be had here; it is gone when the block is left.

    That it is a proxy is told on standard error, and why.  So is, in the end, that the link never
    was what anybody waited for: then the figures are those of this machine.

    Raises:
        MigrationError: What it is to be the kernel cannot do here, and no proxy does.
    """
    with ExitStack() as stack:
        if not spec:
            link = LOOPBACK
        else:
            try:
                link = stack.enter_context(namespaces_link(spec))
            except MigrationError as error:
                reason = one_line(str(error))
                link = proxy_of(spec, reason)
                tell(f"midstream: the link is a proxy, not network namespaces: {reason}")
        yield link
        if link.kind and not link.has_held():
            tell(f"midstream: the {link.title} never was the limit: nothing had to wait for it")


def proxy_of(spec: LinkSpec, reason: str = "it is a proxy") -> Link:
    """Return the link for which a proxy stands between the sides.

    Args:
        spec: What it is to be.
        reason: Why it is nothing better.

    Raises:
        MigrationError: No proxy can be that; says the reason.
    """
    if spec.terms and spec.terms != f"queue={FIFO}":
        raise MigrationError(f"the link cannot have {spec.terms} here: {reason}")
    return Link(spec, PROXY)


@contextmanager
def namespaces_link(spec: LinkSpec) -> Iterator[Link]:
    """Make a link of two network namespaces.

    Raises:
        MigrationError: It cannot be had here; says why.
    """
    with namespaces(spec) as prefixes:
        yield Link(spec, NAMESPACES, spec.queue or QUEUE_DEFAULT, prefixes, ADDRESSES["dest"])
