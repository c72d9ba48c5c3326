"""A run is followed while it goes on; its watchers see the end, and are always left."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from scripts.reports import Outputs
from scripts.views.live import LiveState
from scripts.views.outputs import history_of, read_spool
from scripts.views.spool import Spool, is_drawn, open_spool, screens_of
from scripts.views.watch import PERIOD_SECONDS, REST_SECONDS_MAX, rest_seconds, watching
from tests.stories import half_sent, write


class Notebook:
    """A watcher that writes down what it is shown."""

    dropped = 0

    def __init__(self) -> None:
        """Start with nothing."""
        self.seen: list[str] = []

    def __enter__(self) -> "Notebook":
        self.seen.append("enter")
        return self

    def __exit__(self, *_: object) -> None:
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

    def stay(self, spool: Spool) -> None:
        """Note that it stays."""
        self.seen.append(f"stay {spool.fd}")


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


async def test_a_torn_line_stops_no_migration(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where a full disk took half a line and the other side's went on, both are left out."""
    lines = write(tmp_path / "events", half_sent()).read_bytes().splitlines(keepends=True)
    notebook = Notebook()
    with open_spool() as spool, spool.path.open("ab", buffering=0) as out:
        async with watching(spool, [notebook]):
            os.write(out.fileno(), b"".join([*lines[:6], lines[6][:20], *lines[6:]]))
            await trio.sleep(PERIOD_SECONDS * 2)
        assert len(read_spool(spool).sends) == len(history_of(half_sent()).sends)
    assert notebook.seen[-3:] == ["completed", "farewell", "exit"]


class Clocks:
    """Stands for the module `time`: clocks that only a picture moves."""

    def __init__(self, wall: float, cpu: float) -> None:
        """Take how many seconds a picture takes, of each kind."""
        self._took = wall, cpu
        self._wall = self._cpu = 0.0

    def draw(self) -> None:
        """Let a picture's time pass."""
        self._wall += self._took[0]
        self._cpu += self._took[1]

    def monotonic(self) -> float:
        """Return the wall's time."""
        return self._wall

    def monotonic_ns(self) -> int:
        """Return it in nanoseconds, from 1 on."""
        return 1 + int(self._wall * 1e9)

    def thread_time(self) -> float:
        """Return the processor's."""
        return self._cpu


class Artist(Notebook):
    """A watcher whose pictures take time."""

    def __init__(self, clocks: Clocks) -> None:
        """Take what they move."""
        super().__init__()
        self._clocks = clocks
        self.shown_at: list[float] = []

    def show(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, state: LiveState, now_ns: int
    ) -> None:
        """Draw, slowly."""
        super().show(state, now_ns)
        self.shown_at.append(trio.current_time())
        self._clocks.draw()


@pytest.mark.parametrize(
    ("wall", "cpu", "rest"),
    [
        # The machine was busy with other things for a third of a second.
        (0.34, 0.001, PERIOD_SECONDS),
        (0.01, 0.01, 0.5),
        # However much there is to draw, it is seen once a second.
        (0.34, 0.34, REST_SECONDS_MAX),
    ],
)
async def test_drawing_rests_by_processor_time(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    wall: float,
    cpu: float,
    rest: float,
) -> None:
    """What others did with the processor meanwhile makes no picture late, nor does a large one."""
    clocks = Clocks(wall, cpu)
    monkeypatch.setattr("scripts.views.watch.time", clocks)
    artist = Artist(clocks)
    with open_spool() as spool:
        async with watching(spool, [artist]):
            await trio.sleep(10 * rest + rest / 2)
    *regular, last = artist.shown_at
    gaps = [after - before for before, after in pairwise(regular)]
    assert gaps == pytest.approx([rest] * 10)
    assert last - regular[-1] == pytest.approx(rest / 2)


def test_a_rest_is_bounded_on_both_sides() -> None:
    """Never longer than a second, never shorter than the period."""
    assert rest_seconds(0) == PERIOD_SECONDS
    assert rest_seconds(1000) == REST_SECONDS_MAX == 1


@pytest.mark.parametrize("switch", ["quiet", "verbose"])
def test_who_wants_no_picture_gets_none(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with `--quiet` nor between the lines of `--verbose`, nor without a terminal."""
    plain, unwanted = Outputs(), Outputs(quiet=switch == "quiet", verbose=switch == "verbose")
    monkeypatch.setenv("TERM", "xterm")
    assert not is_drawn(plain)
    assert screens_of(plain) == []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert is_drawn(plain)
    assert len(screens_of(plain)) == 1
    assert not is_drawn(unwanted)
    assert screens_of(unwanted) == []
