"""Everything about a run that is not a decision: what a machine and a kernel take, and hold.

A model is numbers alone, so that two runs differ in nothing else.  `reference` is the machine that
the project's own figures are of, `native` what the same engines might cost in compiled code, and
`midstream calibrate` measures those of this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from typing import Any

from protocol.errors import LocalProtocolError
from protocol.text import did_you_mean, quoted

SCHEMA = "midstream-model/1"
REFERENCE, NATIVE, THIS_MACHINE = "reference", "native", "this-machine"
CONGESTION_CONTROLS = ("bbr", "cubic", "reno")

# Each side's processor costs for a fault; what copies bytes and maps pages is apart.
SOURCE_COSTS = ("request_ns", "frame_ns", "write_ns")
DEST_COSTS = ("detect_ns", "fault_ns", "head_ns", "end_ns", "woke_ns")


@dataclass(frozen=True)
class Model:
    """Costs and sizes; times in nanoseconds, sizes in bytes.

    The defaults are `reference`: the stages of a fault that README.md tells of a quiet machine with
    two processors, and what probes of the kernel's buffers said there, on a link of 1 Gbit/s.

    Attributes:
        efficiency: Which share of a link's bytes is a stream's own: 1448 of a packet's 1514.
        round_trip_ns: Of a link without any delay of its own.
        loopback_bytes_per_second: What two processes carry without a link.
        congestion_control: Which TCP has; it matters where packets are lost.
        small_buffer_factor: What the kernel holds of a send buffer that was bounded, as a multiple
            of the bound; it doubles what it is told.
        fill: How full such a buffer is on average: it is filled again when half of it is free.
        bounded_share: Of two connections of one priority in one queue, which share of the link that
            one has whose send buffer was bounded, while the other's was not.
        default_buffer_bytes: What the kernel takes of a connection that was not bounded
            (net.ipv4.tcp_wmem).
        bounded_bytes_max: The most that a send buffer may be bounded to (net.core.wmem_max).
        receive_buffer_bytes: What waits at the other end until the process there reads it.
        window_ns: How much of an unbounded connection's bytes, in the link's time, lies in queues.
        fifo_bytes: In a plain FIFO, what lies of one connection in front of another that begins.
        packet_bytes: What goes in one piece, so that nothing overtakes it.
        access_ns: A vCPU's access, and what it does until the next.
        detect_ns: From a touch until the kernel has told of it.
        wake_ns: From a mapped page until the vCPU runs.
        late_ns: How late a process runs that slept.
        awake_ns: How long one looks for work before it sleeps.
        noise_ns: What other processes take of its time at each wake-up, on average.
        fault_ns: The destination's processor for each fault, to ask for its page.
        head_ns: Its processor for the head of a frame.
        end_ns: Its processor for the end of one.
        map_ns: Its processor to make 4 KiB touchable.
        woke_ns: Its processor for each vCPU that woke.
        copy_bytes_per_second: What either side's processor copies from or to sockets.
        request_ns: The source's processor for a page request.
        frame_ns: Its processor to make a frame.
        write_ns: Its processor for a system call that writes, and a turn of its event loop.
        message_ns: Either side's processor for any other message.
        crowding: How many times as late a fault is told of and a vCPU runs again with very many of
            them: they, both sides and the kernel have the machine's processors together.
        takeover_ns: Until vCPUs run, when they are told to.
        stop_ns: Until they stand still.
    """

    efficiency: float = 1448 / 1514
    round_trip_ns: int = 60_000
    loopback_bytes_per_second: int = 2_500_000_000
    congestion_control: str = "bbr"
    small_buffer_factor: float = 2.0
    fill: float = 0.75
    bounded_share: float = 0.5
    default_buffer_bytes: int = 4 << 20
    bounded_bytes_max: int = 4 << 20
    receive_buffer_bytes: int = 8 << 20
    window_ns: int = 2_160_000
    fifo_bytes: int = 130_320
    packet_bytes: int = 65_536
    access_ns: int = 1_200
    detect_ns: int = 30_000
    wake_ns: int = 50_000
    late_ns: int = 60_000
    awake_ns: int = 2_000_000
    noise_ns: int = 0
    fault_ns: int = 80_000
    head_ns: int = 40_000
    end_ns: int = 40_000
    map_ns: int = 600
    woke_ns: int = 30_000
    copy_bytes_per_second: int = 3_000_000_000
    request_ns: int = 60_000
    frame_ns: int = 60_000
    write_ns: int = 15_000
    message_ns: int = 20_000
    crowding: float = 0.0
    takeover_ns: int = 3_000_000
    stop_ns: int = 1_000_000

    def __post_init__(self) -> None:
        """Refuse what no machine has.

        Raises:
            LocalProtocolError: Says which value is wrong.
        """
        for name, value in asdict(self).items():
            if isinstance(value, str):
                if value not in CONGESTION_CONTROLS:
                    known = ", ".join(CONGESTION_CONTROLS)
                    raise LocalProtocolError(
                        f"{_typed(name)} {quoted(value)} is not one of {known}"
                    )
            elif not 0 <= value < 1 << 62 or (name in _POSITIVE and not value):
                raise LocalProtocolError(f"{_typed(name)} cannot be {value:g}")
        if not 0.5 < self.fill <= 1:
            raise LocalProtocolError(f"fill is from 0.5 to 1, not {self.fill:g}")
        if not 0 < self.bounded_share < 1:
            raise LocalProtocolError(
                f"bounded-share is between 0 and 1, not {self.bounded_share:g}"
            )

    @property
    def copy_ns_per_byte(self) -> float:
        """Either side's processor for a byte from or to a socket."""
        return 1e9 / self.copy_bytes_per_second

    def beside(self, vcpu_count: int) -> Model:
        """Return the model as it is for one of so many vCPUs.

        They delay each other, and cost a side no more: with four of them the link was as full as
        with one, while each fault took more than twice as long.
        """
        factor = 1 + self.crowding * (1 - 1 / vcpu_count)
        if factor == 1:
            return self
        names = ("detect_ns", "wake_ns")
        return replace(self, **{name: round(getattr(self, name) * factor) for name in names})

    def with_changes(self, changes: Iterable[str]) -> Model:
        """Return the model with some values changed, each given as NAME=VALUE.

        Raises:
            LocalProtocolError: There is no such name, or no such value.
        """
        model = self
        for change in changes:
            name, equals, value = change.partition("=")
            if not equals:
                raise LocalProtocolError(f"{quoted(change)} is not NAME=VALUE")
            model = model_of({name.strip(): value.strip()}, model)
        return model

    def to_plain(self) -> dict[str, Any]:
        """Return it as reports and files have it."""
        return {_typed(name): value for name, value in asdict(self).items()}


# What is divided by.
_POSITIVE = frozenset(
    {
        "efficiency",
        "round_trip_ns",
        "copy_bytes_per_second",
        "loopback_bytes_per_second",
        "small_buffer_factor",
        "default_buffer_bytes",
        "bounded_bytes_max",
        "receive_buffer_bytes",
        "window_ns",
        "access_ns",
        "takeover_ns",
    }
)

# What compiled code takes for the same: what the kernel does of it, and memory's speed.  These are
# assumptions, and nobody's measurements but for what is the kernel's alone.
_NATIVE = Model(
    access_ns=100, detect_ns=5_000, wake_ns=10_000, late_ns=10_000, awake_ns=50_000,
    fault_ns=5_000, head_ns=2_000, end_ns=2_000, map_ns=254, woke_ns=2_000,
    copy_bytes_per_second=12_500_000_000,
    request_ns=3_000, frame_ns=2_000, write_ns=3_000, message_ns=2_000, takeover_ns=1_000_000,
    stop_ns=200_000, loopback_bytes_per_second=10_000_000_000,
    default_buffer_bytes=512 << 20, bounded_bytes_max=512 << 20, receive_buffer_bytes=512 << 20,
)  # fmt: skip

BUILT_IN: Mapping[str, Model] = {REFERENCE: Model(), NATIVE: _NATIVE}


def model_of(plain: Mapping[str, object], base: Model) -> Model:
    """Return a model with values as files and `--set` name them.

    Raises:
        LocalProtocolError: There is no such name, or no such value.
    """
    kinds = {each.name: type(getattr(base, each.name)) for each in fields(Model)}
    changes: dict[str, Any] = {}
    for typed, value in plain.items():
        name = typed.replace("-", "_")
        if name not in kinds:
            known = {_typed(each): each for each in kinds}
            raise LocalProtocolError(
                f"a model has no {quoted(typed)}{did_you_mean(typed, known)}; "
                f"it has {', '.join(known)}"
            )
        changes[name] = _value(typed, value, kinds[name])
    return replace(base, **changes)


def _value(name: str, value: object, kind: type) -> str | int | float:
    if kind is str:
        return str(value)
    try:
        number = float(value) if isinstance(value, (int, float, str)) else float("nan")
    except ValueError:
        number = float("nan")
    if isinstance(value, bool) or not isfinite(number):
        raise LocalProtocolError(f"{name}: {quoted(str(value))} is no number")
    if kind is float:
        return number
    if number != int(number):
        raise LocalProtocolError(f"{name}: {number:g} is no whole number")
    return int(number)


def _typed(name: str) -> str:
    return name.replace("_", "-")
