"""Jobs on a Dask cluster: the lines are those of this machine's processes, whoever is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import MidstreamError
from scripts.commands import run as run_command
from scripts.runtime.spawn import package_environment
from scripts.sweep import dask_engine
from scripts.sweep.dask_engine import run_apart, run_on_dask, run_plain
from scripts.sweep.kinds import KINDS, Job
from scripts.sweep.running import Line, run_job
from tests.processes import until

POINT = {"size": "4MiB", "link": "1Gbit/s", "postcopy-after": "0", "access-rate": 0}
# A policy with which a run tells who runs it, and then waits for a file.
HELD = """
import os, time
from pathlib import Path
from protocol.policy import preset

folder = Path(__file__).parent
if not (folder / "gate").exists():
    (folder / "new").write_text(str(os.getppid()))
    (folder / "new").rename(folder / "held")
    while not (folder / "gate").exists():
        time.sleep(0.01)
MINE = preset("ordered")
"""


def jobs(count: int) -> list[Job]:
    """Return so many jobs that are simulated in a moment."""
    return [KINDS["simulate"].job({**POINT, "seed": seed}, Path()) for seed in range(count)]


def held(folder: Path) -> Job:
    """Return a job that is under way until there is a file `gate`."""
    path = folder / "held.py"
    path.write_text(HELD, encoding="utf-8")
    one = jobs(1)[0]
    values = {**one.values, "policy": f"{path}:MINE"}
    return Job("held", "simulate", one.point, values, one.model, {"policy": "its hash"})


def untimed(line: Line) -> Line:
    """Return a line without what is another each time."""
    return {**line, "took": None}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Start a scheduler and two workers, each a process; yield the scheduler's address."""
    pytest.importorskip("distributed", reason="no dask.distributed: midstream[sweep]")
    told = tmp_path / "scheduler.json"
    scheduler = ("dask_scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard",
                 f"--scheduler-file={told}")  # fmt: skip
    worker = ("dask_worker", f"--scheduler-file={told}", "--nthreads=1", "--no-nanny",
              "--no-dashboard", f"--local-directory={tmp_path}")  # fmt: skip
    processes = []
    try:
        for name, *words in (scheduler, worker, worker):
            with (tmp_path / f"{name}.log").open("ab") as log:
                processes.append(subprocess.Popen(
                    [sys.executable, "-m", f"distributed.cli.{name}", *words],
                    env=package_environment(), stdout=log, stderr=log,
                ))  # fmt: skip
        until(lambda: told.exists() and told.stat().st_size)
        yield json.loads(told.read_text(encoding="utf-8"))["address"]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_worker_that_is_killed_loses_no_run(cluster: str, tmp_path: Path) -> None:
    """200 lines, each once, and as they are when they are run here."""
    which = [held(tmp_path), *jobs(199)]
    lines: list[Line] = []
    killed: list[int] = []

    def kill() -> None:
        path = tmp_path / "held"
        if path.exists() and not killed:
            killed.append(int(path.read_text()))
            os.kill(killed[0], signal.SIGKILL)
            (tmp_path / "gate").touch()

    run_on_dask(which, 2, lines.append, kill, cluster)
    assert killed
    assert {line["key"]: untimed(line) for line in lines} == {
        job.key: untimed(run_job(job)) for job in which
    }
    assert len(lines) == 200


def test_a_cluster_of_this_machine_ends_with_its_jobs() -> None:
    """It is made where no scheduler is named."""
    pytest.importorskip("distributed", reason="no dask.distributed: midstream[sweep]")
    lines: list[Line] = []
    run_on_dask(jobs(3), 1, lines.append, lambda: None)
    assert sorted(line["point"]["seed"] for line in lines) == [0, 1, 2]
    assert all(line["status"] == "completed" for line in lines)


def test_a_worker_of_other_code_makes_no_line_of_this(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key would say what is not so."""
    job = jobs(1)[0]
    assert run_plain(job.to_plain(), dask_engine._CODE)["status"] == "completed"
    line = run_plain(job.to_plain(), "other")
    assert line["status"] == "failed"
    assert line["reason"].endswith("has other code")


def test_a_job_apart_is_the_same(tmp_path: Path) -> None:
    """A process of its own loads a policy anew; one that ends in the midst of it is told."""
    (tmp_path / "gate").touch()
    job = held(tmp_path)
    assert untimed(run_apart(job)) == untimed(run_job(job))
    (tmp_path / "held.py").write_text("import os\nos._exit(7)\n", encoding="utf-8")
    assert run_apart(job)["reason"] == "its process ended with status 7"


def test_no_scheduler_is_one_line() -> None:
    """One that is not there is told by its address."""
    pytest.importorskip("distributed", reason="no dask.distributed: midstream[sweep]")
    with pytest.raises(MidstreamError, match="--scheduler nonsense://x: "):
        run_on_dask(jobs(1), 1, lambda _: None, lambda: None, "nonsense://x")


def test_dask_that_is_not_there_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything runs; and a scheduler is for that engine."""
    monkeypatch.setattr("scripts.commands.ignore_signals", lambda: None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["sweep", str(tmp_path / "none.toml"), f"--out={tmp_path}"]
    assert run_command([*words, "--engine=dask"]) == 1
    assert capsys.readouterr().err == (
        "midstream: --engine dask needs dask.distributed, which is not installed: "
        "pip install 'midstream[sweep]'\n"
    )
    assert run_command([*words, "--scheduler=tcp://127.0.0.1:1"]) == 2
    assert "it is for --engine dask" in capsys.readouterr().err
