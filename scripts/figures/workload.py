"""The accesses of a comparison's guest: by a trace, or by a program as in `midstream migrate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from scripts.configure import source_config
from scripts.options import OPTIONS, PROGRAM_DEFAULT
from scripts.screen.words import counted

# Beside the vCPUs that fault without pause there is one that faults every 20 ms: the one that is
# hurt by what the others do.
_SLOW_RATE = 50

_DEFAULTS = {option.name: option.default for option in OPTIONS}


@dataclass(frozen=True)
class Workload:
    """The accesses of a guest's vCPUs in every run of a comparison.

    Attributes:
        program: As in migrate; None for a trace.
        vcpu_count: How many there are.
        access_rate, write_ratio, postcopy_after: As migrate's options have them.
        title: For a person.
    """

    program: str | None
    vcpu_count: int
    access_rate: str
    write_ratio: str
    postcopy_after: str
    title: str

    @classmethod
    def of(cls, values: Mapping[str, str | None], vcpus: int, *, traced: bool) -> Workload:
        """Return what the options of `compare` say.

        Args:
            values: `program`, `access_rate`, `write_ratio` and `postcopy_after`; None for none.
            vcpus: Busy ones; by a trace there is one more, which is slow.
            traced: There is a trace of the user's own.

        Raises:
            click.BadParameter: There is a program, too.
        """
        program, rate, ratio = (values[key] for key in ("program", "access_rate", "write_ratio"))
        if program is not None and traced:
            raise click.BadParameter(
                "it goes instead of --accesses, not with it", param_hint="--program"
            )
        after = values["postcopy_after"] or "0"
        if program is not None:
            return cls(
                program, vcpus, rate or str(_DEFAULTS["access_rate"]),
                ratio or str(_DEFAULTS["write_ratio"]), after,
                f"{counted(vcpus, 'vCPU', 'vCPUs')}, {program}",
            )  # fmt: skip
        rates = ",".join(["0"] * vcpus + [str(_SLOW_RATE)])
        title = f"{counted(vcpus, 'busy vCPU', 'busy vCPUs')} and a slow one"
        return cls(None, vcpus + 1, rate or rates, ratio or "0", after, title)

    def check(self, size: str, page_size: str, seed: int, guest: str, *, with_qemu: bool) -> None:
        """Refuse what the first run would refuse, or that of a QEMU.

        Raises:
            click.BadParameter: An option's value is none that it can have.
        """
        if with_qemu and not self.postcopy_after.isdigit():
            raise click.BadParameter(
                "a QEMU's postcopy has to come after a number of passes", param_hint="--against"
            )
        source_config(
            {
                **_DEFAULTS, "size": size, "page_size": page_size, "guest": guest,
                "checksum": False, "seed": str(seed), "start_paused": False,
                "program": self.program or PROGRAM_DEFAULT,
                "vcpus": str(self.vcpu_count), "access_rate": self.access_rate,
                "write_ratio": self.write_ratio, "postcopy_after": self.postcopy_after,
            }
        )  # fmt: skip

    def options(self, trace: Path | str) -> dict[str, str]:
        """Return migrate's options for it.

        Args:
            trace: The trace that is replayed where there is no program.
        """
        # Where precopy comes first, the guest has to run before it.
        paused = {"start-paused": ""} if self.postcopy_after == "0" else {}
        return {
            "program": self.program or f"trace:{trace}", "vcpus": str(self.vcpu_count),
            "access-rate": self.access_rate, "write-ratio": self.write_ratio,
            "postcopy-after": self.postcopy_after, **paused,
        }  # fmt: skip
