"""Reads the [[step]] tables of a scenario file: scripted faults and the moments they happen at.

[[step]]
when = { page = 5, received = 0.25 }   # the first moment a quarter of page 5 is here
fault = [9]                            # vCPUs touch these pages, in this order
[[step]]
when = { requested = 9 }               # also: placed = 9
fault = [5, "rom:3"]                   # a page of another RAMBlock than the first: "INDEX:PAGE"
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from dest.script import Step
from protocol.errors import LocalProtocolError
from protocol.geometry import PageId


def read_steps(path: Path) -> tuple[Step, ...]:
    """Return the steps of a file.

    Raises:
        LocalProtocolError: The file cannot be read, or a step is wrong: which, and why.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LocalProtocolError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LocalProtocolError(f"{path}: {error}") from error
    steps = table.get("step", [])
    if not isinstance(steps, list):
        raise LocalProtocolError(f"{path}: step is not an array of tables, write [[step]]")
    return tuple(_step(step, f"{path}: step {number}") for number, step in enumerate(steps, 1))


def _step(step: Any, where: str) -> Step:  # noqa: ANN401 - whatever the file holds
    if not isinstance(step, dict) or set(step) != {"when", "fault"}:
        raise LocalProtocolError(f"{where}: a step has exactly `when` and `fault`")
    when, faults = step["when"], step["fault"]
    if not isinstance(faults, list) or not faults:
        raise LocalProtocolError(f"{where}: fault is not a list of pages")
    pages = tuple(_page(fault, where) for fault in faults)
    if not isinstance(when, dict):
        raise LocalProtocolError(f"{where}: when is not a table")
    match when:
        case {"page": page, "received": share, **rest} if not rest:
            if not isinstance(share, (int, float)) or not 0 < share <= 1:
                raise LocalProtocolError(f"{where}: received is not a share over 0 to 1")
            return Step("received", _page(page, where), pages, float(share))
        case {"requested": page, **rest} if not rest:
            return Step("requested", _page(page, where), pages)
        case {"placed": page, **rest} if not rest:
            return Step("placed", _page(page, where), pages)
    raise LocalProtocolError(
        f"{where}: when is none of {{page, received}}, {{requested}} and {{placed}}"
    )


def _page(value: object, where: str) -> PageId:
    """Return a page of the first block, given by its index, or of another as "BLOCK:PAGE"."""
    if type(value) is int and value >= 0:
        return PageId(0, value)
    if isinstance(value, str):
        block, colon, page = value.partition(":")
        if colon and block.isdigit() and page.isdigit():
            return PageId(int(block), int(page))
    raise LocalProtocolError(f'{where}: {value!r} is no page: a number, or "BLOCK:PAGE"')
