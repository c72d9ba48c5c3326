"""Tests of scripts/injection/inject.py: what the command prints, keeps and returns."""

import json
import signal
from pathlib import Path

from tests.processes import Lab, read_events, until

SMALL = 'timeout = "20s"\n[migration]\nsize = "4MiB"\npostcopy-after = 0\n'
STALL = '[[step]]\nwhen = { time = "0ms" }\nnetwork = { do = "stall" }\n'


def write(folder: Path, text: str, name: str = "case") -> Path:
    """Return a scenario file with this text."""
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_not_as_expected_is_told(lab: Lab) -> None:
    """A failed expectation prints what was expected and what was seen, a line each, and exits 1."""
    wrong = write(lab.folder, SMALL + '[expect]\nstatus = "completed"\nboosted = 7\n', "wrong")
    good = write(lab.folder, SMALL + '[expect]\nstatus = "completed"\n', "good")
    process = lab.run("inject", wrong, good)
    assert process.status == 1
    assert process.output == "FAILED wrong\n  boosted: expected 7, seen 0\nok good\n"
    assert process.errors == ""


def test_a_step_that_never_happens_is_a_failure(lab: Lab) -> None:
    """A scenario whose moment does not come shows nothing, and says so."""
    step = '[[step]]\nwhen = { state = "cancelled" }\nprocess = { do = "kill", side = "dest" }\n'
    process = lab.run(
        "inject", write(lab.folder, SMALL + step + '[expect]\nstatus = "completed"\n')
    )
    assert process.status == 1
    assert "  step 1 (case.toml:6): expected its moment, seen it never came\n" in process.output


def test_runs_are_repeated_and_kept(lab: Lab) -> None:
    """Each run leaves its events, with what was injected among them, and its report."""
    path = write(
        lab.folder,
        SMALL
        + 'link = "800Mbit/s"\n'
        + "[[step]]\nwhen = { page = 0, received = 0.5 }\nfault = [1]\n"
        + '[[step]]\nwhen = { requested = 1 }\nnetwork = { do = "heal" }\n'
        + '[expect]\nstatus = "completed"\nurgent-order = [1]\n',
    )
    process = lab.run("inject", "--repeat=2", f"--keep={lab.folder / 'kept'}", path)
    assert (process.status, process.output) == (0, "ok case: 2 of 2\n")
    for number in (1, 2):
        folder = lab.folder / "kept" / f"case-{number}"
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert report["status"] == "completed"
        told = {"kind": "proxy", "bytes-per-second": 100_000_000, "queue": "fifo"}
        assert report["midstream"]["link"] == told
        lines = read_events(folder / "events.jsonl")
        assert {line["side"] for line in lines} == {"source", "dest", "inject"}
        assert [line["step"] for line in lines if line["event"] == "inject"] == [1, 2]
        assert [line["page"] for line in lines if line["event"] == "touch"] == [1]


def test_a_failed_run_does_not_end_the_others(lab: Lab) -> None:
    """All runs are made and counted, and those that fail are kept where the command says."""
    path = write(lab.folder, SMALL + "[expect]\nboosted = 7\n")
    process = lab.start("inject", "--repeat=3", path, environment={"TMPDIR": str(lab.folder)})
    assert process.wait() == 1
    lines = process.output.splitlines()
    assert lines.pop() == "FAILED case: 0 of 3"
    assert len(lines) == 9
    for number in (1, 2, 3):
        failed, reason, kept = (lines.pop(0) for _ in range(3))
        assert failed == f"FAILED case (run {number} of 3)"
        assert reason == "  boosted: expected 7, seen 0"
        folder = Path(kept.removeprefix("  kept in "))
        assert read_events(folder / "events.jsonl")
        assert json.loads((folder / "report.json").read_text(encoding="utf-8"))
    left = {folder.name for folder in lab.folder.glob("midstream-inject-*")}
    assert len(left) == 3


def test_where_runs_cannot_be_kept_is_told(lab: Lab) -> None:
    """A folder that cannot be made is told before any run begins."""
    path = write(lab.folder, SMALL + '[expect]\nstatus = "completed"\n')
    lab.run("inject", f"--keep={path}", path).fail(2, "--keep", "is no directory")


def test_a_run_that_does_not_end_is_ended(lab: Lab) -> None:
    """When its time is up both sides are killed, and the scenario has failed."""
    text = SMALL.replace("20s", "3s") + STALL + '[expect]\nstatus = "completed"\n'
    process = lab.run("inject", write(lab.folder, text))
    assert process.status == 1
    assert "  end: expected by itself in 3 s, seen ended from outside" in process.output
    lab.expect_nobody()


def test_ctrl_c_leaves_nothing(lab: Lab) -> None:
    """An interrupt ends both sides and the command, with exit status 130."""
    process = lab.start(
        "inject", write(lab.folder, SMALL + STALL + '[expect]\nstatus = "completed"\n')
    )
    lab.pid_of("scripts source")
    process.signal(signal.SIGINT)
    process.fail(130, "cancelled")
    until(lambda: not lab.living())
