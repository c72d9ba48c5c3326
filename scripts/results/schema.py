"""The JSON Schema of all that `--report` writes, which is installed beside this module.

A number refers to the definition of its unit (`#/$defs/microseconds`), so that nobody has to guess.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

FILE_NAME = "report.schema.json"


def read_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12)."""
    text = files("scripts.results").joinpath(FILE_NAME).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
