"""The bond between a side and the process that started it, if one did.

A side ends with that process, even if it is killed.  It does what that process orders beside what
the user has said.  And it does not tell the user why it fails: it tells that process, over a pipe,
which hears of both sides and says the one thing that matters.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass

from protocol.errors import LocalProtocolError

# The process to end with.
PARENT_VARIABLE = "MIDSTREAM_PARENT_PID"
# The descriptor to write the reason to.
REASON_VARIABLE = "MIDSTREAM_REASON_FD"
# The file that it leaves for that process to read when it has ended.
LEFT_VARIABLE = "MIDSTREAM_LEFT_FD"

# The file that says what it is to do (`scripts/run_config.py`).
RUN_VARIABLE = "MIDSTREAM_RUN_FD"

# The orders that it has, as JSON.
ORDERS_VARIABLE = "MIDSTREAM_ORDERS"

# Read once: all are taken out of the environment, which other processes inherit.
_REASON_FD = int(os.environ.get(REASON_VARIABLE, "-1"))
_LEFT_FD = int(os.environ.get(LEFT_VARIABLE, "-1"))
_RUN_FD = int(os.environ.get(RUN_VARIABLE, "-1"))


@dataclass(frozen=True, kw_only=True)
class LinkNote:
    """The link between the two sides, as a report tells it.

    Attributes:
        kind: "namespaces" or "proxy".
        bytes_per_second: Its rate, each way.
        queue: What waits in front of it: the kernel's name of the queue, or fifo.
        rtt_us: How long a packet and its answer are on their way, microseconds beside the rate's.
        loss: Which share of packets is lost, each way.
    """

    kind: str
    bytes_per_second: int
    queue: str = "fifo"
    rtt_us: int = 0
    loss: float = 0.0

    def to_plain(self) -> dict[str, str | float]:
        """Return what a report says of it."""
        told: dict[str, str | float] = {
            "kind": self.kind, "bytes-per-second": self.bytes_per_second, "queue": self.queue
        }  # fmt: skip
        if self.rtt_us:
            told["rtt-ms"] = self.rtt_us / 1000
        if self.loss:
            told["loss"] = self.loss
        return told


@dataclass(frozen=True, kw_only=True)
class Orders:
    """Orders that this program gives a side that it starts, and no user ever does.

    Attributes:
        shares_events: Its events file has another writer: it appends to it.
        holds_events: That holds an earlier run's, which stay until this one has begun.
        tells_at_once: It writes each event before it does anything else, whoever reads.
        prints_table: It says at its end what came of it.
        columns: How wide the terminal is that this goes to; 0 if it is none that anybody knows of.
        link: What lies between the sides; None for nothing.
        spool: The path of a file where its events go, too, for whoever watches.
    """

    shares_events: bool = False
    holds_events: bool = False
    tells_at_once: bool = False
    prints_table: bool = True
    columns: int = 0
    link: LinkNote | None = None
    spool: str | None = None

    def to_environment(self) -> dict[str, str]:
        """Return what the environment of a process with these orders has."""
        return {} if self == Orders() else {ORDERS_VARIABLE: json.dumps(asdict(self))}


_orders = Orders()


def orders() -> Orders:
    """Return what this process is ordered; all as its user has said, where nobody started it."""
    return _orders


def obey(given: Orders) -> None:
    """Follow these orders from now on."""
    global _orders  # noqa: PLW0603 - a process has one parent
    _orders = given


def take_orders() -> None:
    """Obey the orders in the environment, if there are any; no other process inherits them.

    Raises:
        LocalProtocolError: They are none.
    """
    text = os.environ.pop(ORDERS_VARIABLE, None)
    if text is None:
        return
    # Late: whoever has no orders does not wait for it.
    import msgspec  # noqa: PLC0415

    try:
        obey(msgspec.json.decode(text.encode(errors="replace"), type=Orders))
    except msgspec.MsgspecError as error:
        raise LocalProtocolError(f"{ORDERS_VARIABLE}: no orders: {error}") from error


def has_listener() -> bool:
    """Whether the reason of a failure goes to the parent and not to the user."""
    return _REASON_FD >= 0


def tell_parent(reason: str) -> None:
    """Say why this side fails; call it once, at its end."""
    with contextlib.suppress(OSError):
        os.write(_REASON_FD, reason.encode(errors="replace"))


def handed_run() -> bytes | None:
    """Return what this process is to do; None where its command line says it.  Call it once."""
    if _RUN_FD < 0:
        return None
    with open(_RUN_FD, "rb") as file:
        return file.read()


def has_heir() -> bool:
    """Whether the parent reads what this side leaves, and says it with what the other side does."""
    return _LEFT_FD >= 0


def leave_to_parent(text: str) -> None:
    """Leave something that is not for the user; what was left before is replaced."""
    with contextlib.suppress(OSError):
        os.ftruncate(_LEFT_FD, 0)
        os.pwrite(_LEFT_FD, text.encode(), 0)


def follow_parent() -> None:
    """End with the process that the environment names, if it names one."""
    os.environ.pop(REASON_VARIABLE, None)
    os.environ.pop(LEFT_VARIABLE, None)
    os.environ.pop(RUN_VARIABLE, None)
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is not None:
        # Late: Ctrl-C must find its handler before anything else is loaded.
        from guest.libc import die_with_parent  # noqa: PLC0415

        die_with_parent(int(parent))
