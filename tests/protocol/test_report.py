"""Tests of protocol/report/: the names, the units and the places of all that is reported."""

import dataclasses
import json
from typing import Any

from protocol.report import (
    LATENCY_BIN_COUNT,
    SCHEMA,
    STAGES,
    CauseCount,
    DestPart,
    PrefetchPart,
    SourcePart,
    StageSummary,
    Summary,
    assemble,
    assemble_failed,
)

# Every value is another, so that none can stand in the place of another.
SOURCE = SourcePart(
    policy="ordered",
    guest_kind="native",
    guest_reason="kvm: no device",
    backing="thp",
    dirty_log="software",
    total_time_ms=1001.6,
    setup_time_ms=102.4,
    downtime_ms=3.1416,
    expected_downtime_ms=4.5001,
    ram_bytes=105,
    remaining_bytes=106,
    normal_pages=107,
    duplicate_pages=108,
    data_bytes=109,
    mbps=110.12345,
    pass_count=111,
    switch_over_reason="postcopy-after",
    guest_side="dest",
    dirty_sync_count=112,
    page_bytes=113,
    precopy_bytes=114,
    downtime_bytes=115,
    postcopy_bytes=116,
    precopy_channel_bytes=1170,
    postcopy_channel_bytes=11800,
    return_path_bytes=119,
    requests_received=120,
    requests_duplicate=121,
    requests_already_sent=122,
    requests_postponed=123,
    requests_on_precopy_channel=124,
    requests_on_postcopy_channel=125,
    preemptions=126,
    boosted=127,
    bytes_lost=8192,
    recoveries=2,
    checked=True,
    changed_frames=3001,
    changed_bytes=3002,
    bytes_sent_twice=8192,
    pages_sent_twice=2,
    reads=1280,
    mismatches=1290,
    pages_compared=130,
    digest_equal=True,
    cpu_seconds=1.31415,
    priority="granted",
    host_page_bytes=2048,
    vcpus=4,
    postcopy_ms=133.3333,
    paused_ms=134.44444,
    bandwidth=135,
    postcopy_bandwidth=136,
    processor_running=0.13712,
    processor_waiting=0.13823,
    trace_left=132,
    prefetch=PrefetchPart(
        pages=1331, length_bytes=1332, late=1333, useful=1334, useless=1335, useless_bytes=1336,
        at_least=True, causes=(CauseCount("prefetch", 1337),),
    ),
    policy_failure="policy mine: mine.py:7: ValueError",
)  # fmt: skip
DEST = DestPart(
    placement="simulated",
    placement_reason="no kernel",
    backing="base",
    faults=Summary(201, 202.5, 203.5, 204.5, 205.5, 206.5, 207.5),
    stages=tuple(
        StageSummary(stage, Summary(300 + index)) for index, stage in enumerate(STAGES)
    ),
    accesses=Summary(401, 402.5, 403.5, 404.5, 405.5, 406.5, 407.5),
    latency_ns=501,
    latency_bins=tuple(range(600, 600 + LATENCY_BIN_COUNT)),
    vcpu_latency_ns=(701, 702),
    blocktime_ms=801.4,
    guest_blackout_us=901.5,
    guest_stall_us=902.5,
    reads=9,
    reads_unchecked=10,
    mismatches=11,
    cpu_seconds=2.71828,
    priority="refused: no reason",
    processor_running=0.6,
    processor_waiting=0.25,
)  # fmt: skip


def figures(count: int, *values: float) -> dict[str, float]:
    """Return the figures of a distribution under their names in the report."""
    names = ("count", "p50-us", "p90-us", "p99-us", "p999-us", "max-us", "mean-us")
    return dict(zip(names, (count, *(values or (0.0,) * 6)), strict=True))


def test_the_whole_report() -> None:
    """Every figure of both sides stands under its name, in its unit, and nothing else is there."""
    expected = {
        "status": "completed",
        "total-time": 1002,
        "downtime": 3,
        "expected-downtime": 5,
        "setup-time": 102,
        "ram": {
            "transferred": 12970,
            "remaining": 106,
            "total": 105,
            "duplicate": 108,
            "normal": 107,
            "normal-bytes": 109,
            "mbps": 110.123,
            "dirty-sync-count": 112,
            "postcopy-requests": 120,
            "page-size": 113,
            "precopy-bytes": 114,
            "downtime-bytes": 115,
            "postcopy-bytes": 116,
        },
        "postcopy-blocktime": 801,
        "postcopy-latency": 501,
        "postcopy-latency-dist": list(range(600, 624)),
        "postcopy-vcpu-latency": [701, 702],
        "midstream": {
            "schema": "midstream-report/1",
            "policy": "ordered",
            "guest": "native",
            "guest-reason": "kvm: no device",
            "backing": "base",
            "source-backing": "thp",
            "source-priority": "granted",
            "dest-priority": "refused: no reason",
            "placement": "simulated",
            "placement-reason": "no kernel",
            "dirty-log": "software",
            "passes": 111,
            "switch-over": {"reason": "postcopy-after", "trace-accesses-left": 132},
            "guest-side": "dest",
            "page-bytes": 2048,
            "vcpus": 4,
            "downtime-ms": 3.142,
            "postcopy-ms": 133.333,
            "paused-ms": 134.444,
            "limits": {"max-bandwidth": 135, "max-postcopy-bandwidth": 136},
            "faults": figures(201, 202.5, 203.5, 204.5, 205.5, 206.5, 207.5),
            "stages": {
                "detect": figures(300),
                "request": figures(301),
                "postponed": figures(302),
                "queue": figures(303),
                "send": figures(304),
                "receive": figures(305),
                "place": figures(306),
                "wake": figures(307),
                "broken": figures(308),
            },
            "accesses": figures(401, 402.5, 403.5, 404.5, 405.5, 406.5, 407.5),
            "guest-blackout-us": 901.5,
            "guest-stall-us": 902.5,
            "requests": {
                "received": 120,
                "duplicate": 121,
                "already-sent": 122,
                "postponed": 123,
                "on-precopy-channel": 124,
                "on-postcopy-channel": 125,
            },
            "preemptions": {"count": 126, "boosted": 127},
            "prefetch": {
                "pages": 1331,
                "bytes": 1332,
                "late": 1333,
                "useful": 1334,
                "useless": 1335,
                "useless-bytes": 1336,
                "at-least": True,
                "causes": {"prefetch": 1337},
            },
            "policy-failure": "policy mine: mine.py:7: ValueError",
            "bytes-sent-twice": 8192,
            "pages-sent-twice": 2,
            "bytes-lost": 8192,
            "channels": {"precopy": 1170, "postcopy": 11800, "return-path": 119},
            "recoveries": 2,
            "checksums": {"used": True, "changed": 3001, "changed-bytes": 3002},
            "verified": {
                "reads": 1289,
                "reads-unchecked": 10,
                "mismatches": 1301,
                "pages": 130,
                "digest-equal": True,
            },
            "cpu-seconds": {"source": 1.314, "dest": 2.718},
            "processor": {
                "source": {"running": 0.137, "waiting": 0.138},
                "dest": {"running": 0.6, "waiting": 0.25},
            },
        },
    }
    actual = assemble("completed", SOURCE, DEST)
    assert expected == actual


def test_every_figure_counts() -> None:
    """Changing any one field of either side changes the report: nothing is gathered for nothing."""
    before = assemble("completed", SOURCE, DEST)
    for field in dataclasses.fields(SourcePart):
        source = dataclasses.replace(SOURCE, **another(SOURCE, field.name))
        assert before != assemble("completed", source, DEST), field.name
    for field in dataclasses.fields(DestPart):
        dest = dataclasses.replace(DEST, **another(DEST, field.name))
        assert before != assemble("completed", SOURCE, dest), field.name


def another(record: SourcePart | DestPart, name: str) -> dict[str, Any]:
    """Return another value for a field of a record, of the same type, by the field's name."""
    match getattr(record, name):
        case bool(flag):
            return {name: not flag}
        case int(number) | float(number):
            return {name: number + 1000}
        case str(text):
            return {name: f"{text} too"}
        case Summary():
            return {name: Summary()}
        case PrefetchPart():
            return {name: None}
        case values:
            return {name: values[:-1]}


def test_the_report_is_json() -> None:
    """A report survives JSON as it is, without a number that JSON does not know."""
    report = assemble("completed", SOURCE, DEST)
    actual = json.loads(json.dumps(report, allow_nan=False))
    assert report == actual


def test_stages_are_there_though_nothing_waited() -> None:
    """A destination without a single fault still has every figure of every stage, all zero."""
    dest = DestPart(
        placement="simulated",
        backing="base",
        reads=0,
        reads_unchecked=0,
        mismatches=0,
        cpu_seconds=0.0,
    )
    report = assemble("completed", SOURCE, dest)
    assert figures(0) == report["midstream"]["faults"]
    assert dict.fromkeys(STAGES, figures(0)) == report["midstream"]["stages"]
    assert report["postcopy-latency-dist"] == [0] * 24


def test_stages_of_other_names_stay_out() -> None:
    """A stage that nobody knows, from another version or a bad peer, does not enter the report."""
    dest = dataclasses.replace(DEST, stages=(*DEST.stages, StageSummary("shadow", Summary(1))))
    actual = assemble("completed", SOURCE, dest)
    assert assemble("completed", SOURCE, DEST) == actual


def test_the_status_is_the_state() -> None:
    """The report says the state that it is given, whatever the figures are."""
    actual = assemble("failed", SOURCE, DEST)["status"]
    assert actual == "failed"
    assert SCHEMA == "midstream-report/1"


def test_a_failed_migration_has_a_report_of_what_there_is() -> None:
    """Each side tells the fields that it alone knows, as in a whole report, and why it failed."""
    whole = assemble("failed", SOURCE, DEST)
    reports = {
        "neither": assemble_failed("failed", "no luck"),
        "source": assemble_failed("failed", "no luck", source=SOURCE),
        "dest": assemble_failed("failed", "no luck", dest=DEST),
    }
    for report in reports.values():
        own = report.pop("midstream")
        assert own.pop("reason") == "no luck"
        assert own.items() <= whole["midstream"].items()
        assert report.items() <= whole.items()
        assert report["status"] == "failed"
        json.dumps(report, allow_nan=False)
        report.update(own)
    assert reports["neither"].keys() == {"status", "schema"}
    shared = reports["source"].keys() & reports["dest"].keys()
    assert shared == {"status", "schema"}
    # What is of both sides together cannot be told by one.
    told = reports["source"].keys() | reports["dest"].keys()
    assert {*whole, *whole["midstream"]} - told == {
        *("midstream", "verified", "cpu-seconds", "processor")
    }
