"""Whole migrations with real processes over real sockets: what arrives, over what, is it right."""

import json
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Lab, Process, connection_count, has_state, read_events, until
from tests.reports import expect_valid, read_report
from tests.traces import check_rules

BUSY = ("--vcpus=4", "--access-rate=0", "--write-ratio=0.5")


def loopback_6() -> str:
    """Return this machine's loopback address of IPv6, or of IPv4 if it has none."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return "127.0.0.1"
    return "[::1]"


LOOPBACK_6 = loopback_6()

REPORT_FIELDS = {
    "": {
        "status", "total-time", "downtime", "setup-time", "ram", "postcopy-latency",
        "postcopy-latency-dist", "postcopy-vcpu-latency", "midstream",
    },
    "ram": {
        "transferred", "remaining", "total", "duplicate", "normal", "normal-bytes", "mbps",
        "dirty-sync-count", "postcopy-requests", "page-size", "precopy-bytes", "downtime-bytes",
        "postcopy-bytes",
    },
    "midstream": {
        "schema", "policy", "backing", "placement", "dirty-log", "faults", "stages", "accesses",
        "requests", "preemptions", "channels", "recoveries", "verified", "cpu-seconds",
    },
}  # fmt: skip


def make_image(path: Path, length_bytes: int) -> bytes:
    """Write a file that is text in one half and noise in the other; return what it holds."""
    noise = random.Random(length_bytes)
    text = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(50_000))
    half = length_bytes // 2
    data = (text * (half // len(text) + 1))[:half] + noise.randbytes(length_bytes - half)
    path.write_bytes(data)
    return data


def make_trace(path: Path, page_count: int) -> None:
    """Write a trace of four vCPUs over pages of 2 MiB."""
    chance = random.Random(page_count)
    lines = (
        f"{chance.randrange(4)} ram {chance.randrange(page_count)}+{chance.randrange(512)} "
        f"{chance.choice('rw')}\n"
        for _ in range(20_000)
    )
    path.write_text("".join(lines), encoding="utf-8")


def check_report(report: dict[str, Any]) -> None:
    """Check that a report has all its fields and tells of a migration that is right."""
    for part, fields in REPORT_FIELDS.items():
        assert (report[part] if part else report).keys() >= fields
    assert report["status"] == "completed"
    assert report["ram"]["remaining"] == 0
    verified = report["midstream"]["verified"]
    assert verified["mismatches"] == 0
    assert verified["digest-equal"] is True
    assert verified["pages"] > 0


def check_busy(pairs: list[tuple[Process, Process]]) -> None:
    """Check that migrations end well, that guests were busy, and standard output is pure JSON."""
    for source, dest in pairs:
        report = expect_valid(json.loads(source.succeed().output))
        check_report(report)
        assert report["midstream"]["verified"]["reads"] > 1000
        dest.succeed()


@pytest.mark.parametrize(
    ("listen", "size", "guest_bytes", "image_bytes"),
    [
        ("127.0.0.1", "64MiB", 64 << 20, 60_000_001),
        (LOOPBACK_6, "ram=64MiB@2MiB,rom=16MiB@4KiB", 80 << 20, 75_000_001),
    ],
)
def test_an_image_arrives_whole(
    lab: Lab, tmp_path: Path, listen: str, size: str, guest_bytes: int, image_bytes: int
) -> None:
    """What the destination saves is the source's file, with zeros up to the guest's size."""
    data = make_image(tmp_path / "in", image_bytes)
    dest = lab.fork("dest", f"--listen={listen}:0", "--save=out", "--report=-")
    # Standard output is the report's alone, so the address goes to standard error.
    line = until(lambda: dest.errors if dest.errors.endswith("\n") else "")
    address = line.removeprefix("listening on ").strip()
    assert address.startswith(f"{listen}:")
    source = lab.fork(
        "source", f"--connect={address}", f"--size={size}", "--image=in", "--write-ratio=0"
    )
    source.succeed()
    assert dest.wait() == 0
    check_report(json.loads(dest.output))
    saved = (tmp_path / "out").read_bytes()
    assert len(saved) == guest_bytes
    assert saved[:image_bytes] == data
    assert not any(saved[image_bytes:])


def test_what_the_guest_has_changed_of_its_image_is_counted(lab: Lab, tmp_path: Path) -> None:
    """Exactly so many target pages of what is saved differ from the image, on both sides' word."""
    data = make_image(tmp_path / "in", 4 << 20)
    source, dest = lab.start_pair(
        "--size=4MiB", "--image=in", "--write-ratio=0.5", "--report=source.json", "--quiet",
        dest_arguments=("--save=out", "--report=dest.json", "--quiet"),
    )  # fmt: skip
    assert source.wait() == dest.wait() == 0
    saved = (tmp_path / "out").read_bytes()
    differing = sum(
        saved[at : at + 4096] != data[at : at + 4096] for at in range(0, len(saved), 4096)
    )
    assert differing
    for side in ("source", "dest"):
        report = read_report(tmp_path / f"{side}.json")
        image = report["midstream"]["image"]
        assert image == {"changed-target-pages": differing, "at-least": False}


def test_two_connections_carry_a_migration(lab: Lab, tmp_path: Path) -> None:
    """`ordered` has two TCP connections, both with page bytes in postcopy; `vanilla` has one."""
    (tmp_path / "steps").write_text(
        "[[step]]\nwhen = { page = 0, received = 0.1 }\nfault = [2]\n", encoding="utf-8"
    )
    expected = {"ordered": 2, "vanilla": 1}
    sources, ports = {}, {}
    for policy in expected:
        dest = lab.fork("dest", "--listen=127.0.0.1:0", "--steps=steps")
        ports[policy] = int(dest.listening().rpartition(":")[2])
        sources[policy] = lab.fork(
            "source", f"--connect=127.0.0.1:{ports[policy]}", f"--policy={policy}", "--size=8MiB",
            "--program=scripted", "--postcopy-after=0", "--max-postcopy-bandwidth=4MB/s",
            f"--events={policy}.jsonl", "--report=-",
        )  # fmt: skip
    counts: dict[str, int] = {}

    def count() -> bool:
        for policy, port in ports.items():
            if policy not in counts and has_state(tmp_path / f"{policy}.jsonl", "postcopy-active"):
                counts[policy] = connection_count(port)
        return len(counts) == len(ports)

    until(count)
    assert counts == expected
    channels = {}
    for policy, source in sources.items():
        report = expect_valid(json.loads(source.succeed().output))
        check_report(report)
        assert report["ram"]["normal-bytes"] == report["ram"]["total"]
        channels[policy] = report["midstream"]["channels"]
    assert channels["ordered"]["postcopy"] > 2 << 20
    assert channels["ordered"]["precopy"] > 6 << 20
    assert channels["vanilla"]["postcopy"] == 0
    assert channels["vanilla"]["precopy"] > 8 << 20


def test_busy_guests_find_nothing_wrong(lab: Lab) -> None:
    """Four vCPUs that never pause read what must be there, whatever their pattern."""
    pairs = [
        lab.start_pair("--size=8MiB", *BUSY, f"--program={name}", f"--seed={seed}", "--report=-")
        for seed, name in enumerate(("uniform", "sequential", "zipf", "hotspot"))
    ]
    check_busy(pairs)


def test_a_recorded_guest_finds_nothing_wrong(lab: Lab, tmp_path: Path) -> None:
    """The accesses of a trace find what must be there, also with policies that send otherwise."""
    make_trace(tmp_path / "trace", page_count=4)
    pairs = [
        lab.start_pair(
            "--size=8MiB", *BUSY, "--program=trace:trace", f"--policy={policy}", "--report=-"
        )
        for policy in ("drop", "vanilla")
    ]
    check_busy(pairs)


def test_precopy_alone_completes(lab: Lab, tmp_path: Path) -> None:
    """A guest that writes little comes over without postcopy; `--quiet` prints no table."""
    done = lab.run(
        "migrate", "--size=4MiB", "--access-rate=100", "--postcopy-after=never", "--quiet",
        "--verbose", "--report=report",
    )  # fmt: skip
    assert done.wait() == 0
    assert done.output == ""
    # `--verbose` tells both sides' changes of state.
    for side in ("source", "dest"):
        told = [line for line in done.errors.splitlines() if line.startswith(f"{side}: ")]
        assert told == [f"{side}: {state}" for state in ("setup", "active", "device", "completed")]
    report = read_report(tmp_path / "report")
    check_report(report)
    assert report["midstream"]["passes"] >= 1
    assert report["midstream"]["faults"]["count"] == 0
    assert report["ram"]["postcopy-requests"] == 0


def test_migrate_writes_what_it_is_asked_for(lab: Lab, tmp_path: Path) -> None:
    """Table, report, events of both sides and memory go where they belong, by whatever names."""
    data = make_image(tmp_path / "in", 3_000_001)
    (tmp_path / "events").write_text("of yesterday\n", encoding="utf-8")
    with (tmp_path / "in").open("rb") as image:
        # `/dev/stdin` is what this command was given, though another process reads it.
        migration = lab.start(
            "migrate", "--size=4MiB", "--image", "/dev/stdin", "--write-ratio=0", "--save",
            "./a b\n", "--report=-r", "--events=events", "--postcopy-after=0",
            "--perfetto=trace", "--html=html", stdin=image,
        )  # fmt: skip
    lines = migration.succeed().output.splitlines()
    assert lines[0].startswith("Verified: the guest has moved, and all 4 MiB of its memory ")
    assert "status          completed, verified" in lines
    assert max(map(len, lines)) < 80
    check_report(json.loads((tmp_path / "-r").read_text(encoding="utf-8")))
    assert (tmp_path / "a b\n").read_bytes() == data.ljust(4 << 20, b"\0")
    for side in ("source", "dest"):
        states = [event["state"] for event in read_events(tmp_path / "events", "state", side)]
        assert states == ["setup", "active", "device", "postcopy-active", "completed"]
    trace = json.loads((tmp_path / "trace").read_text(encoding="utf-8"))["traceEvents"]
    check_rules(trace)
    # Each send is there once, on the source's channels; both processes have told of their part.
    sent = read_events(tmp_path / "events", "page-sent")
    spans = [each for each in trace if each.get("args", {}).get("ended") == "page-sent"]
    assert len(spans) == len(sent) > 0
    page = (tmp_path / "html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "http" + "://" not in page.replace("http" + "://www.w3.org/2000/svg", "")
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("process-")} == {
        "in", "-r", "a b\n", "events", "trace", "html"
    }  # fmt: skip
