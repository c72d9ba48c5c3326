"""Signals outside the event loop: one line and 130, or nothing once the end is decided."""

import signal
import subprocess
import sys

import pytest

from protocol.errors import MigrationCancelled
from scripts.runtime.interrupts import raise_when_signalled
from tests.processes import ROOT, SECONDS_MAX

NAMES = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"]
# Whatever has started the tests may have them ignore some.
HEED = (
    "import signal\n"
    f"for name in {NAMES}:\n"
    "    signal.signal(signal.Signals[name], signal.SIG_DFL)\n"
)  # fmt: skip
RAISE = "for _ in range(2):\n    signal.raise_signal(signal.{name})\nprint('on')"


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python that heeds all signals, as far as it does not say otherwise."""
    return subprocess.run(
        [sys.executable, "-P", "-c", HEED + code], env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip


def run(call: str, name: str) -> subprocess.CompletedProcess[str]:
    """Run Python that prepares for signals by a call, and then gets one twice."""
    return run_python(
        f"from scripts.runtime import interrupts\ninterrupts.{call}()\n{RAISE.format(name=name)}"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_ends_the_process(name: str) -> None:
    """The first signal is the last thing that happens."""
    done = run("exit_when_signalled", name)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == f"midstream: cancelled by {name}\n"


def test_who_knows_where_the_guest_is_adds_that() -> None:
    """It is asked when the signal comes, and both the line and who is told have it."""
    done = run_python(
        "from scripts.runtime import interrupts\n"
        "interrupts.exit_when_signalled()\n"
        "interrupts.tell_before_exit(lambda reason: print(reason, flush=True))\n"
        "places = ['nowhere']\n"
        "interrupts.place_before_exit(lambda reason: f'{reason}; {places[-1]}')\n"
        "places += ['here']\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    assert (done.returncode, done.stdout) == (130, "cancelled by SIGINT; here\n")
    assert done.stderr == "midstream: cancelled by SIGINT; here\n"


@pytest.mark.parametrize("name", NAMES)
def test_an_end_that_is_decided_is_not_disturbed(name: str) -> None:
    """Once the outcome is to be told, signals change nothing."""
    done = run("ignore_signals", name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")


def test_signals_that_came_too_early_count() -> None:
    """A signal that was blocked while the process started ends it as soon as it can say so."""
    code = (
        "import scripts.runtime.interrupts\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "scripts.runtime.interrupts.exit_when_signalled()\n"
        "print('on')"
    )
    done = run_python(code)
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, "")
    assert done.stderr == "midstream: cancelled by SIGINT\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_block_can_clean_up(name: str) -> None:
    """The first signal leaves the block by an exception, the second does not disturb it."""
    number = signal.Signals[name]
    before = signal.getsignal(number)
    cleaned_up = False

    def work() -> None:
        nonlocal cleaned_up
        with raise_when_signalled():
            try:
                signal.raise_signal(number)
            finally:
                signal.raise_signal(number)
                cleaned_up = True

    with pytest.raises(MigrationCancelled, match=name):
        work()
    assert cleaned_up
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_before_the_command_line_is_read_waits_for_that(name: str) -> None:
    """Only then somebody can be told why the process ends; a second signal does not wait."""
    code = (
        "from scripts.runtime import interrupts\n"
        "interrupts.exit_when_signalled(at_once=False)\n"
        f"signal.raise_signal(signal.{name})\n"
        "print('read', flush=True)\n"
        "{more}"
        "interrupts.tell_before_exit(lambda reason: print(reason, flush=True))\n"
        "print('on', flush=True)"
    )

    done = run_python(code.format(more=""))
    assert (done.returncode, done.stdout) == (130, f"read\ncancelled by {name}\n")
    assert done.stderr == f"midstream: cancelled by {name}\n"
    done = run_python(code.format(more="signal.raise_signal(signal.SIGTERM)\n"))
    assert (done.returncode, done.stdout) == (130, "read\n")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT"])
def test_what_a_process_was_started_to_ignore_it_ignores(name: str) -> None:
    """A command under `nohup` goes on when the terminal is closed."""
    code = (
        f"signal.signal(signal.{name}, signal.SIG_IGN)\n"
        "from scripts.runtime import interrupts\n"
        f"assert signal.{name} not in interrupts.SIGNALS\n"
        f"interrupts.exit_when_signalled()\nsignal.raise_signal(signal.{name})\nprint('on')"
    )
    done = run_python(code)
    assert (done.returncode, done.stdout) == (0, "on\n")
