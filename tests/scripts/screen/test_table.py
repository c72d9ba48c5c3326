"""The result table: whatever the figures, it is readable at 80 columns."""

from typing import Any

import pytest

from protocol.report import DestPart, SourcePart, Summary, assemble
from scripts.screen.table import table


def report(*, mismatches: int = 0, equal: bool = True, **given: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a report in which every number is as given, or large."""
    large: dict[str, Any] = {
        name: 999_999_999.9 if kind == "float" else 99_999_999
        for name, kind in SourcePart.__annotations__.items()
        if not name.startswith("prefetch")
    }
    source = SourcePart(**{
        **large, "policy": "critical-first", "backing": "hugetlb", "dirty_log": "software",
        "guest_kind": "python", "guest_reason": "",
        "mismatches": mismatches, "digest_equal": equal, **given,
    })  # fmt: skip
    wait = Summary(10**9, 1e10, 1e10, 1e10, 1e10, 1e10, 1e10)
    dest = DestPart(
        placement="simulated", backing="hugetlb,thp,base", faults=wait, accesses=wait,
        reads=10**12, reads_unchecked=0, mismatches=0, cpu_seconds=1.0,
    )  # fmt: skip
    return assemble("completed", source, dest)


def rows(text: str) -> dict[str, str]:
    """Return each item's lines, joined."""
    items: dict[str, str] = {}
    name = ""
    for line in text.partition("\n\n")[2].splitlines():
        name = line[:16].strip() or name
        items[name] = f"{items.get(name, '')} {line[16:]}".strip()
    return items


def test_no_figure_makes_a_line_too_long() -> None:
    """With figures that fill their places no line reaches 80 columns, no item three lines."""
    verdict, _, items = table(report()).partition("\n\n")
    assert verdict.startswith("Verified: ")
    assert max(map(len, verdict.splitlines())) < 80
    lines = items.splitlines()
    assert max(map(len, lines)) < 80
    assert len(lines) < 20
    titles = [line[:16].strip() for line in lines]
    assert all(titles[at] or titles[at - 1] for at in range(1, len(lines)))
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_narrow_terminal_gets_narrow_lines(columns: int) -> None:
    """No word is torn at its edge; one that is wider than 80 gets no longer lines."""
    text = table(report(), columns)
    assert max(map(len, text.splitlines())) < min(columns, 80)
    assert " ".join(text.split()) == " ".join(table(report()).split())


def test_a_trace_that_ended_too_early_is_told() -> None:
    """With nothing left at the switch-over it has a line; with something, or no trace, none."""
    for left in (None, 1):
        assert "trace" not in rows(table(report(trace_left=left)))
    told = rows(table(report(trace_left=0)))["trace"]
    assert told == "used up before the switch-over: the destination's vCPUs were idle"


@pytest.mark.parametrize(
    ("kind", "words"), [("namespaces", ", fifo (network namespaces)"), ("proxy", " (a proxy)")]
)
def test_a_link_of_its_own_is_told(kind: str, words: str) -> None:
    """Its rate and its kind have a line; on plain loopback there is none."""
    told = report()
    assert "link" not in rows(table(told))
    told["midstream"]["link"] = {"kind": kind, "bytes-per-second": 125_000_000, "queue": "fifo"}
    assert rows(table(told))["link"] == f"1 Gbit/s{words}"
    # Those who wrote a report before there was a choice said nothing of a queue.
    del told["midstream"]["link"]["queue"]
    assert rows(table(told))["link"] == f"1 Gbit/s{words.replace(', fifo', '')}"


def test_a_guest_of_another_kind_is_told() -> None:
    """What runs its vCPUs, why no better one, and what it saw by its own clock, if it has one."""
    assert "guest" not in rows(table(report()))
    told = report(guest_kind="native", guest_reason="kvm: /dev/kvm: Permission denied")
    assert rows(table(told))["guest"] == (
        "native, dirty log software kvm: /dev/kvm: Permission denied"
    )
    told = report(guest_kind="kvm")
    told["midstream"] |= {"guest-blackout-us": 12_340.0}
    line = "by its own clock: blackout 12.3 ms, longest stall 0 us"
    assert rows(table(told))["guest"] == f"kvm, dirty log software {line}"
    told = report(guest_kind="native", guest_reason="kvm: " + "a long reason " * 12)
    assert max(map(len, table(told).splitlines())) < 80


def test_figures_stand_with_their_units() -> None:
    """What the report counts in bytes, microseconds and megabits is told in units for people."""
    good = report(
        ram_bytes=64 << 20, data_bytes=65 << 20, mbps=800.0, total_time_ms=331.2,
        setup_time_ms=198.0, downtime_ms=2.04, pass_count=1, precopy_channel_bytes=1 << 20,
        postcopy_channel_bytes=2048, return_path_bytes=3, requests_received=29,
        requests_on_postcopy_channel=24, requests_on_precopy_channel=5, requests_already_sent=1,
        requests_duplicate=2, requests_postponed=3, preemptions=8, boosted=2, pages_compared=32,
    )  # fmt: skip
    good["midstream"]["faults"] |= {
        "count": 1, "p50-us": 12.3456, "p90-us": 999.7, "p99-us": 4321.0, "max-us": 65e6
    }  # fmt: skip
    items = rows(table(good))
    assert items["status"] == "completed, verified"
    assert items["time"] == "331 ms, including setup 198 ms; downtime 2.04 ms"
    assert items["memory"] == "64 MiB guest, 65 MiB of pages sent at 100 MB/s 1 precopy pass"
    assert items["channels"] == "precopy 1 MiB, postcopy 2 KiB, return path 3 B"
    assert items["page requests"] == (
        "29: postcopy channel 24, precopy channel 5 already sent 1, duplicate 2, postponed 3"
    )
    assert items["preemptions"] == "8, 2 finished early on request"
    assert items["fault latency"] == (
        "p50 12.3 us, p90 1 ms, p99 4.32 ms, max 1.08 min 1 wait of a vCPU in postcopy"
    )
    assert items["verified"].endswith("0 mismatches 32 pages compared, digests equal")


@pytest.mark.parametrize("wrong", [{"mismatches": 1}, {"equal": False}])
def test_wrong_memory_cannot_be_overlooked(wrong: dict[str, Any]) -> None:
    """A mismatch, or digests that differ, stand in the first line and where they were counted."""
    items = rows(table(report(**wrong)))
    assert items["status"] == "completed, but the memory is WRONG"
    assert ("1 mismatch " if "mismatches" in wrong else "DIFFER") in items["verified"] + " "


def test_what_an_image_leaves_unchecked_is_said() -> None:
    """Reads that nobody can check are counted by themselves; without an image there are none."""
    own = report()
    own["midstream"]["verified"] |= {"reads": 0, "reads-unchecked": 0}
    assert rows(table(own))["verified"].startswith("0 guest reads checked, 0 mismatches ")
    own["midstream"]["verified"]["reads-unchecked"] = 83
    told = "83 reads of what the image holds and no vCPU has written"
    assert told in rows(table(own))["verified"]


@pytest.mark.parametrize(
    ("changed", "is_whole", "told"),
    [
        (0, True, "not changed by the guest"),
        (1, True, "1 target page changed by the guest since; with --write-ratio 0 it changes none"),
        (9, False, "at least 9 target pages changed by the guest since; with --write-ratio 0"),
    ],
)
def test_what_a_guest_has_changed_of_its_image(changed: int, is_whole: bool, told: str) -> None:
    """Whoever compares what is saved with the image knows that it differs, and how it would not."""
    own = report()
    assert "image" not in rows(table(own))
    own["midstream"]["image"] = {"changed-target-pages": changed, "at-least": not is_whole}
    assert rows(table(own))["image"].startswith(told)


def test_what_did_not_happen_is_none() -> None:
    """Without postcopy there are no requests and no waits."""
    quiet = report(requests_received=0)
    for name in ("faults", "accesses"):
        quiet["midstream"][name]["count"] = 0
    items = rows(table(quiet))
    assert items["page requests"] == items["fault latency"] == items["access latency"] == "none"
