"""Reports of every kind are as the schema says; a number has the unit that its name tells."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from protocol.report import STAGES
from scripts.results.schema import read_schema
from tests.processes import ROOT, Lab
from tests.reports import expect_valid, read_report, run_of, validator

SMALL = ("--size=4MiB", "--page-size=4KiB", "--vcpus=1", "--access-rate=100", "--quiet")

# By the end of a field's name, the unit that it has.
SUFFIXES = {
    "-us": "microseconds",
    "-ms": "milliseconds",
    "-bytes": "bytes",
    "-bytes-per-second": "bytes-per-second",
    "-share": "share",
    "link-share": "share-of-rate",
    "-count": "count",
}
# QEMU's fields tell no unit by their names.
QEMUS = {
    "total-time": "milliseconds", "downtime": "milliseconds", "setup-time": "milliseconds",
    "expected-downtime": "milliseconds", "postcopy-blocktime": "milliseconds",
    "postcopy-latency": "nanoseconds", "postcopy-vcpu-latency": "nanoseconds",
    "mbps": "megabits-per-second", "page-size": "bytes", "transferred": "bytes",
    "remaining": "bytes", "total": "bytes",
}  # fmt: skip
UNITS = frozenset(
    {
        *("count", "bytes", "bytes-per-second", "per-second", "milliseconds", "microseconds"),
        *("nanoseconds", "seconds", "megabits-per-second", "share", "share-of-rate"),
        *("processes", "figure", "factor"),
    }
)


def named(schema: Any, name: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - what JSON holds
    """Yield what is directly in a schema, each with the name of the field that it is about."""
    if isinstance(schema, list):
        yield from ((name, each) for each in schema)
        return
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key == "$defs":
            yield from ((title, each) for title, each in value.items() if title not in UNITS)
        elif key == "properties":
            yield from value.items()
        elif key == "patternProperties":
            yield from ((end.rpartition(")")[2].rstrip("$"), each) for end, each in value.items())
        else:
            yield name, value


def numbers(schema: Any, name: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - as above
    """Yield the field and the unit of every number; the unit is empty where none is told."""
    if isinstance(schema, dict):
        unit = str(schema.get("$ref", "")).removeprefix("#/$defs/")
        if schema.get("type") in {"number", "integer"} or unit in UNITS:
            yield name, unit
    for field, inner in named(schema, name):
        yield from numbers(inner, field)


def test_the_schema_is_one() -> None:
    """It keeps to its own standard, and is found where the package is installed."""
    Draft202012Validator.check_schema(read_schema())
    assert set(read_schema()["$defs"]) >= UNITS


def test_every_number_has_a_unit_and_a_name_has_one() -> None:
    """No number stands without a unit; its name's end, or QEMU's, tells which; none has two."""
    found: dict[str, set[str]] = {}
    for name, unit in numbers(read_schema()):
        assert unit, f"{name} has no unit"
        found.setdefault(name, set()).add(unit)
    assert len(found) > 60
    for name, units in found.items():
        ends = [end for end in SUFFIXES if name.endswith(end)]
        wanted = QEMUS.get(name) or (SUFFIXES[max(ends, key=len)] if ends else None)
        assert wanted is None or units == {wanted}, (name, units)
        assert len(units) == 1, f"{name} is {' and '.join(sorted(units))}"


def test_stages_are_all_told() -> None:
    """The schema knows the stages of a fault that reports have, and no others."""
    own = read_schema()["$defs"]["migration"]["properties"]["midstream"]
    assert tuple(own["properties"]["stages"]["properties"]) == STAGES


def test_what_the_schema_does_not_tell_is_found() -> None:
    """A field that is new, one of another type, and one that is missing are each a fault."""
    good: dict[str, Any] = {
        "status": "failed", "midstream": {"schema": "midstream-report/1", "reason": "why"},
    }  # fmt: skip
    expect_valid(good)
    own = good["midstream"]
    for wrong in (
        {**good, "new": 1},
        {**good, "midstream": {**own, "new": 1}},
        {**good, "midstream": {**own, "bytes-lost": -1}},
        {**good, "midstream": {**own, "downtime-ms": "1"}},
        {**good, "status": "completed"},
        {**good, "midstream": {"schema": "midstream-report/1"}},
        {**good, "midstream": {**own, "schema": "midstream-report/9"}},
    ):
        assert not validator().is_valid(wrong), wrong


def test_two_runs_with_equal_options_say_so(lab: Lab) -> None:
    """What was asked is equal however it came out and wherever it went; another seed is told."""
    told = []
    for name, seed in (("one", "7"), ("other", "7"), ("third", "8")):
        path = lab.folder / f"{name}.json"
        lab.run("migrate", *SMALL, f"--seed={seed}", f"--report={path}").succeed()
        told.append(run_of(read_report(path)))
    one, other, third = told
    assert one["options"] == other["options"] != third["options"]
    assert (one["seed"], third["seed"]) == (7, 8)
    assert one["outputs"] != other["outputs"]
    assert one["options"]["given"]["size"] == "4MiB"
    assert one["options"]["resolved"]["size-bytes"] == 4 << 20
    assert one["options"]["resolved"]["downtime-limit-ms"] == 300
    assert one["options"]["resolved"]["postcopy-after"] == 1
    assert all(one["versions"].values())


@pytest.mark.parametrize(
    ("scenario", "recoveries"),
    [("cut-in-postcopy", 1), ("kill-dest-in-postcopy", None), ("cut-in-precopy", None)],
)
def test_reports_of_scenarios(lab: Lab, scenario: str, recoveries: int | None) -> None:
    """A run that recovered, one that paused for good and one that failed: each kept, each whole."""
    file, path = ROOT / "tests" / "scenarios" / f"{scenario}.toml", lab.folder / "report.json"
    lab.run("inject", file, f"--report={path}", f"--keep={lab.folder}").succeed()
    (told,) = read_report(path)["scenarios"]
    (run,) = told["runs"]
    kept = read_report(lab.folder / f"{scenario}-1" / "report.json")
    assert run == {"number": 1, "met": True, "failures": [], "report": kept}
    assert run_of(kept)["command"] == "inject"
    assert run_of(kept)["options"]["given"] == given_in(file)
    if recoveries is None:
        assert kept["status"] == "failed"
    else:
        assert (kept["status"], kept["midstream"]["recoveries"]) == ("completed", recoveries)


def given_in(scenario: Path) -> dict[str, Any]:
    """Return the options that a scenario's file says, as texts but for switches."""
    options = tomllib.loads(scenario.read_text(encoding="utf-8"))["migration"]
    return {key: value if value is True else str(value) for key, value in options.items()}


def test_reports_of_storms(lab: Lab) -> None:
    """Each run says with which seed its connections were broken."""
    file, path = ROOT / "tests" / "scenarios" / "cut-in-postcopy.toml", lab.folder / "report.json"
    lab.run("inject", file, "--breaks=2", "--breaks-seed=5", f"--report={path}").succeed()
    (told,) = read_report(path)["scenarios"]
    assert [run["breaks-seed"] for run in told["runs"]] == [5, 6]


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no qemu-system-x86_64")
def test_reports_of_a_qemu(lab: Lab) -> None:
    """What QEMU says of itself, and what its destination says of it."""
    paths = [lab.folder / f"{side}.json" for side in ("source", "dest")]
    dest = lab.fork(
        "dest", "--listen=127.0.0.1:0", "--peer=qemu", "--quiet", f"--report={paths[1]}"
    )
    address = dest.listening()
    lab.run(
        "qemu", f"--connect={address}", "--size=4MiB", "--page-size=4KiB", "--quiet",
        f"--report={paths[0]}",
    ).succeed()  # fmt: skip
    assert dest.wait() == 0, dest.errors
    source, dest_report = map(read_report, paths)
    assert source["midstream"]["schema"] == "midstream-qemu/1"
    assert run_of(source)["command"] == "qemu"
    assert dest_report["midstream"]["peer"] == "qemu"
    assert run_of(dest_report)["options"]["given"]["peer"] == "qemu"
