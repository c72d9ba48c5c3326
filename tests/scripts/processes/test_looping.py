"""An event loop inside a command ends with the first signal, in order, wherever that finds it."""

import os
import signal

import pytest
import trio

from protocol.errors import ConnectionLost, MigrationCancelled
from scripts.processes.interrupts import SIGNALS, raise_when_signalled
from scripts.processes.looping import run_until_signalled


def held() -> set[int]:
    """Return which of the signals that end a command wait."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)


def test_what_comes_to_its_end_is_returned() -> None:
    """Without a signal it is as if the loop ran by itself."""

    async def do() -> int:
        await trio.lowlevel.checkpoint()
        assert not held()
        return 7

    assert run_until_signalled(do) == 7
    assert not held()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_cancels(number: signal.Signals) -> None:
    """What runs cleans up; the signal's name is in the error; later ones change nothing."""
    cleaned_up = False

    async def do() -> None:
        nonlocal cleaned_up
        os.kill(os.getpid(), number)
        try:
            await trio.sleep_forever()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            cleaned_up = True

    with pytest.raises(MigrationCancelled, match=f"cancelled by {number.name}"):
        run_until_signalled(do)
    assert cleaned_up
    assert not held()


def test_a_signal_before_the_loop_is_no_exception_in_it() -> None:
    """One that comes while the loop begins is answered by it, not by who would raise."""
    run = trio.run

    def run_late(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return run(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, raise_when_signalled():
        patch.setattr(trio, "run", run_late)
        with pytest.raises(MigrationCancelled, match="SIGINT"):
            run_until_signalled(trio.sleep_forever)


def test_a_failure_is_told() -> None:
    """The one error of all tasks comes out; one that follows from a signal is a cancellation."""

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ConnectionLost("cut")

    async def fail_cancelled() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionLost("cut")

    with pytest.raises(ConnectionLost, match="cut"):
        run_until_signalled(fail)
    with pytest.raises(MigrationCancelled):
        run_until_signalled(fail_cancelled)
