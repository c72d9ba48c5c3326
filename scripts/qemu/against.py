"""A real QEMU beside midstream's policies: what `--against` names, and one run of it.

The destination, the link and the accesses are those of the policies; the source alone is QEMU.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from scripts.links.link import Link
from scripts.qemu.command import PROGRAM
from scripts.qemu.pair import run_pair
from scripts.runtime.looping import run_until_signalled

# The rows of a QEMU, and the option of `midstream qemu` that makes each.
ROWS = {"qemu": "--no-preempt", "qemu-preempt": "--preempt"}

# What a migration's options say of its source, and of its destination.
_OF_SOURCE = ("size", "page-size", "seed")
_OF_DEST = ("program", "vcpus", "access-rate", "events")

# It prints a line and loads no machine.
_VERSION_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class Peer:
    """A QEMU that can be started.

    Attributes:
        program: Its name or path.
        title: What it is and which version, for a person.
    """

    program: str
    title: str


def peer_of(against: str | None) -> Peer | None:
    """Return the QEMU that --against names, None if there is none.

    Raises:
        click.BadParameter: It names something else, or what cannot be started.
    """
    if against is None:
        return None
    name, _, program = against.partition("=")
    if name != "qemu":
        raise click.BadParameter(f"{against[:60]!r} is not qemu", param_hint="--against")
    program = program or PROGRAM
    if shutil.which(program) is None:
        raise click.BadParameter(f"there is no program {program}", param_hint="--against")
    return Peer(program, f"QEMU {_version_of(program)}")


def run_qemu(
    peer: Peer, row: str, options: Mapping[str, str], folder: Path, link: Link
) -> dict[str, Any]:
    """Migrate out of a QEMU as `run_migration` does out of midstream's source; return the report.

    Args:
        peer: Which QEMU.
        row: One of ROWS.
        options: As `run_migration` takes them; QEMU has no use for some.
        folder: Where the report may be written.
        link: What lies between the two.

    Raises:
        MigrationError: One of the two has failed.
    """
    report = folder / "qemu-report.json"
    arguments = (
        [f"--qemu={peer.program}", ROWS[row], *_arguments(options, _OF_SOURCE)],
        [f"--report={report}", *_arguments(options, _OF_DEST)],
    )
    run_until_signalled(partial(run_pair, *arguments, link))
    told: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return told


def _arguments(options: Mapping[str, str], names: tuple[str, ...]) -> list[str]:
    return [f"--{name}={options[name]}" for name in names if name in options]


def _version_of(program: str) -> str:
    try:
        told = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_VERSION_SECONDS_MAX,
            check=False,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "it does not end"
        raise click.BadParameter(f"{program}: {reason}", param_hint="--against") from error
    version = re.match(r"QEMU emulator version ([0-9.]{1,20})", told)
    if version is None:
        raise click.BadParameter(f"{program} is no QEMU", param_hint="--against")
    return version[1]
