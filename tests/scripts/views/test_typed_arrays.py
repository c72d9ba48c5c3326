"""Columns of a page: the numbers that were put in, and times as ticks that always fit."""

import base64

import numpy as np

from scripts.views.typed_arrays import NEVER, Ticks, column

DAY_NS = 24 * 3600 * 10**9


def read(text: str, kind: str) -> list[float]:
    """Return a column's numbers, as a browser's typed array has them."""
    values: list[float] = np.frombuffer(base64.b64decode(text), f"<{kind}").tolist()
    return values


def test_a_column_holds_its_numbers() -> None:
    """Little-endian, of the kind that was asked for."""
    assert read(column([1, 2, 258], "u4"), "u4") == [1, 2, 258]
    assert base64.b64decode(column([258], "u4")) == b"\x02\x01\0\0"
    assert read(column([], "f8"), "f8") == []


def test_a_tick_is_a_microsecond() -> None:
    """From the first event on; what lies outside the run is at its edge, and None is never."""
    ticks = Ticks(5_000, 5_000 + DAY_NS // 48)
    assert ticks.tick_us == 1
    assert [ticks.at(each) for each in (0, 5_000, 5_999, 6_000)] == [0, 0, 0, 1]
    assert read(ticks.column([6_000, None]), "u4") == [1, NEVER]


def test_a_long_run_has_longer_ticks() -> None:
    """The last moment of days still has a number of 32 bits, and is not taken for never."""
    ticks = Ticks(0, 30 * DAY_NS)
    assert ticks.at(30 * DAY_NS) < NEVER
    assert abs(ticks.at(30 * DAY_NS) * ticks.tick_us * 1000 - 30 * DAY_NS) <= ticks.tick_us * 1000
    assert ticks.at(300 * DAY_NS) == NEVER - 1
