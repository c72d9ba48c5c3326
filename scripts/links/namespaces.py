"""Two network namespaces and what joins them: a veth pair, or two TUN devices and a relay.

The namespaces have no names: each lives as long as a *holder* process that does nothing, and
holders end with the process that started them; so does the relay.  So nothing is left behind,
whatever happens to that process; the last one out closes the door.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from protocol.errors import MigrationError
from scripts.links.shape import burst_bytes, queue_bytes, queue_packets
from scripts.links.spec import FIFO, QUEUE_DEFAULT, LinkSpec
from scripts.links.tools import TOOL_SECONDS_MAX, path_of, run_tool, tool_path
from scripts.runtime.parent import PARENT_VARIABLE
from scripts.runtime.spawn import package_environment

TOOLS: tuple[str, ...] = ("ip", "tc", "unshare", "nsenter")

# Both ends' addresses; private to the namespaces, so they collide with nobody's.
ADDRESSES = {"source": "10.83.0.1", "dest": "10.83.0.2"}
_PREFIX_BITS = 24

# What may wait for the relay, which reads as it gets its turn, behind the rate and its queue.
_RELAYED_PACKETS_MAX = 10_000

_HOLDER, _RELAY = "scripts.links.holder", "scripts.links.relay"

Prefixes = Mapping[str, Sequence[str]]


@contextmanager
def namespaces(spec: LinkSpec) -> Iterator[Prefixes]:
    """Make both, joined by a link; yield what brings a command to either end.

    Args:
        spec: What the link is to be.

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


def _join_namespaces(stack: ExitStack, spec: LinkSpec) -> Prefixes:
    """Make both as root may, or inside a user namespace of one's own; the first refusal counts."""
    refusals: list[MigrationError] = []
    for new_user in _ways():
        with ExitStack() as attempt:
            try:
                prefixes = _join(attempt, spec, new_user=new_user)
            except MigrationError as error:
                refusals.append(error)
            else:
                stack.enter_context(attempt.pop_all())
                return prefixes
    raise refusals[0]


def _join(stack: ExitStack, spec: LinkSpec, *, new_user: bool) -> Prefixes:
    user = ["--user", "--map-root-user"] if new_user else []
    enter_user = ["--user", "--preserve-credentials"] if new_user else []
    first = stack.enter_context(_holder([tool_path("unshare"), *user, "--net"]))
    into_first = [tool_path("nsenter"), f"--target={first}", *enter_user]
    second = stack.enter_context(_holder([*into_first, tool_path("unshare"), "--net"]))
    # The second was made inside the first's user namespace, so one way in fits both.
    prefixes = {
        "source": [*into_first, "--net"],
        "dest": [tool_path("nsenter"), f"--target={second}", *enter_user, "--net"],
    }
    if spec.is_relayed:
        into_second = [tool_path("nsenter"), f"--target={second}", "--net"]
        terms = [str(spec.rtt_us / 2e6), str(spec.loss)]
        stack.enter_context(_holder(prefixes["source"], _RELAY, *terms, *into_second))
    else:
        _connect(prefixes, second)
    for side, prefix in prefixes.items():
        _bring_up(prefix, side, spec)
    return prefixes


def try_namespaces() -> str:
    """Try all that `namespaces` needs, in one process that is gone at once; return whose way.

    Raises:
        MigrationError: It cannot be had here; says why.
    """
    _check_tools()
    shape = [shlex.join([tool_path("tc"), *words]) for words in _shape(LinkSpec(125_000_000))]
    steps = " && ".join(
        [f"{shlex.quote(tool_path('ip'))} link add mig type veth peer name peer", *shape]
    )
    refusals: list[MigrationError] = []
    for new_user in _ways():
        user = ["--user", "--map-root-user"] if new_user else []
        try:
            run_tool([tool_path("unshare"), *user, "--net", "/bin/sh", "-c", steps], "the attempt")
        except MigrationError as error:
            refusals.append(error)
        else:
            return "in a user namespace" if new_user else "as root"
    raise refusals[0]


@contextmanager
def _holder(prefix: Sequence[str], module: str = _HOLDER, *arguments: str) -> Iterator[int]:
    """Keep a process in the namespaces that a command line leads to; yield its pid."""
    try:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-m", module, *arguments],
            env={**package_environment(), PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
    except OSError as error:
        raise MigrationError(f"cannot start {prefix[0]}: {error.strerror}") from error
    try:
        _await_word(process, "network namespace" if module == _HOLDER else "relay")
        yield process.pid
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def _await_word(process: subprocess.Popen[bytes], what: str) -> None:
    """Wait until a process says that it is there; before that its namespaces may not be."""
    assert process.stdout is not None
    assert process.stderr is not None
    ready, _, _ = select.select([process.stdout], [], [], TOOL_SECONDS_MAX)
    if not ready:
        raise MigrationError(f"no {what} was made in {TOOL_SECONDS_MAX:g} s")
    if not process.stdout.readline():
        lines = process.stderr.read().decode(errors="replace").strip().splitlines()
        raise MigrationError(f"no {what} can be made: {lines[-1] if lines else '?'}")


def _connect(prefixes: dict[str, list[str]], dest_pid: int) -> None:
    here = prefixes["source"]
    run_tool([*here, tool_path("ip"), "link", "add", "mig", "type", "veth", "peer", "name", "peer"])
    run_tool([*here, tool_path("ip"), "link", "set", "peer", "netns", str(dest_pid)])
    run_tool([*prefixes["dest"], tool_path("ip"), "link", "set", "peer", "name", "mig"])


def _bring_up(prefix: list[str], side: str, spec: LinkSpec) -> None:
    ip, tc = [*prefix, tool_path("ip")], [*prefix, tool_path("tc")]
    run_tool([*ip, "address", "add", f"{ADDRESSES[side]}/{_PREFIX_BITS}", "dev", "mig"])
    run_tool([*ip, "link", "set", "lo", "up"])
    # A queue of bands is as long as its card says when it is made.
    run_tool([*ip, "link", "set", "mig", "txqueuelen", str(queue_packets(spec.bytes_per_second))])
    run_tool([*ip, "link", "set", "mig", "up"])
    bucket, *queue = _shape(spec)
    run_tool([*tc, *bucket])
    for words in queue:
        _add_queue([*tc, *words], spec.queue or QUEUE_DEFAULT)
    if spec.is_relayed:
        run_tool([*ip, "link", "set", "mig", "txqueuelen", str(_RELAYED_PACKETS_MAX)])


def _add_queue(command: list[str], queue: str) -> None:
    try:
        run_tool(command, "tc")
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
