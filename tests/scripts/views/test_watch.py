"""A run is followed while it goes on; its watchers see the end, and are always left."""

import os
from pathlib import Path
from types import TracebackType

import pytest
import trio
from trio.testing import MockClock

from scripts.views.live import LiveState
from scripts.views.spool import open_spool
from scripts.views.watch import PERIOD_SECONDS, watching
from scripts.views.watchers import is_drawn, screens_of
from tests.stories import half_sent, write


class Notebook:
    """A watcher that writes down what it is shown."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.seen: list[str] = []

    def __enter__(self) -> "Notebook":
        self.seen.append("enter")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seen.append("exit")

    def show(self, state: LiveState, now_ns: int) -> None:
        """Note the state."""
        assert now_ns > 0
        self.seen.append(state.state)

    async def run(self) -> None:
        """Note that it runs."""
        self.seen.append("run")

    async def farewell(self) -> None:
        """Note that it ends."""
        self.seen.append("farewell")


async def test_what_comes_is_shown(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each period shows what has come by then, and the last is shown when it is cancelled."""
    lines = write(tmp_path / "events", half_sent()).read_bytes().splitlines(keepends=True)
    half = next(at for at, line in enumerate(lines) if b"preempt" in line)
    notebook = Notebook()
    with open_spool() as spool, spool.path.open("ab", buffering=0) as out:
        async with watching(spool, [notebook]):
            await trio.sleep(PERIOD_SECONDS / 2)
            os.write(out.fileno(), b"".join(lines[:half]))
            await trio.sleep(PERIOD_SECONDS * 10)
            os.write(out.fileno(), b"".join(lines[half:]))
    assert notebook.seen[0] == "enter"
    assert set(notebook.seen[1:3]) == {"run", "none"}
    assert set(notebook.seen[3:-3]) == {"postcopy-active"}
    assert notebook.seen[-3:] == ["completed", "farewell", "exit"]


@pytest.mark.parametrize("switch", ["quiet", "verbose"])
def test_who_wants_no_picture_gets_none(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with `--quiet` nor between the lines of `--verbose`, nor without a terminal."""
    plain = {"quiet": False, "verbose": False}
    monkeypatch.setenv("TERM", "xterm")
    assert not is_drawn(plain)
    assert screens_of(plain) == []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert is_drawn(plain)
    assert len(screens_of(plain)) == 1
    assert not is_drawn(plain | {switch: True})
    assert screens_of(plain | {switch: True}) == []
