"""Reports in tests: held to the schema, with no field that it does not tell of."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from scripts.results.schema import read_schema

Plain = dict[str, Any]


def closed(schema: Any) -> Any:  # noqa: ANN401 - what JSON holds
    """Return a schema whose objects have no fields but those that it names.

    The one that is installed leaves room for fields of later versions; one that this version writes
    has to be told of.
    """
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    shut = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        shut.setdefault("additionalProperties", False)
    return shut


@cache
def validator() -> Draft202012Validator:
    """Return what checks a report of this version."""
    return Draft202012Validator(closed(read_schema()))


def expect_valid(report: Plain) -> Plain:
    """Return a report that is as the schema says; fail with the place where it is not."""
    error = best_match(validator().iter_errors(report))
    assert error is None, f"{error.json_path}: {error.message[:500]}"
    return report


def read_report(path: Path) -> Plain:
    """Return the report of a file, which is as the schema says."""
    report: Plain = json.loads(path.read_text(encoding="utf-8"))
    return expect_valid(report)


def run_of(report: Plain) -> Plain:
    """Return what a report says was run."""
    run: Plain = (report if "schema" in report else report["midstream"])["run"]
    return run
