"""The workers on this machine: each job is run once, whatever becomes of who runs it."""

from __future__ import annotations

from pathlib import Path

from scripts.sweep.kinds import KINDS, Job
from scripts.sweep.processes import ATTEMPTS_MAX, run_on_processes
from scripts.sweep.running import Line, run_job

# A policy that ends its process as it is loaded, so often as there is no file for it yet.
DEADLY = """
import os, signal
from pathlib import Path
from protocol.policy import preset

for number in range({times}):
    try:
        Path(__file__).with_suffix(f".{{number}}").touch(exist_ok=False)
    except FileExistsError:
        continue
    os.kill(os.getpid(), signal.SIGKILL)
print("loaded")
MINE = preset("ordered")
"""
POINT = {"size": "16MiB", "link": "1Gbit/s", "postcopy-after": "0", "access-rate": 0}


def jobs(count: int) -> list[Job]:
    """Return so many jobs that are simulated in a moment."""
    return [KINDS["simulate"].job({**POINT, "seed": seed}, Path()) for seed in range(count)]


def deadly(folder: Path, times: int) -> Job:
    """Return a job whose workers are killed so often."""
    path = folder / "deadly.py"
    path.write_text(DEADLY.format(times=times), encoding="utf-8")
    values = {**jobs(1)[0].values, "policy": f"{path}:MINE"}
    return Job("deadly", "simulate", {"policy": "deadly"}, values, jobs(1)[0].model)


def run(which: list[Job], count: int = 2) -> dict[str, Line]:
    """Run jobs; return the lines by their keys, each of which came once."""
    lines: list[Line] = []
    run_on_processes(which, count, lines.append, lambda: None)
    found = {line["key"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def untimed(line: Line) -> Line:
    """Return a line without what is another each time."""
    return {**line, "took": None}


def test_each_job_is_run_as_it_would_be_here() -> None:
    """Whichever process runs it, its line is the same."""
    which = jobs(5)
    lines = run(which)
    assert {key: untimed(line) for key, line in lines.items()} == {
        job.key: untimed(run_job(job)) for job in which
    }
    assert all(line["status"] == "completed" for line in lines.values())
    assert all(line["took"].keys() == {"seconds", "cpu-seconds", "memory-max-bytes"}
               for line in lines.values())  # fmt: skip


def test_a_lost_worker_loses_no_run(tmp_path: Path) -> None:
    """Its job is run again, by another; a policy that prints does not disturb the lines."""
    lines = run([deadly(tmp_path, ATTEMPTS_MAX - 1), *jobs(4)])
    assert len(lines) == 5
    assert lines["deadly"]["status"] == "completed"
    assert len(list(tmp_path.glob("deadly.[0-9]"))) == ATTEMPTS_MAX - 1


def test_a_job_that_no_worker_survives_is_told(tmp_path: Path) -> None:
    """It fails alone, and says how."""
    lines = run([deadly(tmp_path, ATTEMPTS_MAX), *jobs(4)])
    assert lines["deadly"]["status"] == "failed"
    assert lines["deadly"]["reason"] == "3 workers ended in the middle of it, the last by SIGKILL"
    assert [line["status"] for line in lines.values()].count("completed") == 4


def test_a_job_that_cannot_be_run_where_it_is_says_so(tmp_path: Path) -> None:
    """The machine that runs it may not have what the one that looked at it had."""
    job = jobs(1)[0]
    values = {**job.values, "policy": f"{tmp_path}/gone.py:MINE"}
    line = run_job(Job("gone", "simulate", job.point, values, job.model))
    assert (line["status"], line["report"]) == ("failed", None)
    assert "gone.py: No such file or directory" in line["reason"]


def test_no_job_is_no_work() -> None:
    """Where everything is there already, nobody is started."""
    assert run([]) == {}
