"""Imports CSV: a header of column names, then an access a row.

    time,vcpu,block,address,access
    0.000125,0,ram,0x5000,w

Columns stand in any order, separated by commas, semicolons or tabs, and others are passed over.  A
row has an `address` (0x... or decimal) or a `page`, an index in pages of --page-size; if wanted a
`time` in seconds, or `time-ms`, `time-us` or `time-ns`; a `vcpu`, which is a number, or a `thread`
of any name; a `block`; and an `access`, which is r or w, read or write, load or store, 0 or 1.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from guest.access_line import WrongLineError
from protocol.limits import VCPU_COUNT_MAX
from scripts.traces.found import ADDRESS_MAX, Found, Wishes, parse_address, parse_clock, quoted

# Of each column: what it is called here and by others, and for a time what it counts in.
_TIMES_NS = {"time": 10**9, "time-ms": 10**6, "time-us": 1000, "time-ns": 1}
_NAMES = {
    "time": ("time", "time-s", "timestamp"),
    "time-ms": ("time-ms",),
    "time-us": ("time-us",),
    "time-ns": ("time-ns", "t-ns"),
    "vcpu": ("vcpu", "cpu"),
    "thread": ("thread", "tid"),
    "block": ("block", "ramblock"),
    "address": ("address", "addr"),
    "page": ("page",),
    "access": ("access", "rw", "type", "op", "write"),
}
MEANINGS = tuple(_NAMES)
_KINDS = {
    **dict.fromkeys(("", "r", "read", "load", "0", "false"), False),
    **dict.fromkeys(("w", "write", "store", "1", "true"), True),
}
_DELIMITERS = ",;\t"


def import_csv(lines: Iterator[str], wishes: Wishes) -> Iterator[Found]:
    """Yield an access a row.

    Raises:
        WrongLineError: A row is none, or the header names no place.
    """
    header = next(lines, "")
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        names = next(csv.reader([header], delimiter=delimiter, strict=True), [])
        columns = _columns(names, dict(wishes.columns))
        for row in csv.reader(lines, delimiter=delimiter, strict=True):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(names):
                raise WrongLineError(f"it has {len(row)} columns, and the header {len(names)}")
            cells = {meaning: row[index].strip() for meaning, index in columns.items()}
            yield _found(cells, wishes.page_bytes)
    except csv.Error as error:
        raise WrongLineError(str(error)) from error


def _columns(names: list[str], wished: dict[str, str]) -> dict[str, int]:
    """Return where each meaning's column stands."""
    plain = [name.strip().lower().replace("_", "-") for name in names]
    columns = {}
    for meaning, others in _NAMES.items():
        if meaning in wished:
            if wished[meaning] not in names:
                raise WrongLineError(f"no column is named {wished[meaning]!r}")
            columns[meaning] = names.index(wished[meaning])
            continue
        where = [plain.index(name) for name in others if name in plain]
        if where:
            columns[meaning] = where[0]
    if not {"address", "page"} & columns.keys():
        raise WrongLineError(
            f"the header names neither an address nor a page: {quoted(str(names))}"
        )
    if len(_TIMES_NS.keys() & columns.keys()) > 1:
        raise WrongLineError("the header names more than one time")
    return columns


def _found(cells: dict[str, str], page_bytes: int) -> Found:
    unit = next((name for name in _TIMES_NS if name in cells), None)
    kind = cells.get("access", "").lower()
    if kind not in _KINDS:
        raise WrongLineError(f"{quoted(kind)} is neither a read nor a write")
    return Found(
        address=_address(cells, page_bytes),
        time_ns=None if unit is None else parse_clock(cells[unit], _TIMES_NS[unit]),
        owner=_owner(cells),
        block=cells.get("block", ""),
        is_write=_KINDS[kind],
    )


def _address(cells: dict[str, str], page_bytes: int) -> int:
    if "address" in cells:
        return parse_address(cells["address"])
    address = parse_address(cells["page"]) * page_bytes
    if address > ADDRESS_MAX:
        raise WrongLineError(f"{quoted(cells['page'])} is not a page index")
    return address


def _owner(cells: dict[str, str]) -> int | str:
    if "vcpu" not in cells:
        return f"thread {cells['thread']}" if "thread" in cells else 0
    text = cells["vcpu"]
    if not (text.isascii() and text.isdigit() and len(text) < 4 and int(text) < VCPU_COUNT_MAX):
        raise WrongLineError(f"{quoted(text)} is not a vCPU from 0 to {VCPU_COUNT_MAX - 1}")
    return int(text)
