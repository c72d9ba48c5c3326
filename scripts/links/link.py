"""A shaped link of one's own between the two sides: network namespaces, or else a proxy.

Two network namespaces, a veth pair and a token bucket on each end are the better link: the kernel
shapes, and nobody else's packets are on it.  Under the bucket is the queue that Linux gives a card
by default (`pfifo_fast`), or the one that is wanted.  The namespaces have no names: each lives as
long as a *holder* process that does nothing, and holders end with the process that started them.
So nothing is left behind, whatever happens to this process; the last one out closes the door.

That needs iproute2's `ip` and `tc` and util-linux's `unshare` and `nsenter`, the kernel's veth and
tbf, and the right to create network namespaces: root's own, or that which a user namespace gives.
Where one of them is missing, a proxy in this process stands between the sides, on loopback.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protocol.addresses import parse_host_port
from protocol.errors import MigrationError
from protocol.text import one_line
from scripts.links.shape import burst_bytes, queue_bytes, queue_packets
from scripts.links.spec import FIFO, PLAIN, QUEUE_DEFAULT, LinkSpec
from scripts.links.tools import path_of
from scripts.runtime.parent import PARENT_VARIABLE, LinkNote
from scripts.runtime.spawn import package_environment
from scripts.screen.output import tell
from scripts.screen.table import link_title

if TYPE_CHECKING:
    import trio

    from scripts.links.throttle import Throttle

TOOLS: tuple[str, ...] = ("ip", "tc", "unshare", "nsenter")

# The kinds of a link, as a report names them.
NAMESPACES, PROXY = "namespaces", "proxy"

# Both ends' addresses; private to the namespaces, so they collide with nobody's.
ADDRESSES = {"source": "10.83.0.1", "dest": "10.83.0.2"}
_PREFIX_BITS = 24

_TOOL_SECONDS_MAX = 10.0


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

    def to_plain(self) -> dict[str, str | int]:
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
        return LinkNote(kind=self.kind, bytes_per_second=self.bytes_per_second, queue=self.queue)

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
        counts = [_overlimits(prefix) for prefix in self.prefixes.values()]
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
    if spec.queue not in ("", FIFO):
        raise MigrationError(f"the link cannot have queue={spec.queue} here: {reason}")
    return Link(spec, PROXY)


@contextmanager
def namespaces_link(spec: LinkSpec) -> Iterator[Link]:
    """Make a link of two network namespaces.

    Raises:
        MigrationError: It cannot be had here; says why.
    """
    _check_tools()
    with ExitStack() as stack:
        yield _join_namespaces(stack, spec)


def _check_tools() -> None:
    """Refuse a machine without the tools that make a link.

    Raises:
        MigrationError: Says which.
    """
    missing = [tool for tool in TOOLS if path_of(tool) is None]
    if missing:
        raise MigrationError(f"this machine lacks {', '.join(missing)}")


def _ways() -> tuple[bool, ...]:
    """Return whether a user namespace is made, for each way to try.

    A root whose capabilities were taken away may still do there what it may not outside.
    """
    return (False, True) if os.geteuid() == 0 else (True,)


def _join_namespaces(stack: ExitStack, spec: LinkSpec) -> Link:
    """Make both as root may, or inside a user namespace of one's own; the first refusal counts."""
    refusals: list[MigrationError] = []
    for new_user in _ways():
        with ExitStack() as attempt:
            try:
                link = _join(attempt, spec, new_user=new_user)
            except MigrationError as error:
                refusals.append(error)
            else:
                stack.enter_context(attempt.pop_all())
                return link
    raise refusals[0]


def _join(stack: ExitStack, spec: LinkSpec, *, new_user: bool) -> Link:
    user = ["--user", "--map-root-user"] if new_user else []
    enter_user = ["--user", "--preserve-credentials"] if new_user else []
    first = stack.enter_context(_holder([_tool("unshare"), *user, "--net"]))
    into_first = [_tool("nsenter"), f"--target={first}", *enter_user]
    second = stack.enter_context(_holder([*into_first, _tool("unshare"), "--net"]))
    # The second was made inside the first's user namespace, so one way in fits both.
    prefixes = {
        "source": [*into_first, "--net"],
        "dest": [_tool("nsenter"), f"--target={second}", *enter_user, "--net"],
    }
    _connect(prefixes, second)
    for side, prefix in prefixes.items():
        _bring_up(prefix, side, spec)
    queue = spec.queue or QUEUE_DEFAULT
    return Link(spec, NAMESPACES, queue, prefixes, ADDRESSES["dest"])


def try_namespaces() -> str:
    """Try all that `namespaces_link` needs, in one process that is gone at once; return whose way.

    Raises:
        MigrationError: It cannot be had here; says why.
    """
    _check_tools()
    shape = [shlex.join([_tool("tc"), *words]) for words in _shape(LinkSpec(125_000_000))]
    steps = " && ".join(
        [f"{shlex.quote(_tool('ip'))} link add mig type veth peer name peer", *shape]
    )
    refusals: list[MigrationError] = []
    for new_user in _ways():
        user = ["--user", "--map-root-user"] if new_user else []
        try:
            _run([_tool("unshare"), *user, "--net", "/bin/sh", "-c", steps], "the attempt")
        except MigrationError as error:
            refusals.append(error)
        else:
            return "in a user namespace" if new_user else "as root"
    raise refusals[0]


@contextmanager
def _holder(prefix: Sequence[str]) -> Iterator[int]:
    """Keep a process in the namespaces that a command line leads to; yield its pid."""
    try:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-m", "scripts.links.holder"],
            env={**package_environment(), PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
    except OSError as error:
        raise MigrationError(f"cannot start {prefix[0]}: {error.strerror}") from error
    try:
        _await_word(process)
        yield process.pid
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def _await_word(process: subprocess.Popen[bytes]) -> None:
    """Wait until a holder says that it is in; before that its namespaces may not be there yet."""
    assert process.stdout is not None
    assert process.stderr is not None
    ready, _, _ = select.select([process.stdout], [], [], _TOOL_SECONDS_MAX)
    if not ready:
        raise MigrationError(f"no network namespace was made in {_TOOL_SECONDS_MAX:g} s")
    if not process.stdout.readline():
        lines = process.stderr.read().decode(errors="replace").strip().splitlines()
        raise MigrationError(f"no network namespace can be made: {lines[-1] if lines else '?'}")


def _connect(prefixes: dict[str, list[str]], dest_pid: int) -> None:
    here = prefixes["source"]
    _run([*here, _tool("ip"), "link", "add", "mig", "type", "veth", "peer", "name", "peer"])
    _run([*here, _tool("ip"), "link", "set", "peer", "netns", str(dest_pid)])
    _run([*prefixes["dest"], _tool("ip"), "link", "set", "peer", "name", "mig"])


def _bring_up(prefix: list[str], side: str, spec: LinkSpec) -> None:
    ip, tc = [*prefix, _tool("ip")], [*prefix, _tool("tc")]
    _run([*ip, "address", "add", f"{ADDRESSES[side]}/{_PREFIX_BITS}", "dev", "mig"])
    _run([*ip, "link", "set", "lo", "up"])
    # A queue of bands is as long as its card says when it is made.
    _run([*ip, "link", "set", "mig", "txqueuelen", str(queue_packets(spec.bytes_per_second))])
    _run([*ip, "link", "set", "mig", "up"])
    bucket, *queue = _shape(spec)
    _run([*tc, *bucket])
    for words in queue:
        _add_queue([*tc, *words], spec.queue or QUEUE_DEFAULT)


def _add_queue(command: list[str], queue: str) -> None:
    try:
        _run(command, "tc")
    except MigrationError as error:
        raise MigrationError(f"the kernel lacks it (modprobe sch_{queue}): {error}") from error


def _shape(spec: LinkSpec) -> list[list[str]]:
    """Return tc's arguments that make a link of the interface, a list for each time it is run."""
    rate = spec.bytes_per_second
    burst = burst_bytes(rate)
    bucket = [
        "qdisc", "add", "dev", "mig", "root", "handle", "1:", "tbf", "rate", f"{rate * 8}bit",
        # The limit counts all that the queue holds, and passes with a full bucket at once.
        "burst", str(burst), "limit", str(burst + queue_bytes(rate)),
    ]  # fmt: skip
    queue = spec.queue or QUEUE_DEFAULT
    # The bucket's own is a FIFO.
    under = [] if queue == FIFO else [["qdisc", "add", "dev", "mig", "parent", "1:1", queue]]
    return [bucket, *under]


def _overlimits(prefix: Sequence[str]) -> int | None:
    """Return how often a packet had to wait for the rate at an end; None if tc does not say."""
    try:
        done = subprocess.run(
            [*prefix, _tool("tc"), "-s", "-j", "qdisc", "show", "dev", "mig"],
            capture_output=True, timeout=_TOOL_SECONDS_MAX, check=True,
        )  # fmt: skip
        (count,) = (each["overlimits"] for each in json.loads(done.stdout) if each["kind"] == "tbf")
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return None
    return int(count)


def _run(command: list[str], name: str = "") -> None:
    name = name or " ".join(command[-6:])
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TOOL_SECONDS_MAX, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        raise MigrationError(f"{name} took over {_TOOL_SECONDS_MAX:g} s") from None
    except OSError as error:
        raise MigrationError(f"cannot start {command[0]}: {error.strerror}") from error
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise MigrationError(f"{name} failed: {reason[-1] if reason else '?'}")


def _tool(tool: str) -> str:
    path = path_of(tool)
    assert path is not None, "all of them were looked for first"
    return path
