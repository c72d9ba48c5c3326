"""Scenarios between two real QEMUs: both are started here, with a relay between them.

versions = "7"                    # of QEMU, that this is about: "7", "8-", "7-9"
[source]
qemu = "qemu-system-x86_64"       # also: accel, preempt
[dest]
qemu = "qemu-system-x86_64"
[migration]
size = "48MiB"                    # also: page-size, seed, window, max-postcopy-bandwidth, recover
[[step]]
when = { page = "ram:6", byte = 409600 }      # the moments and actions of `midstream relay`
fault = ["ram:15", "ram:6"]       # these pages of the destination are touched, in this order
[expect]
dest = "completed"                # as query-migrate says, or how the process has ended
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protocol.errors import LocalProtocolError
from protocol.geometry import Geometry
from protocol.units import parse_bytes, parse_geometry, parse_rate
from scripts.injection.scenario_text import ScenarioError, Where, read_toml
from scripts.qemu.command import ACCELS
from scripts.relay.steps import Step, steps_of

_SECTIONS = (
    "name", "about", "versions", "timeout", "settle", "source", "dest", "migration", "step",
    "expect",
)  # fmt: skip
_MIGRATION = ("size", "page-size", "seed", "window", "max-postcopy-bandwidth", "recover")
_EXPECT = (
    "source", "dest", "served", "channels", "memory-equal", "differing-bytes", "breaks",
    "source-states", "dest-states",
)  # fmt: skip

_VERSIONS = re.compile(r"(?P<first>[0-9]{1,3})(?P<open>-(?P<last>[0-9]{1,3})?)?")

_TIMEOUT_DEFAULT = "120s"


@dataclass(frozen=True, kw_only=True)
class End:
    """One of the two QEMUs: its executable, what runs its vCPU."""

    program: str
    accel: str


@dataclass(frozen=True, kw_only=True)
class PairScenario:
    """What is run, and what is expected.

    Attributes:
        versions: The first and the last of QEMU's major versions that this is about.
        timeout_seconds: When a run is ended from outside.
        settle_seconds: How long the states that are expected must last, for who never changes.
        preempt: Both have the capability postcopy-preempt.
        window_bytes: What each connection's sockets may hold, about; 0 for what the kernel lets.
        postcopy_bandwidth: Bytes a second of the background; 0 for no limit.
        recover: How often both are had to go on when both have paused.
        expect: What is expected, by the names in the file.
    """

    path: Path
    where: Where
    name: str
    versions: tuple[int, int]
    timeout_seconds: float
    settle_seconds: float
    source: End
    dest: End
    preempt: bool
    geometry: Geometry
    seed: int
    window_bytes: int
    postcopy_bandwidth: int
    recover: int
    steps: tuple[Step, ...]
    expect: Mapping[str, Any]


def is_pair(path: Path) -> bool:
    """Tell whether a file is a scenario between two QEMUs.

    Raises:
        ScenarioError: It cannot be read, or is no TOML.
    """
    table, _ = read_toml(path)
    return "dest" in table


def with_qemu(scenario: PairScenario, program: str | None) -> PairScenario:
    """Return a scenario with another QEMU at both ends; as it is for None."""
    if program is None:
        return scenario
    source, dest = (replace(end, program=program) for end in (scenario.source, scenario.dest))
    return replace(scenario, source=source, dest=dest)


def read_pair(path: Path) -> PairScenario:
    """Return the scenario of a file.

    Raises:
        ScenarioError: The file cannot be read, or is wrong: where, and why.
    """
    table, where = read_toml(path)
    where.check_keys(table, _SECTIONS, "a scenario between two QEMUs")
    tables = {key: table.get(key, {}) for key in ("source", "dest", "migration", "expect")}
    for key, value in tables.items():
        if not isinstance(value, dict):
            raise where.wrong(key, f"{key} is no table")
    migration, of_migration = tables["migration"], where.inside("migration")
    of_migration.check_keys(migration, _MIGRATION, "[migration]")
    where.inside("expect").check_keys(tables["expect"], _EXPECT, "[expect]")
    _check_expect(tables["expect"], where.inside("expect"))
    preempt = tables["source"].get("preempt", True)
    if type(preempt) is not bool:
        raise where.inside("source").wrong("preempt", "preempt is neither true nor false")
    try:
        geometry = parse_geometry(
            str(migration.get("size", "48MiB")), str(migration.get("page-size", "2MiB"))
        )
        window_bytes = parse_bytes(str(migration.get("window", "0")))
        rate = parse_rate(str(migration.get("max-postcopy-bandwidth", "0")))
    except LocalProtocolError as error:
        raise of_migration.wrong("", str(error)) from error
    timeout_ms = where.duration_ms("timeout", table.get("timeout", _TIMEOUT_DEFAULT), "timeout")
    settle_ms = where.duration_or_zero_ms("settle", table.get("settle", "0s"), "settle")
    return PairScenario(
        path=path,
        where=where,
        name=_text(table, "name", where),
        versions=_versions(table.get("versions", "7-"), where),
        timeout_seconds=timeout_ms / 1000,
        settle_seconds=settle_ms / 1000,
        source=_end(tables["source"], where.inside("source"), ("qemu", "accel", "preempt")),
        dest=_end(tables["dest"], where.inside("dest"), ("qemu", "accel")),
        preempt=preempt,
        geometry=geometry,
        seed=_whole(migration, "seed", of_migration),
        window_bytes=window_bytes,
        postcopy_bandwidth=rate,
        recover=_whole(migration, "recover", of_migration),
        steps=steps_of(table, where),
        expect=tables["expect"],
    )


def _end(table: Mapping[str, Any], where: Where, keys: tuple[str, ...]) -> End:
    where.check_keys(table, keys, f"[{where.section}]")
    program, accel = table.get("qemu"), table.get("accel", "auto")
    if not isinstance(program, str) or not program or not program.isprintable():
        raise where.wrong("qemu", "qemu is not the name of QEMU's executable")
    if accel not in ACCELS:
        raise where.wrong("accel", f"accel {accel!r} is none of {', '.join(ACCELS)}")
    return End(program=program, accel="kvm:tcg" if accel == "auto" else str(accel))


def _text(table: Mapping[str, Any], key: str, where: Where) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise where.wrong(key, f"a scenario has a {key}, a line of text")
    return value


def _whole(table: Mapping[str, Any], key: str, where: Where) -> int:
    value = table.get(key, 0)
    if type(value) is not int or value < 0:
        raise where.wrong(key, f"{key} = {value!r} is not a whole number from 0")
    return value


def _versions(value: object, where: Where) -> tuple[int, int]:
    match = _VERSIONS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise where.wrong("versions", f'versions = {value!r} is not such as "7", "8-" or "7-9"')
    first = int(match["first"])
    if not match["open"]:
        return first, first
    return first, int(match["last"] or 999)


def _check_expect(expect: Mapping[str, Any], where: Where) -> None:
    kinds: dict[str, type | tuple[type, ...]] = {
        "source": str, "dest": str, "served": list, "channels": dict, "memory-equal": bool,
        "differing-bytes": int, "breaks": int, "source-states": list, "dest-states": list,
    }  # fmt: skip
    for key, value in expect.items():
        if not isinstance(value, kinds[key]):
            raise where.wrong(key, f"{key} = {value!r} is nothing that can be expected")
    if not expect:
        raise ScenarioError(f"{where.path}:1: a scenario expects something, in [expect]")
