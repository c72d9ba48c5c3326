"""The engine `processes`: workers on this machine, each a process that runs one job at a time.

A worker that is lost (killed, or out of memory) is replaced, and its job run again; a job that has
lost several workers is told as failed, so that one that cannot be run does not hold up the others.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from protocol.errors import MidstreamError
from scripts.reports import FAILED
from scripts.runtime.parent import PARENT_VARIABLE
from scripts.runtime.spawn import package_environment
from scripts.screen.words import counted
from scripts.sweep.kinds import Job
from scripts.sweep.running import Line, line_of

# So often is a job begun, if its workers are lost.
ATTEMPTS_MAX = 3

# How often whoever waits is shown that time passes.
_TICK_SECONDS = 0.25
# How long a worker may take to end what it has started.
_END_SECONDS_MAX = 10.0
_PIECE_BYTES = 1 << 16

Take = Callable[[Line], None]
Tick = Callable[[], None]


@dataclass(eq=False)
class _Worker:
    """One process, and what it is at.

    Attributes:
        process: Its standard input takes jobs, its standard output gives lines.
        job: The one that it runs; None for none.
        answer: What has come of its line so far.
    """

    process: subprocess.Popen[bytes]
    job: Job | None = None
    answer: bytearray = field(default_factory=bytearray)

    def begin(self, job: Job) -> None:
        """Give it a job; one that it does not live to take is lost with it."""
        self.job = job
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(job.to_plain()).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            # The end of its output says so, too.
            return

    def fileno(self) -> int:
        """Return where its lines come from."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def close(self) -> None:
        """Close its pipes."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                # A job that it never took.
                continue


def run_on_processes(jobs: Sequence[Job], count: int, take: Take, tick: Tick) -> None:
    """Run jobs on this machine.

    Args:
        jobs: What is to be run.
        count: How many at a time.
        take: Is given each line as soon as it is there.
        tick: Is called some times a second.

    Raises:
        MidstreamError: The system refused to start a process.
    """
    _Pool(jobs, take, tick).run(min(count, len(jobs)))


class _Pool:
    """The workers of one sweep."""

    def __init__(self, jobs: Sequence[Job], take: Take, tick: Tick) -> None:
        self._waiting = deque(jobs)
        self._lost: dict[str, int] = {}
        self._take, self._tick = take, tick
        self._selector = selectors.DefaultSelector()
        self._workers: set[_Worker] = set()

    def run(self, count: int) -> None:
        try:
            for _ in range(count):
                self._start()
            while self._workers:
                for key, _ in self._selector.select(_TICK_SECONDS):
                    self._hear(key.data)
                self._tick()
        finally:
            self._end()

    def _start(self) -> None:
        """Start a worker for the next job, if there is one."""
        if not self._waiting:
            return
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "scripts.sweep.worker"],
                env={**package_environment(), PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            )
        except OSError as error:
            raise MidstreamError(f"cannot start a worker: {error.strerror}") from error
        worker = _Worker(process)
        self._workers.add(worker)
        self._selector.register(worker, selectors.EVENT_READ, worker)
        worker.begin(self._waiting.popleft())

    def _hear(self, worker: _Worker) -> None:
        """Read what a worker says; it says one line at a time, and then waits."""
        piece = os.read(worker.fileno(), _PIECE_BYTES)
        if not piece:
            self._remove(worker)
            self._start()
            return
        worker.answer += piece
        if not worker.answer.endswith(b"\n"):
            return
        line = json.loads(worker.answer)
        worker.answer.clear()
        worker.job = None
        self._take(line)
        if self._waiting:
            worker.begin(self._waiting.popleft())
        else:
            self._remove(worker)

    def _remove(self, worker: _Worker) -> None:
        """Let a worker go that has nothing to do, or that is gone."""
        self._selector.unregister(worker)
        self._workers.discard(worker)
        worker.close()
        status = worker.process.wait()
        job = worker.job
        if job is None:
            return
        times = self._lost[job.key] = self._lost.get(job.key, 0) + 1
        if times < ATTEMPTS_MAX:
            self._waiting.appendleft(job)
        else:
            workers = counted(times, "worker", "workers")
            reason = f"{workers} ended in the middle of it, the last {_ending(status)}"
            self._take(line_of(job, FAILED, reason))

    def _end(self) -> None:
        """End what still runs: real runs in order, which their worker sees to."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(_END_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.close()
        self._selector.close()


def _ending(status: int) -> str:
    """Return how a process ended, in words."""
    if status >= 0:
        return f"with exit status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"
