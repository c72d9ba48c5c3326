"""A guest process goes with its engine, silently, and minds no Ctrl-C."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from guest.handle import open_guest
from guest.memory import GuestMemory
from guest.messages import pack
from guest.programs import ProgramSpec
from protocol.errors import GuestFailed

ROOT = Path(__file__).parents[2]

# Its second argument, when there is one, is a command that inherits the engine's control socket.
ENGINE = """
import subprocess
import sys
import trio
from guest.handle import open_guest
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from protocol.geometry import Geometry, RamBlock

async def main():
    with GuestMemory.create(Geometry((RamBlock("ram", 1 << 20, 4096),))) as memory:
        async with open_guest(memory, ProgramSpec("uniform", 3, image=True)) as guest:
            guest.board.set_present(slice(0, int(sys.argv[1])))
            await guest.run()
            if sys.argv[2:]:
                subprocess.Popen(sys.argv[2:], pass_fds=[guest._process._control.fileno()])
            print(guest.pid, flush=True)
            await trio.sleep_forever()

try:
    trio.run(main)
except KeyboardInterrupt:
    sys.exit(130)
"""


class Engine:
    """An engine in a process of its own, with a guest whose first pages are present."""

    def __init__(self, present_count: int, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(present_count), *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Leads a process group, as a command that was typed does.
            process_group=0,
        )
        assert self.process.stdout is not None
        self.guest_pid = int(self.process.stdout.readline())
        self.guest = os.pidfd_open(self.guest_pid)

    def guest_ends(self) -> bool:
        """Wait, not for long, until the guest process has ended; neither outlives the test."""
        readable, _, _ = select.select([self.guest], [], [], 10)
        os.close(self.guest)
        if not readable:
            self.process.kill()
        return bool(readable)

    def outcome(self) -> tuple[int, bytes]:
        """Return the engine's exit status, and what it and its guest said on standard error."""
        _, errors = self.process.communicate(timeout=10)
        return self.process.returncode, errors


def test_no_guest_survives_though_its_socket_does() -> None:
    """Should anything keep the engine's end open, so that no end of file comes, the kernel acts."""
    engine = Engine(0, "sleep", "60")
    engine.process.kill()
    assert engine.guest_ends()
    assert engine.process.wait(10) == -signal.SIGKILL
    os.killpg(engine.process.pid, signal.SIGKILL)
    engine.outcome()


async def test_a_guest_keeps_away_from_terminal_and_report(memory: GuestMemory) -> None:
    """Ctrl-C does not reach it, and what it might print comes into no report."""
    async with open_guest(memory, ProgramSpec("scripted", 1)) as guest:
        assert os.getpgid(guest.pid) != os.getpgid(0)
        assert str(await trio.Path(f"/proc/{guest.pid}/fd/1").readlink()) == "/dev/null"


# With all pages present the vCPUs are busy, with none they sleep.
@pytest.mark.parametrize("present_count", [256, 0])
def test_no_guest_survives_its_engine(present_count: int) -> None:
    """Not even kill -9 leaves a guest process, and it dies without a word."""
    engine = Engine(present_count)
    engine.process.kill()
    assert engine.guest_ends()
    assert engine.outcome() == (-signal.SIGKILL, b"")


@pytest.mark.parametrize("present_count", [256, 0])
def test_ctrl_c_leaves_no_guest_and_no_traceback(present_count: int) -> None:
    """Ctrl-C reaches the whole process group of a terminal; the engine alone acts on it."""
    engine = Engine(present_count)
    os.killpg(engine.process.pid, signal.SIGINT)
    assert engine.guest_ends()
    assert engine.outcome() == (130, b"")


async def test_an_interrupt_of_its_own_is_ignored(memory: GuestMemory) -> None:
    """A SIGINT that does reach the guest process changes nothing."""
    async with open_guest(memory, ProgramSpec("scripted", 1)) as guest:
        guest.board.set_present(slice(None))
        os.kill(guest.pid, signal.SIGINT)
        await guest.run()
        await guest.touch(0, 0)
        with trio.fail_after(5):
            await guest.receive()


async def test_a_failure_of_a_running_guest_is_told(
    memory: GuestMemory, capfd: pytest.CaptureFixture[str]
) -> None:
    """What must never happen inside is said in one line by whoever waits, not on standard error."""
    async with open_guest(memory, ProgramSpec("scripted", 1)) as guest:
        await guest._process.tell(pack("touch", 99, 0))
        with trio.fail_after(5), pytest.raises(GuestFailed, match=r"failed: IndexError in .*:"):
            await guest.receive()
    assert capfd.readouterr().err == ""


async def test_a_failure_of_a_vcpu_thread_is_told(
    memory: GuestMemory, capfd: pytest.CaptureFixture[str]
) -> None:
    """A thread that fails ends the whole guest: a guest of fewer vCPUs would be a lie."""
    async with open_guest(memory, ProgramSpec("scripted", 1)) as guest:
        await guest.run()
        await guest._process.tell(pack("touch", 0, 1 << 40))
        with trio.fail_after(5), pytest.raises(GuestFailed, match=r"failed: IndexError in .*vcpu"):
            await guest.receive()
    assert capfd.readouterr().err == ""
