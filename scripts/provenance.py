"""Provenance of a report: the command and its options, the versions, the machine.

A command says once, before it does anything, what it was asked (`begin_run`); every report that
this process writes then has it (`describe`).  The part `options` depends on the options alone, so
that runs can be grouped by it; where results go is kept apart, in `outputs`.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from scripts.file_digests import Digest, digests_of
from scripts.resolved import key_of, number_of, resolved, text_of

if TYPE_CHECKING:
    # A side that was started reads no options, and does not wait for what does.
    import click

    from scripts.options import Option

    # What a command can be given: its metavar tells the kind of its value, and its use, where it
    # has one, what becomes of the file that it names.
    Parameter: TypeAlias = click.Parameter | Option

Plain = dict[str, Any]

# The libraries whose version may change a result.
_LIBRARIES = ("midstream", "trio", "msgpack", "numpy")

# Options that say where something goes, or is shown, and change nothing else.
_SHOWN = frozenset({"serve", "quiet", "verbose"})
# The uses of a file (`scripts.named_files.Use`) by which it is a result.
_WRITTEN = frozenset({"write", "save", "fill"})


@dataclass(frozen=True)
class Run:
    """A command that this process runs, as it was asked.

    Attributes:
        command: Its name: `migrate`, `trace import`.
        parameters: All that it can be given, by their names in Python.
        values: What it was given, or does without, by the same names.
        given: The names of those that were typed.
        started_s: When it began, in seconds since 1970.
        load_average: Processes that ran or wanted to, over 1, 5 and 15 minutes, before it began.
    """

    command: str
    parameters: Mapping[str, Parameter]
    values: Mapping[str, Any]
    given: Collection[str]
    started_s: float = field(default_factory=time.time)
    load_average: tuple[float, ...] = field(default_factory=os.getloadavg)

    @cached_property
    def digests(self) -> dict[str, Digest]:
        """The digests of the files that it reads, as they are when it is asked first."""
        return digests_of(self.parameters.values(), self.values)

    @cached_property
    def plain(self) -> Plain:
        """The part of a report about it."""
        keys = {name: _typed_name(each, name) for name, each in self.parameters.items()}
        kinds = {n: getattr(each, "metavar", None) or "" for n, each in self.parameters.items()}
        written = {
            name
            for name, each in self.parameters.items()
            if name in _SHOWN or _use(each) in _WRITTEN
        }
        asked = {name: value for name, value in self.values.items() if name not in written}
        typed = {name: text_of(value) for name, value in self.values.items() if name in self.given}
        options = resolved(asked, kinds, keys)
        if self.digests:
            digests = {keys[name]: digest for name, digest in self.digests.items()}
            options["files-sha256"] = digests
        return {
            "command": self.command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started_s)),
            "options": {
                "given": {keys[name]: typed[name] for name in typed if name in asked},
                "resolved": options,
            },
            "outputs": {keys[name]: typed[name] for name in typed if name not in asked},
            "seed": _seed(self.values.get("seed")),
            "versions": versions(),
            "machine": {**machine(), "load-average": list(self.load_average)},
        }


def run_of(
    command: str, parameters: Iterable[Parameter], values: Mapping[str, Any], given: Collection[str]
) -> Run:
    """Return a run as it was asked.

    Args:
        command: Its name.
        parameters: All that it can be given.
        values: What it was given, or does without, by the parameters' names.
        given: The names of those that were typed.
    """
    known = {parameter.name or "": parameter for parameter in parameters}
    return Run(command, known, {name: values[name] for name in known if name in values}, given)


def _typed_name(parameter: Parameter, name: str) -> str:
    """Return what is typed for a parameter, without dashes: of an argument its name."""
    flags: Sequence[str] = getattr(parameter, "opts", ())
    return next((flag[2:] for flag in flags if flag.startswith("--")), key_of(name))


_run: Run | None = None


def begin_run(run: Run) -> None:
    """Say what this process was asked to do; reports that it writes from now on have it."""
    global _run  # noqa: PLW0603 - a process runs one command
    _run = run
    if run.values.get("report") is not None:
        # Files may change until it is written.
        _ = run.digests


def end_run() -> None:
    """Forget what this process was asked, for one that goes on to something else."""
    global _run  # noqa: PLW0603 - as above
    _run = None


def describe(report: Plain, run: Run | None = None) -> Plain:
    """Return a report with its provenance, if that is known and the report has none.

    It stands in the object `midstream` where there is one: what is beside that is QEMU's.

    Args:
        report: What is to be written.
        run: What was run; None for the command of this process.
    """
    run = run or _run
    if run is not None:
        own = report if "schema" in report else report.setdefault("midstream", {})
        own.setdefault("run", run.plain)
    return report


def versions() -> dict[str, str | None]:
    """Return the versions of what runs here; None for what is not installed.

    The names of the folders that installations leave are read: `importlib.metadata` takes longer to
    load than a small guest to migrate.
    """
    found: dict[str, str | None] = dict.fromkeys(_LIBRARIES)
    pattern = re.compile(rf"({'|'.join(_LIBRARIES)})-([^-]+)\.dist-info")
    for folder in reversed(sys.path):
        try:
            names = [path.name for path in Path(folder or ".").iterdir()]
        except OSError:
            continue
        found |= {match[1]: match[2] for match in map(pattern.fullmatch, names) if match}
    return {**found, "python": platform.python_version(), "kernel": platform.release()}


def machine() -> Plain:
    """Return what this machine is."""
    return {
        "cpus": os.cpu_count() or 1,
        "cpu-model": _cpu_model(),
        "memory-bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return models[0] if models else platform.machine()


def _seed(value: object) -> int | None:
    seed = number_of(str(value)) if value is not None else None
    return seed if isinstance(seed, int) else None


def _use(parameter: object) -> str:
    use = getattr(parameter, "use", None)
    return "" if use is None else str(use.value)
