"""`midstream source`: runs a source in this process, with a progress line on a terminal."""

from __future__ import annotations

from collections.abc import Callable

import trio

from scripts.options import SOURCE, Values
from scripts.screen.output import tell
from scripts.screen.progress import show_progress
from scripts.screen.recorder import Recorder
from scripts.sides import Outcome, run_side
from source.config import SourceConfig
from source.control import tell_paused
from source.session import SourceSession


def run_source(config: SourceConfig, values: Values) -> None:
    """Run a source to its end.

    Raises:
        MidstreamError: It failed, was cancelled, or found wrong memory.
    """

    async def run(recorder: Recorder) -> Outcome:
        session = SourceSession(config, recorder, _log(values))
        async with trio.open_nursery() as nursery:
            # A progress line between log lines would only be in their way.
            if not (values["quiet"] or values["verbose"]):
                nursery.start_soon(show_progress, session.progress)
            result = await session.run()
            nursery.cancel_scope.cancel()
        return result.report, result.problem

    run_side(SOURCE, values, run)


def resume_paused(session: str, address: str) -> None:
    """Tell a paused source of this user where to connect.

    Raises:
        MidstreamError: There is none, or it does not take the address.
    """
    trio.run(tell_paused, session, address)


def _log(values: Values) -> Callable[[str], None]:
    """Return who tells the user of a pause."""
    return (lambda _: None) if values["quiet"] else tell
