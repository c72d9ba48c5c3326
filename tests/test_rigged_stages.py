"""A delay in a stage of a wait is in that stage, and the stages agree with both sides' events.

Real processes.  A delay is a least length: no machine is too slow for what is asserted here.
"""

import json
from typing import Any

import pytest

from protocol.report import STAGES
from tests.processes import Lab, read_events
from tests.rigged import DELAY_SECONDS
from tests.true_stages import read, truths

# The background is slow: most pages are asked for.
ASKING = (
    "--size=16MiB", "--postcopy-after=0", "--vcpus=1", "--access-rate=0", "--quiet",
    "--max-postcopy-bandwidth=20MB/s",
)  # fmt: skip

# Which side is rigged, so that the stage takes longer.
RIGGED = {
    "detect": "dest",
    "request": "source",
    "queue": "source",
    "send": "source",
    "receive": "dest",
    "place": "dest",
    "wake": "dest",
    "broken": "source",
}


def check_sums(wakes: list[dict[str, Any]]) -> None:
    """Check that the stages of each wait add up to it, and that none is negative."""
    for wake in wakes:
        stages_us = [wake[f"{stage}-us"] for stage in STAGES]
        assert min(stages_us) >= 0
        assert round(sum(stages_us), 3) == round(wake["latency-us"], 3)


@pytest.mark.parametrize("stage", RIGGED)
def test_a_delay_is_in_its_stage(lab: Lab, stage: str) -> None:
    """Whichever side holds the first wait up, and wherever: its event says so, and the report."""
    files = {side: lab.folder / f"{side}.jsonl" for side in ("source", "dest")}
    report = lab.folder / "report"
    rig = {
        "receive": f"delay receive {files['source']}",
        "broken": f"break-off {files['dest']}",
    }.get(stage, f"delay {stage}")
    is_source = RIGGED[stage] == "source"
    source, dest = lab.start_pair(
        *ASKING, f"--events={files['source']}", f"--report={report}",
        dest_arguments=("--placement=simulated", f"--events={files['dest']}", "--quiet"),
        source_rig=rig if is_source else "", dest_rig="" if is_source else rig,
    )  # fmt: skip
    source.succeed()
    assert dest.wait() == 0
    wakes = read_events(files["dest"], "vcpu-wake")
    check_sums(wakes)
    longest_us = max(wake[f"{stage}-us"] for wake in wakes)
    assert longest_us >= DELAY_SECONDS * 1e6
    own = json.loads(report.read_text(encoding="utf-8"))["midstream"]
    assert own["stages"][stage]["max-us"] >= longest_us * 0.999
    assert own["faults"]["count"] == len(wakes)
    if stage == "broken":
        (wake,) = (wake for wake in wakes if wake["broken-us"])
        # It was asked for, and then asked for again.
        names = [part.split()[0] for part in wake["parts-us"].split(", ")]
        after = {*names[names.index("broken") + 1 :]}
        # What took no time at all is not named, be it the whole way back.
        assert after & {"request", "postponed", "queue", "send", "receive"}


@pytest.mark.parametrize(
    "policy", ["ordered", "vanilla", "own-channel", "drop", "parallel", "split", "resend"]
)
def test_stages_end_where_the_events_say(lab: Lab, policy: str) -> None:
    """Between what both sides told before and after: on one machine they have one clock."""
    file = lab.folder / "events"
    lab.run(
        "migrate", "--size=24MiB", "--vcpus=6", "--access-rate=0", "--postcopy-after=0",
        f"--policy={policy}", "--chunk-size=256KiB", f"--events={file}", "--quiet",
    ).succeed()  # fmt: skip
    events = read(file)
    check_sums([event for event in events if event["event"] == "vcpu-wake"])
    found = list(truths(events))
    assert [words for truth in found for words in truth.misplaced()] == []


def test_a_stage_that_is_wrong_is_found(lab: Lab) -> None:
    """Were the queue's time said to be the request's, the events would not agree."""
    file = lab.folder / "events"
    source, dest = lab.start_pair(
        *ASKING, f"--events={lab.folder / 'source'}",
        dest_arguments=(f"--events={file}", "--quiet"), source_rig="delay queue",
    )  # fmt: skip
    source.succeed()
    assert dest.wait() == 0
    events = [*read(lab.folder / "source"), *read(file)]
    (wake,) = (
        event for event in events
        if event["event"] == "vcpu-wake" and event["queue-us"] >= DELAY_SECONDS * 1e6
    )  # fmt: skip
    assert not [words for truth in truths(events) for words in truth.misplaced()]
    wake["request-us"] += wake["queue-us"]
    wake["queue-us"] = 0.0
    assert [words for truth in truths(events) for words in truth.misplaced()]
