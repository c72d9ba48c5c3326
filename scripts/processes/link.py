"""A shaped link of one's own: two network namespaces, a veth pair, a token bucket on each end.

The namespaces have no names: each lives as long as a *holder* process that does nothing, and
holders end with the process that started them.  So nothing is left behind, whatever happens to this
process; the last one out closes the door.

Needs iproute2's `ip` and `tc` and util-linux's `unshare` and `nsenter`, and the right to create
network namespaces: root's own, or that which a user namespace gives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from protocol.errors import MigrationError
from scripts.processes.child import PARENT_VARIABLE, package_environment

TOOLS = ("ip", "tc", "unshare", "nsenter")

# Both ends' addresses; private to the namespaces, so they collide with nobody's.
ADDRESSES = {"source": "10.83.0.1", "dest": "10.83.0.2"}
_PREFIX_BITS = 24

# As much as a network card hands over in one go; less starves the bucket between two timer ticks.
BURST_BYTES = 128 * 1024
# What may queue in front of the link.  Its time is added to that of every urgent page.
QUEUE_MS = 10

_TOOL_SECONDS_MAX = 10.0


@dataclass(frozen=True)
class ShapedLink:
    """Where the two sides run.

    Attributes:
        bytes_per_second: The rate, each direction for itself.
        prefixes: For "source" and "dest", the command line that enters its namespace.
        addresses: For both, the address in it.
    """

    bytes_per_second: int
    prefixes: dict[str, list[str]]
    addresses: dict[str, str]


@contextmanager
def shaped_link(bytes_per_second: int) -> Iterator[ShapedLink]:
    """Make a link that is gone when the block is left.

    Raises:
        MigrationError: It cannot be had here; says why.
    """
    missing = [tool for tool in TOOLS if _path_of(tool) is None]
    if missing:
        raise MigrationError(f"a shaped link needs {', '.join(missing)}, which this machine lacks")
    with ExitStack() as stack:
        enter_user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        new_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        first = stack.enter_context(_holder([_tool("unshare"), *new_user, "--net"]))
        into_first = [_tool("nsenter"), f"--target={first}", *enter_user]
        second = stack.enter_context(_holder([*into_first, _tool("unshare"), "--net"]))
        # The second was made inside the first's user namespace, so one way in fits both.
        prefixes = {
            "source": [*into_first, "--net"],
            "dest": [_tool("nsenter"), f"--target={second}", *enter_user, "--net"],
        }
        _connect(prefixes, second)
        for side, prefix in prefixes.items():
            _bring_up(prefix, side, bytes_per_second)
        yield ShapedLink(bytes_per_second, prefixes, ADDRESSES)


@contextmanager
def link_of_rate(bytes_per_second: int) -> Iterator[ShapedLink | None]:
    """Make a link for a rate; for 0 there is none.

    Raises:
        MigrationError: It cannot be had here; says why.
    """
    if not bytes_per_second:
        yield None
        return
    with shaped_link(bytes_per_second) as link:
        yield link


@contextmanager
def _holder(prefix: Sequence[str]) -> Iterator[int]:
    """Keep a process in the namespaces that a command line leads to; yield its pid."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-P", "-m", "scripts.processes.holder"],
        env={**package_environment(), PARENT_VARIABLE: str(os.getpid())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        # It says a word once it is in; before that its namespaces may not be there yet.
        if not process.stdout.readline():
            reason = process.stderr.read().decode(errors="replace").strip()
            raise MigrationError(f"no network namespace can be made: {reason}")
        yield process.pid
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def _connect(prefixes: dict[str, list[str]], dest_pid: int) -> None:
    here = prefixes["source"]
    _run([*here, _tool("ip"), "link", "add", "mig", "type", "veth", "peer", "name", "peer"])
    _run([*here, _tool("ip"), "link", "set", "peer", "netns", str(dest_pid)])
    _run([*prefixes["dest"], _tool("ip"), "link", "set", "peer", "name", "mig"])


def _bring_up(prefix: list[str], side: str, bytes_per_second: int) -> None:
    ip, tc = [*prefix, _tool("ip")], [*prefix, _tool("tc")]
    _run([*ip, "address", "add", f"{ADDRESSES[side]}/{_PREFIX_BITS}", "dev", "mig"])
    _run([*ip, "link", "set", "lo", "up"])
    _run([*ip, "link", "set", "mig", "up"])
    shape = ["qdisc", "add", "dev", "mig", "root", "tbf", "rate", f"{bytes_per_second * 8}bit"]
    _run([*tc, *shape, "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms"])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TOOL_SECONDS_MAX, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        raise MigrationError(f"{' '.join(command)} did not end") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise MigrationError(f"{' '.join(command[-6:])} failed: {reason[-1] if reason else '?'}")


def _path_of(tool: str) -> str | None:
    """Return where a tool is; an ordinary user's PATH often lacks the folders for root's."""
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin:/usr/local/sbin")


def _tool(tool: str) -> str:
    path = _path_of(tool)
    assert path is not None, "shaped_link looks for all of them first"
    return path
