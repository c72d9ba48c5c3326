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
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from protocol.errors import MidstreamError
from protocol.units import parse_bytes, parse_duration_ms, parse_geometry, parse_rate

if TYPE_CHECKING:
    # A side that was started reads no options, and does not wait for what does.
    import click

    from scripts.options import Option

    # What a command can be given: its metavar tells the kind of its value, and its use, where it
    # has one, what becomes of the file that it names.
    Parameter: TypeAlias = click.Parameter | Option

Plain = dict[str, Any]
# Makes of what was typed what a report says.
Reader = Callable[[str], Any]

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
        values: All its options and arguments, by their names in Python.
        given: The names of those that were typed.
        kinds: What each value is called in the help: SIZE, RATE, TIME; empty for a switch.
        written: The names of those that say where results go.
        started_s: When it began, in seconds since 1970.
        load_average: Processes that ran or wanted to, over 1, 5 and 15 minutes, before it began.
    """

    command: str
    values: Mapping[str, Any]
    given: Collection[str]
    kinds: Mapping[str, str]
    written: Collection[str]
    started_s: float = field(default_factory=time.time)
    load_average: tuple[float, ...] = field(default_factory=os.getloadavg)

    @cached_property
    def plain(self) -> Plain:
        """The part of a report about it."""
        asked = {name: value for name, value in self.values.items() if name not in self.written}
        typed = {name: _text(value) for name, value in self.values.items() if name in self.given}
        return {
            "command": self.command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started_s)),
            "options": {
                "given": {_key(name): typed[name] for name in typed if name in asked},
                "resolved": resolved(asked, self.kinds),
            },
            "outputs": {_key(name): typed[name] for name in typed if name not in asked},
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
    return Run(
        command,
        {name: values[name] for name in known if name in values},
        given,
        {name: getattr(each, "metavar", None) or "" for name, each in known.items()},
        {name for name, each in known.items() if name in _SHOWN or _use(each) in _WRITTEN},
    )


_run: Run | None = None


def begin_run(run: Run) -> None:
    """Say what this process was asked to do; reports that it writes from now on have it."""
    global _run  # noqa: PLW0603 - a process runs one command
    _run = run


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


def resolved(values: Mapping[str, Any], kinds: Mapping[str, str]) -> Plain:
    """Return every option with the value that it has, in one unit for each kind.

    Sizes are bytes, rates bytes a second, times milliseconds; the unit is the end of the key.  What
    `auto` came to is not said here: it may be another on another machine, and has its own field.

    Args:
        values: By their names in Python, as typed or by default.
        kinds: What each is called in the help.
    """
    plain: Plain = {}
    for name, value in values.items():
        unit, read = _UNITS.get(name) or _UNITS.get(kinds.get(name, ""), ("", printable))
        plain[_key(name) + unit] = None if value is None else _read(read, value)
    plain |= _blocks(values)
    if "postcopy_after" in values and values["postcopy_after"] is None:
        # Imported late: whoever has options has it by now.
        from scripts.options import postcopy_after_of  # noqa: PLC0415

        plain["postcopy-after"] = _number(postcopy_after_of(values))
    return plain | _switches(values.get("policy"))


def _read(read: Reader, value: Any) -> Any:  # noqa: ANN401 - of whatever kind
    """Return what a value means, as it was typed if it means nothing: then it is refused."""
    try:
        if isinstance(value, str):
            return read(value)
    except MidstreamError:
        pass
    return _text(value)


def _sizes(text: str) -> list[int]:
    return [parse_bytes(size) for size in text.split(",")]


def _names(text: str) -> list[str]:
    return [printable(name.strip()) for name in text.split(",") if name.strip()]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return printable(text)


def _numbers(text: str) -> list[int | float | str]:
    return [_number(each) for each in text.split(",")]


def _time_ms(text: str) -> float:
    return 0 if text == "0" else parse_duration_ms(text)


def _size(text: str) -> int:
    return parse_geometry(text, "4KiB").length_bytes


def _link(text: str) -> Plain | None:
    from scripts.links.spec import parse_link  # noqa: PLC0415

    spec = parse_link(text)
    if not spec:
        return None
    told: Plain = {"bytes-per-second": spec.bytes_per_second, "queue": spec.queue or "auto"}
    return told | {"rtt-ms": spec.rtt_us / 1000, "loss": spec.loss}


# By an option's name, or by what its value is called: the end of the key, and who reads it.
_UNITS: Mapping[str, tuple[str, Reader]] = {
    "size": ("-bytes", _size),
    "access_rate": ("-per-second", _numbers),
    "SIZE": ("-bytes", parse_bytes),
    "SIZES": ("-bytes", _sizes),
    "RATE": ("-bytes-per-second", parse_rate),
    "TIME": ("-ms", _time_ms),
    "N": ("", _number),
    "RATIO": ("", _number),
    "NAMES": ("", _names),
    "RATE[,...]": ("", _link),
}


def _blocks(values: Mapping[str, Any]) -> Plain:
    size, page_size = values.get("size"), values.get("page_size")
    if not (isinstance(size, str) and isinstance(page_size, str)):
        return {}
    try:
        blocks = parse_geometry(size, page_size).blocks
    except MidstreamError:
        return {}
    return {
        "blocks": [
            {"name": block.name, "length-bytes": block.length_bytes, "page-bytes": block.page_bytes}
            for block in blocks
        ]
    }


def _switches(policy: object) -> Plain:
    """Return what a policy's name stands for: another version may mean something else by it."""
    from scripts.policies import WrongPolicy, policy_of  # noqa: PLC0415

    try:
        return (
            {"policy-switches": list(policy_of(policy).switches)} if isinstance(policy, str) else {}
        )
    except WrongPolicy:
        return {}


def _seed(value: object) -> int | None:
    seed = _number(str(value)) if value is not None else None
    return seed if isinstance(seed, int) else None


def _use(parameter: object) -> str:
    use = getattr(parameter, "use", None)
    return "" if use is None else str(use.value)


def _key(name: str) -> str:
    return name.replace("_", "-")


def _text(value: Any) -> Any:  # noqa: ANN401 - what JSON has
    """Return a value as JSON has it, what is a text as it was typed."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (tuple, list)):
        return [_text(each) for each in value]
    return printable(os.fspath(value) if isinstance(value, os.PathLike) else str(value))


def printable(text: str) -> str:
    """Return a text that any reader of JSON takes; a file's name may have bytes of no character."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
