"""Starts a side of a migration as a child process, and binds other programs to this one.

It takes no event loop: who starts sides does it first, and loads while they do.

`python -m scripts.runtime.spawn PARENT COMMAND...` becomes the command, and ends with PARENT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from protocol.errors import MigrationError
from scripts.runtime.interrupts import SIGNALS
from scripts.runtime.parent import (
    LEFT_VARIABLE,
    PARENT_VARIABLE,
    REASON_VARIABLE,
    RUN_VARIABLE,
    Orders,
)

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]

EXIT_NOT_STARTED = 127


@dataclass(frozen=True)
class Spawned:
    """A side that has been started; it is for a `Child` to talk to, and to end.

    Attributes:
        side: "source" or "dest".
        process: Its process; standard output and error are pipes if they are captured.
        reason: Where it says why it fails; does not block.
        left: What it leaves (`parent.leave_to_parent`), a file without a name; None if nothing.
    """

    side: str
    process: subprocess.Popen[bytes]
    reason: FileIO
    left: FileIO | None = None

    def put_down(self) -> None:
        """End it at once, if it has not ended; returns with it gone.

        For whoever has started it, whatever has become of who took it over.
        """
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.close()

    def close(self) -> None:
        """Close all that leads to it; more calls do nothing."""
        process = self.process
        for pipe in (self.reason, self.left, process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def spawn(  # noqa: PLR0913 - all but two by name
    side: str,
    arguments: Sequence[str] = (),
    *,
    capture: bool,
    prefix: Sequence[str] = (),
    module: str = "scripts",
    run: bytes | None = None,
    inherited: Sequence[int] = (),
    heir: bool = False,
    orders: Orders = Orders(),  # noqa: B008 - frozen
) -> Spawned:
    """Start `python -m MODULE SIDE ARGUMENTS`, which is `midstream SIDE ARGUMENTS`.

    The process leaves the terminal's group, so that Ctrl-C reaches only its parent.  It is started
    from the main thread: the kernel ends it when the thread that started it ends.

    Args:
        side: "source" or "dest".
        arguments: Its command line.
        capture: Read its standard output and error here instead of letting them through.
        prefix: The command line that brings a process to where it is to run.
        module: What has sides too, if it is not midstream itself.
        run: What it is to do, in the place of a command line: given to it in a file without a name,
            which nobody else sees.
        inherited: Descriptors that it has under the same numbers; they stay open here.
        orders: What it is to do beside its command line.
        heir: Read what it leaves when it has ended: not all that it says is then its own to say.

    Raises:
        MigrationError: The system refused to start a process.
    """
    near_reason, far_reason = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    ends = [far_reason]
    environment = {PARENT_VARIABLE: str(os.getpid()), REASON_VARIABLE: str(far_reason)}
    environment |= orders.to_environment()
    if run is not None:
        ends.append(_file_with(run))
        environment[RUN_VARIABLE] = str(ends[-1])
    left = None
    if heir:
        left = FileIO(os.memfd_create("midstream-left"), "r+")
        environment[LEFT_VARIABLE] = str(left.fileno())
        inherited = [*inherited, left.fileno()]
    pipe = subprocess.PIPE if capture else None
    # An interpreter that is interrupted while it starts prints a traceback.  The process unblocks
    # the signals as soon as it can answer them in its own words.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-m", module, side, *arguments],
            env={**package_environment(), **environment},
            stdin=subprocess.PIPE,
            stdout=pipe,
            stderr=pipe,
            pass_fds=[*ends, *inherited],
            process_group=0,
        )
    except OSError as error:
        os.close(near_reason)
        if left is not None:
            left.close()
        raise MigrationError(f"cannot start the {title_of(side)}: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for fd in ends:
            os.close(fd)
    return Spawned(side, process, FileIO(near_reason), left)


def title_of(side: str) -> str:
    """Return a side's name in a sentence."""
    return "destination" if side == "dest" else side


def _file_with(data: bytes) -> int:
    """Return a file without a name that holds these bytes, to be read from its beginning."""
    fd = os.memfd_create("midstream-run")
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def package_environment() -> dict[str, str]:
    """Return an environment in which a child finds this very package, wherever it is started."""
    path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def bound_to_this(command: Sequence[str]) -> list[str]:
    """Return the command line of a program that ends with this process, even if that is killed."""
    return [sys.executable, "-P", "-m", "scripts.runtime.spawn", str(os.getpid()), *command]


def main(parent: str, *command: str) -> None:
    """Bind this process to its parent, then run the command in its place."""
    # Late: who starts sides needs none of it.
    from guest.libc import die_with_parent  # noqa: PLC0415

    die_with_parent(int(parent))
    try:
        # The bond outlasts this.
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        sys.exit(EXIT_NOT_STARTED)


if __name__ == "__main__":
    main(*sys.argv[1:])
