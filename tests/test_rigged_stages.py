"""A delay in a stage of a wait is in that stage, and the stages agree with both sides' events.

Real processes.  A delay is a least length: no machine is too slow for what is asserted here.
"""

import json
from typing import Any

import pytest

from protocol.report import STAGES
from tests.processes import Lab, read_events, until
from tests.rigged import DELAY_SECONDS
from tests.test_half_sent_page import PATIENT, step
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
    ("policy", "page_size"),
    [
        *(
            (policy, "2MiB")
            for policy in (
                "ordered",
                "vanilla",
                "own-channel",
                "drop",
                "parallel",
                "split",
                "resend",
            )
        ),
        # Of what goes again an event tells by its page.
        ("critical-first", "4KiB"),
    ],
)
def test_stages_end_where_the_events_say(lab: Lab, policy: str, page_size: str) -> None:
    """Between what both sides told before and after: on one machine they have one clock."""
    file = lab.folder / "events"
    lab.run(
        "migrate", "--size=24MiB", "--vcpus=6", "--access-rate=0", "--postcopy-after=0",
        f"--policy={policy}", f"--page-size={page_size}", "--chunk-size=256KiB",
        f"--events={file}", "--quiet",
    ).succeed()  # fmt: skip
    events = read(file)
    check_sums([event for event in events if event["event"] == "vcpu-wake"])
    found = list(truths(events))
    assert [words for truth in found for words in truth.misplaced()] == []


# It goes again, and its first copy is in the second frame of the background.
TWICE = 20


def test_a_wait_that_the_first_of_two_copies_ends_has_the_stages_of_that(lab: Lab) -> None:
    """It was on its way when it was asked for, and comes late; its copy has not gone by then."""
    source_file, dest_file = (lab.folder / f"{side}.jsonl" for side in ("source", "dest"))
    script = lab.folder / "steps.toml"
    script.write_text(step("page = 0, received = 1", [TWICE]), encoding="utf-8")
    # The first two frames go whole, and the third stays under way.
    source, dest = lab.start_pair(
        "--policy=critical-first", "--size=1MiB", "--page-size=4KiB", "--chunk-size=64KiB",
        "--program=scripted", "--postcopy-after=0", "--max-postcopy-bandwidth=1GB/s", "--vcpus=1",
        *PATIENT, f"--events={source_file}",
        dest_arguments=(f"--steps={script}", f"--events={dest_file}", *PATIENT),
        source_rig="overtake-all; hold-frame 10000 32; "
        f'stand-at page-request {TWICE} {dest_file} "page-placed","block":0,"page":(16|{TWICE}),',
        dest_rig=f'stand-at vcpu-wait {TWICE} {source_file} "page-sent","block":0,"page":16,; '
        f'hold-precopy {source_file} "page-request","block":0,"page":{TWICE},',
    )  # fmt: skip
    until(lambda: read_events(source_file, "overtake"))
    (session,) = read_events(source_file, "session")
    lab.run("set", "max-postcopy-bandwidth=0", f"--session={session['session']}").succeed()
    source.succeed()
    assert dest.wait() == 0, dest.errors
    (wake,) = read_events(dest_file, "vcpu-wake")
    check_sums([wake])
    assert (wake["page"], wake["answer"]) == (TWICE, "sent-again")
    assert wake["receive-us"] >= DELAY_SECONDS * 1e6
    assert wake["queue-us"] == wake["send-us"] == 0
    (truth,) = truths([*read(source_file), *read(dest_file)])
    assert truth.channel == "precopy"
    assert truth.misplaced() == []
    # Were it said to have waited for the turn of its copy, the events would not agree.
    truth.wake["queue-us"], truth.wake["receive-us"] = truth.wake["receive-us"], 0.0
    assert truth.misplaced()


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
