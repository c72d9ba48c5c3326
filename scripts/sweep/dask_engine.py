"""The engine `dask`: jobs on a Dask cluster, of this machine or of many.

Dask runs a job of a worker that is lost on another.  A worker that stays for days, or is on another
machine, may have other code than the sweep was looked at with: then the line says so, since its key
would be wrong.  What a worker has loaded once it does not load again, so that a job with files, as
of a policy of the user's, is run in a process of its own; and so is a real run, which has signals.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from protocol.errors import MidstreamError
from protocol.text import one_line
from scripts.reports import FAILED
from scripts.runtime.parent import PARENT_VARIABLE
from scripts.runtime.spawn import package_environment
from scripts.sweep.kinds import Job, code_hash
from scripts.sweep.processes import ATTEMPTS_MAX, Take, Tick
from scripts.sweep.running import Line, line_of, run_job

# As of `processes`.
_TICK_SECONDS = 0.25
_CONNECT_SECONDS_MAX = 10.0

# When this process has loaded its code, or a moment later.
_CODE = code_hash()


class NoDask(MidstreamError):
    """The library is not installed."""


def check_dask() -> None:
    """Refuse what could not be run.

    Raises:
        NoDask: distributed is not installed.
    """
    try:
        import distributed  # noqa: F401, PLC0415 - few have it, and it is slow to load
    except ImportError as error:
        raise NoDask(
            "--engine dask needs dask.distributed, which is not installed: "
            "pip install 'midstream[sweep]'"
        ) from error


def run_on_dask(
    jobs: Sequence[Job], count: int, take: Take, tick: Tick, scheduler: str | None = None
) -> None:
    """Run jobs on a cluster.

    Args:
        jobs: What is to be run.
        count: How many workers a cluster of this machine has.
        take: Is given each line as soon as it is there.
        tick: Is called some times a second.
        scheduler: The address of a cluster that is there already, None for one of this machine.

    Raises:
        NoDask: distributed is not installed.
        MidstreamError: The scheduler cannot be reached, or is gone.
    """
    if not jobs:
        return
    check_dask()
    done: SimpleQueue[Any] = SimpleQueue()
    with _client(count, scheduler) as client:
        futures = {
            future.key: (future, job)
            for job in jobs
            for future in [
                client.submit(
                    run_plain, job.to_plain(), _CODE, key=f"midstream-{job.key}", pure=False
                )
            ]
        }
        for future, _ in futures.values():
            future.add_done_callback(done.put)
        while futures:
            tick()
            with suppress(Empty):
                future = done.get(timeout=_TICK_SECONDS)
                _, job = futures.pop(future.key)
                take(_line(future, job))
                future.release()


def run_plain(plain: Mapping[str, Any], code: str) -> Line:
    """Run a job in a worker.

    Args:
        plain: The job.
        code: The hash of the code that it was made with.
    """
    job = Job(**plain)
    if code != _CODE:
        return line_of(job, FAILED, f"a worker on {os.uname().nodename} has other code")
    return run_apart(job) if job.files or job.command != "simulate" else run_job(job)


def run_apart(job: Job) -> Line:
    """Run a job in a process of its own, which ends with this one.

    One that ends in the middle of it is told as failed.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scripts.sweep.worker"],
        env={**package_environment(), PARENT_VARIABLE: str(os.getpid())},
        input=json.dumps(job.to_plain()).encode() + b"\n",
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode or not done.stdout.endswith(b"\n"):
        return line_of(job, FAILED, f"its process ended with status {done.returncode}")
    line: Line = json.loads(done.stdout)
    return line


def _line(future: Any, job: Job) -> Line:  # noqa: ANN401 - Dask has no types
    if future.status == "finished":
        line: Line = future.result()
        return line
    if future.status == "error":
        error = future.exception()
        return line_of(job, FAILED, one_line(f"{type(error).__name__}: {error}"))
    raise MidstreamError("the Dask scheduler is gone; what is done is kept")


@contextmanager
def _client(count: int, scheduler: str | None) -> Iterator[Any]:
    """Yield a client; a cluster of its own ends with it."""
    import dask  # noqa: PLC0415 - as above
    from distributed import Client, LocalCluster  # noqa: PLC0415

    dask.config.set({"distributed.scheduler.allowed-failures": ATTEMPTS_MAX})
    if scheduler is None:
        with (
            LocalCluster(
                n_workers=count, threads_per_worker=1, dashboard_address=None, silence_logs="ERROR"
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS_MAX)
    except (OSError, ValueError) as error:
        raise MidstreamError(f"--scheduler {scheduler}: {one_line(str(error))}") from error
    with client:
        yield client
