"""An event loop inside a command ends with the first signal, in order, wherever that finds it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol.errors import ConnectionLost, MigrationCancelled
from scripts.runtime.interrupts import SIGNALS, raise_when_signalled
from scripts.runtime.looping import run_until_signalled


@pytest.fixture(autouse=True)
def around() -> Iterator[list[int]]:
    """Have signals that no loop hears noted, in place of whatever they would do to this process."""
    heard: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    yield heard
    assert [signal.getsignal(number) for number in SIGNALS] == [note] * len(SIGNALS)
    for number, handler in before.items():
        signal.signal(number, handler)


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
def test_a_signal_cancels(around: list[int], number: signal.Signals) -> None:
    """What runs cleans up; the signal's name is in the error; later ones change nothing."""
    cleaned_up = False

    async def do() -> None:
        nonlocal cleaned_up
        signal.raise_signal(number)
        try:
            await trio.sleep_forever()
        finally:
            signal.raise_signal(signal.SIGTERM)
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            signal.raise_signal(signal.SIGINT)
            cleaned_up = True

    with pytest.raises(MigrationCancelled, match=f"cancelled by {number.name}"):
        run_until_signalled(do)
    assert cleaned_up
    assert around == []


def test_a_signal_that_another_thread_gets_cancels(around: list[int]) -> None:
    """The kernel gives a signal to any thread of a process; the loop hears it while it waits."""
    thread_is_over = threading.Event()
    thread = threading.Thread(target=thread_is_over.wait)
    thread.start()

    async def signal_when_blocked() -> None:
        await wait_all_tasks_blocked()
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, signal.SIGHUP)
        await trio.sleep_forever()

    with pytest.raises(MigrationCancelled, match="SIGHUP"):
        run_until_signalled(signal_when_blocked)
    thread_is_over.set()
    thread.join()
    assert around == []


def test_a_signal_before_the_loop_is_no_exception_in_it() -> None:
    """One that comes while the loop begins is answered by it, not by who would raise."""
    run = trio.run

    def run_late(*arguments: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return run(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, raise_when_signalled():
        patch.setattr(trio, "run", run_late)
        with pytest.raises(MigrationCancelled, match="SIGINT"):
            run_until_signalled(trio.sleep_forever)


@pytest.mark.parametrize("is_over", [False, True])
def test_a_signal_that_cancels_nothing_is_answered_around(
    around: list[int], *, is_over: bool
) -> None:
    """One that comes when all is done is not lost, whether the loop is over or not."""
    run = trio.run

    async def do() -> int:
        if not is_over:
            signal.raise_signal(signal.SIGTERM)
        return 7

    def run_and_signal(*arguments: object) -> object:
        result: object = run(*arguments)  # type: ignore[arg-type]
        if is_over:
            signal.raise_signal(signal.SIGTERM)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio, "run", run_and_signal)
        assert run_until_signalled(do) == 7
    assert around == [signal.SIGTERM]


def test_who_is_told_by_a_signal_to_ignore_the_next_is_not_changed() -> None:
    """A signal that raises while the loop is prepared leaves the others as it made them."""
    install = signal.signal

    def install_late(number: int, handler: Any) -> Any:  # noqa: ANN401 - as it has
        before = install(number, handler)
        if number == SIGNALS[0] and handler != signal.SIG_IGN:
            signal.raise_signal(SIGNALS[1])
        return before

    def prepare() -> None:
        with raise_when_signalled():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(signal, "signal", install_late)
                with pytest.raises(MigrationCancelled, match=SIGNALS[1].name):
                    run_until_signalled(trio.sleep_forever)
            assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}

    with pytest.raises(MigrationCancelled, match=SIGNALS[1].name):
        prepare()


def test_a_failure_is_told() -> None:
    """The one error of all tasks comes out; one that follows from a signal is a cancellation."""

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ConnectionLost("cut")

    async def fail_cancelled() -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionLost("cut")

    with pytest.raises(ConnectionLost, match="cut"):
        run_until_signalled(fail)
    with pytest.raises(MigrationCancelled):
        run_until_signalled(fail_cancelled)


def test_a_signal_that_was_swallowed_is_raised_again() -> None:
    """Whoever is about to run something for long hears of it, and so does the end of the block."""

    def go_on() -> None:
        with raise_when_signalled():
            with suppress(MigrationCancelled):
                signal.raise_signal(signal.SIGTERM)
            with pytest.raises(MigrationCancelled, match="SIGTERM"):
                run_until_signalled(trio.sleep_forever)

    with pytest.raises(MigrationCancelled, match="SIGTERM"):
        go_on()
    with raise_when_signalled():
        run_until_signalled(partial(trio.sleep, 0))
