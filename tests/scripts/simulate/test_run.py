"""Whole simulated runs: what their reports say, and what makes one differ from another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.policy import PRESETS
from scripts.simulate.agenda import Agenda
from scripts.simulate.run import Report, simulate
from tests.points import point, recorded, simulated

PAGES = 16


def same(report: Report) -> dict[str, Any]:
    """Return of a report what a run alone has to do with, and this machine nothing."""
    own = report["midstream"]
    made = {
        name: value
        for name, value in own["simulated"].items()
        if name not in {"cpu-seconds", "memory-max-bytes"}
    }
    return {**report, "midstream": {**own, "simulated": made}}


@pytest.mark.parametrize("vcpus", ["1", "4"])
@pytest.mark.parametrize("policy", PRESETS)
def test_every_policy_brings_every_page_over(policy: str, vcpus: str) -> None:
    """All of the guest goes, each page is placed once, and nobody is left waiting."""
    report, events = recorded(point(policy=policy, vcpus=vcpus))
    own = report["midstream"]
    assert report["status"] == "completed"
    assert report["ram"]["remaining"] == 0
    placed = [each["page"] for each in events if each["event"] == "page-placed"]
    assert sorted(placed) == list(range(PAGES))
    waits = [each for each in events if each["event"] == "vcpu-wait"]
    wakes = [each for each in events if each["event"] == "vcpu-wake"]
    assert len(waits) == len(wakes) == own["faults"]["count"]
    sent_again = own["bytes-sent-twice"]
    assert report["ram"]["normal-bytes"] == report["ram"]["total"] + sent_again
    assert (sent_again > 0) <= (policy == "resend" or PRESETS[policy].overtakes)
    assert sent_again >= own["pages-sent-twice"] * 4096


def test_a_report_says_that_it_is_of_a_model() -> None:
    """Nothing was placed by a kernel and nothing compared, and every value is there."""
    report = simulated(link="1Gbit/s,rtt=2ms,loss=0.1%", changes=("access-ns=900",))
    own = report["midstream"]
    assert own["placement"] == "modelled"
    assert own["verified"] is None
    assert own["simulated"]["values"]["access-ns"] == 900
    assert own["simulated"]["model"] == "reference with changes"
    assert own["link"] == {
        "kind": "modelled", "bytes-per-second": 125_000_000, "queue": "pfifo_fast", "rtt-ms": 2.0,
        "loss": 0.001,
    }  # fmt: skip


@pytest.mark.parametrize("link", ["1Gbit/s", "1Gbit/s,rtt=3ms,loss=1%", "10Gbit/s,queue=fifo"])
def test_a_seed_repeats_itself(link: str) -> None:
    """The same seed gives the same events at the same times, another does not."""
    noisy = ("noise-ns=50000",)

    def run(seed: str) -> tuple[Report, list[dict[str, Any]]]:
        return recorded(
            point(changes=noisy, seed=seed, vcpus="3", policy="critical-first", link=link)
        )

    first, second = run("7"), run("7")
    assert same(first[0]) == same(second[0])
    assert first[1] == second[1]
    assert run("8")[1] != first[1]


def test_a_precopy_pass_leaves_what_was_written_meanwhile() -> None:
    """VCPUs run at the source first; what they wrote to goes again, and nothing else is missing."""

    def run(ratio: str) -> Report:
        return simulated(
            postcopy_after="1", start_paused=False, access_rate="2000", write_ratio=ratio
        )

    report = run("0.5")
    assert report["midstream"]["passes"] == 1
    assert report["ram"]["total"] < report["ram"]["normal-bytes"] < 2 * report["ram"]["total"]
    assert report["ram"]["precopy-bytes"] > report["ram"]["total"]
    reads = run("0")
    assert reads["midstream"]["faults"]["count"] == 0
    assert reads["ram"]["normal-bytes"] == reads["ram"]["total"]


def test_precopy_alone_converges_where_little_is_written() -> None:
    """Without postcopy nobody faults, and passes shrink until the rest fits the downtime."""
    report = simulated(
        postcopy_after="never", start_paused=False, access_rate="50", write_ratio="0.2"
    )
    assert report["midstream"]["switch-over"]["reason"] == "converged"
    assert report["midstream"]["faults"]["count"] == 0


def test_a_round_trip_is_in_every_request() -> None:
    """A request takes at least half of it to the source, and its page as long to come back."""
    near, far = simulated(vcpus="1"), simulated(vcpus="1", link="1Gbit/s,rtt=10ms")
    stages = far["midstream"]["stages"]
    assert stages["request"]["p50-us"] >= 5000
    assert far["midstream"]["faults"]["p50-us"] > near["midstream"]["faults"]["p50-us"] + 9000


def test_the_policies_differ_as_they_are_to() -> None:
    """A page's own 16.8 ms on the wire, twice that behind or beside another, a part in less."""
    p50_ms = {
        policy: simulated(policy=policy, vcpus="1", size="64MiB")["midstream"]["faults"]["p50-us"]
        / 1000
        for policy in ("vanilla", "ordered", "parallel", "critical-first")
    }
    assert 17 < p50_ms["ordered"] < 21
    assert 1.6 * p50_ms["ordered"] < p50_ms["vanilla"] < 2.2 * p50_ms["ordered"]
    assert 1.6 * p50_ms["ordered"] < p50_ms["parallel"] < 2.2 * p50_ms["ordered"]
    assert p50_ms["critical-first"] < p50_ms["ordered"] / 10


def test_what_the_kernel_holds_is_in_the_way_where_nothing_overtakes() -> None:
    """In a plain FIFO a page waits for what lies there; with priority for half a packet."""
    p50_us = {
        queue: simulated(policy="critical-first", vcpus="1", link=f"1Gbit/s,queue={queue}")[
            "midstream"
        ]["faults"]["p50-us"]
        for queue in ("fifo", "pfifo_fast")
    }
    assert p50_us["fifo"] > p50_us["pfifo_fast"] + 300


@pytest.mark.parametrize("model", ["reference", "native"])
@pytest.mark.parametrize("policy", ["ordered", "parallel", "critical-first"])
def test_a_processor_does_one_thing_at_a_time(policy: str, model: str) -> None:
    """However much there is to do, neither side used more of one than there was time."""
    report = simulated(policy=policy, model=model, vcpus="8", link="100Gbit/s", size="64MiB")
    used = report["midstream"]["cpu-seconds"]
    assert 0 < used["source"] * 1000 <= report["total-time"] + 1
    assert 0 < used["dest"] * 1000 <= report["total-time"] + 1


def test_losses_cost_time_and_no_page() -> None:
    """What is lost goes again: everything arrives, later."""
    whole = simulated(link="1Gbit/s,rtt=10ms")
    lossy = simulated(link="1Gbit/s,rtt=10ms,loss=2%")
    assert lossy["status"] == "completed"
    assert lossy["total-time"] > whole["total-time"]


def test_the_background_keeps_to_its_limit() -> None:
    """What nobody waits for goes at the rate that was said, and with nobody waiting so does all."""
    report = simulated(access_rate="0.01", max_postcopy_bandwidth="100Mbit/s")
    seconds = report["ram"]["total"] / 12.5e6
    assert seconds * 900 < report["total-time"] < seconds * 1100


def test_more_vcpus_than_memory_has_room_for() -> None:
    """A guest that is only modelled has up to 512 vCPUs, each with waits of its own."""
    report = simulated(
        model="native", vcpus="512", size="4MiB", link="10Gbit/s", policy="critical-first"
    )
    waits = report["postcopy-vcpu-latency"]
    assert len(waits) == 512
    assert sum(each > 0 for each in waits) > 400
    # Whoever waits for room waits until there is some, and does not ask again and again.
    assert report["midstream"]["simulated"]["events"] < 100_000


@pytest.mark.parametrize("queue", ["pfifo_fast", "fifo", "fq_codel"])
@pytest.mark.parametrize("policy", PRESETS)
def test_a_destination_that_takes_nothing_is_waited_for(
    policy: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose window is full has nothing happen, however many nanoseconds that lasts."""
    at = Agenda.at

    def few(agenda: Agenda, *due: Any) -> None:  # noqa: ANN401
        assert agenda.count < 20_000
        at(agenda, *due)

    monkeypatch.setattr(Agenda, "at", few)
    report = simulated(
        model="native", policy=policy, size="128MiB", vcpus="8", link=f"100Gbit/s,queue={queue}",
        changes=("receive-buffer-bytes=4194304",),
    )  # fmt: skip
    assert report["status"] == "completed"


def test_blocks_of_two_kinds_and_a_trace(tmp_path: Path) -> None:
    """Small pages come beside large ones, and a recorded program is followed to its end."""
    trace = tmp_path / "trace"
    lines = [
        f"{index % 2} rom {index} r\n{index % 2} ram {index % 4}+{index} r\n" for index in range(64)
    ]
    trace.write_text("".join(lines))
    report, events = recorded(
        point(size="ram=8MiB@2MiB,rom=1MiB@4KiB", program=f"trace:{trace}", policy="split")
    )
    assert report["midstream"]["accesses"]["count"] == 128
    asked = {each["block"] for each in events if each["event"] == "page-request"}
    assert asked == {0, 1}


def test_a_model_of_a_noisy_machine_tells_of_nothing_rare() -> None:
    """What lies beyond p90 is not there, rather than wrong."""
    report = simulate(replace(point(), quiet=False))
    faults = report["midstream"]["faults"]
    assert faults["p50-us"] > 0
    assert faults["p90-us"] > 0
    assert faults["p99-us"] is faults["p999-us"] is faults["max-us"] is None
    assert report["midstream"]["stages"]["receive"]["p99-us"] is None


def test_cost_grows_with_the_faults_and_not_with_the_pages() -> None:
    """Four times the memory makes fewer events than four times the faults would."""
    counts = {}
    for size in ("64MiB", "256MiB"):
        report = simulated(size=size, access_rate="20", vcpus="4", link="10Gbit/s", model="native")
        counts[size] = report["midstream"]["simulated"]["events"]
    pages = 128 - 32
    assert (counts["256MiB"] - counts["64MiB"]) / pages < 20
