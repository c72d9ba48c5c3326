"""Which memory is lost, in a line and as a map."""

from dest.lost import describe_lost, missing_to_plain
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock, Span
from protocol.pageset import PageSet

HUGE = 2 << 20
GEOMETRY = Geometry((RamBlock("ram", 4 * HUGE, HUGE), RamBlock("rom", 65536, 4096)))


def pages(*runs: tuple[int, int, int]) -> PageSet:
    """Return a set of runs: block, first target page, count."""
    found = PageSet(GEOMETRY)
    for block, first, count in runs:
        found.add(Span(block, first * TARGET_PAGE_BYTES, count * TARGET_PAGE_BYTES))
    return found


def test_a_line() -> None:
    """The line has how much is lost, and where in each block."""
    actual = describe_lost(pages((0, 512, 512), (0, 1025, 1), (1, 3, 2)))
    assert actual == (
        "memory of the guest is lost: 515 target pages (2.012 MiB), ram 512-1023, ram 1025, rom 3-4"
    )


def test_a_long_list_is_cut() -> None:
    """Of many runs a line names the first ones and counts the others."""
    actual = describe_lost(pages(*((0, 3 * number, 1) for number in range(9))))
    assert actual.endswith("ram 0, ram 3, ram 6, ram 9 and 5 more runs")


def test_a_map() -> None:
    """The map has every block with its runs, those of which nothing is missing included."""
    actual = missing_to_plain(pages((0, 512, 512), (0, 1025, 1)))
    assert actual == {
        "schema": "midstream-missing/1",
        "target-page-bytes": 4096,
        "missing-bytes": 513 * 4096,
        "blocks": [
            {
                "name": "ram", "length-bytes": 4 * HUGE, "page-bytes": HUGE,
                "missing": [[512, 512], [1025, 1]],
            },
            {"name": "rom", "length-bytes": 65536, "page-bytes": 4096, "missing": []},
        ],
    }  # fmt: skip
