"""What a guest may be made of, and what its vCPUs are to do.

The source says the latter, and the destination learns it.  The command line is checked with this,
in a process that has no guest: it takes neither NumPy nor the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import Geometry
from protocol.limits import VCPU_COUNT_MAX

if TYPE_CHECKING:
    from guest.trace import Trace

# The kind of its memory (guest/backing.py); "auto" takes the largest pages that can be had.
BACKING_CHOICES = ("auto", "hugetlb", "thp", "base")

# What runs its vCPUs: threads of an interpreter, threads that run machine code, or KVM.
PYTHON = "python"
NATIVE = "native"
KVM = "kvm"
KINDS = (KVM, NATIVE, PYTHON)
# "auto" takes the first of KINDS that can be had.
GUEST_CHOICES = ("auto", *KINDS)

# Who notes what the guest writes to: KVM, the kernel, or its vCPUs.
DIRTY_LOG_CHOICES = ("auto", "kvm", "kernel", "software")

# Those whose order of accesses guest/bands.py makes.
BAND_PROGRAMS = ("uniform", "sequential", "zipf", "hotspot")
PROGRAM_NAMES = (*BAND_PROGRAMS, "trace", "scripted")

# Ten times what a thread of this interpreter can do.
ACCESS_RATE_MAX = 1_000_000


@dataclass(frozen=True)
class ProgramSpec:
    """What the source says about the guest's program; the destination learns it in the handshake.

    Attributes:
        name: One of PROGRAM_NAMES.  "scripted" vCPUs touch only what `GuestHandle.touch` says.
        vcpu_count_max: The most that a guest may have.
        vcpu_count: 1 to that.
        access_rates: Accesses a second, one rate for all vCPUs or one each; 0: without pause.  A
            trace with times has its own.
        write_ratio: The share of accesses that also write, 0 to 1; a trace has its own.
        seed: 0 to 2**64 - 1; of the pattern and of all pseudo-random choices.
        image: The guest was filled from a file, not with the pattern, so that the first value of a
            word is unknown and reading it checks nothing.
        trace: The recorded accesses, for "trace" and only for it.
        kind: One of KINDS.

    Raises:
        LocalProtocolError: A value that no guest can have.
    """

    vcpu_count_max: ClassVar[int] = VCPU_COUNT_MAX

    name: str = "scripted"
    vcpu_count: int = 1
    access_rates: tuple[float, ...] = (0.0,)
    write_ratio: float = 0.0
    seed: int = 0
    image: bool = False
    trace: Trace | None = None
    kind: str = PYTHON

    def __post_init__(self) -> None:
        """Check every value's range."""
        if self.name not in PROGRAM_NAMES:
            raise LocalProtocolError(
                f"program {self.name!r} is not one of {', '.join(PROGRAM_NAMES)}"
            )
        if self.kind not in KINDS:
            raise LocalProtocolError(f"guest {self.kind!r} is not one of {', '.join(KINDS)}")
        if (self.trace is not None) != (self.name == "trace"):
            raise LocalProtocolError("a trace belongs to the program 'trace' and only to it")
        if not 1 <= self.vcpu_count <= self.vcpu_count_max:
            raise LocalProtocolError(
                f"a guest has 1 to {self.vcpu_count_max} vCPUs, not {self.vcpu_count}"
            )
        if len(self.access_rates) not in {1, self.vcpu_count}:
            raise LocalProtocolError(
                f"{len(self.access_rates)} access rates are neither one nor one for each vCPU"
            )
        for rate in self.access_rates:
            if not 0 <= rate <= ACCESS_RATE_MAX:
                raise LocalProtocolError(
                    f"an access rate of {rate} is not from 0 to {ACCESS_RATE_MAX}"
                )
        if not 0 <= self.write_ratio <= 1:
            raise LocalProtocolError(f"a write ratio of {self.write_ratio} is not from 0 to 1")
        if not 0 <= self.seed < 1 << 64:
            raise LocalProtocolError(f"seed {self.seed} is not from 0 to 2**64 - 1")

    def access_rate(self, vcpu: int) -> float:
        """Return a vCPU's accesses a second; 0: without pause."""
        return self.access_rates[vcpu if len(self.access_rates) > 1 else 0]

    def to_plain(self) -> dict[str, Any]:
        """Return the spec as a dict of what msgpack can carry."""
        return {
            "name": self.name,
            "vcpu-count": self.vcpu_count,
            "access-rates": [float(rate) for rate in self.access_rates],
            "write-ratio": float(self.write_ratio),
            "seed": self.seed,
            "image": self.image,
            "trace": self.trace.to_plain() if self.trace else None,
            # A peer that knows one kind alone is not told of it.
            **({"kind": self.kind} if self.kind != PYTHON else {}),
        }

    @classmethod
    def from_plain(cls, plain: object, geometry: Geometry) -> ProgramSpec:
        """Return the spec that a peer sent, as `to_plain` made it, for a guest.

        Raises:
            RemoteProtocolError: It is none, or not one for this guest.
        """
        if isinstance(plain, dict):
            plain = {"kind": PYTHON, **plain}
        if not (isinstance(plain, dict) and plain.keys() == _PLAIN_TYPES.keys()):
            raise RemoteProtocolError("the guest's program has not the fields that it must have")
        for field, types in _PLAIN_TYPES.items():
            if type(plain[field]) not in types:
                raise RemoteProtocolError(f"the guest's program: {field} has the wrong type")
        trace = plain["trace"]
        if trace is not None:
            # Imported late: few guests follow a trace, and NumPy takes its time.
            from guest.trace import Trace  # noqa: PLC0415

            trace = Trace.from_plain(trace, geometry, plain["vcpu-count"])
        try:
            return cls(
                plain["name"],
                plain["vcpu-count"],
                _rates(plain["access-rates"]),
                plain["write-ratio"],
                plain["seed"],
                plain["image"],
                trace,
                plain["kind"],
            )
        except LocalProtocolError as error:
            raise RemoteProtocolError(f"the guest's program: {error}") from error


def _rates(plain: list[Any]) -> tuple[float, ...]:
    if any(type(rate) is not float for rate in plain):
        raise RemoteProtocolError("the guest's program: access-rates are not numbers")
    return tuple(plain)


_PLAIN_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "vcpu-count": (int,),
    "access-rates": (list,),
    "write-ratio": (float,),
    "seed": (int,),
    "image": (bool,),
    "trace": (dict, type(None)),
    "kind": (str,),
}
