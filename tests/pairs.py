"""A source and a destination against each other in one process, with guests that really run.

Both engines share one event loop; their guests are processes of their own, and what goes between
the two goes over loopback.
"""

from __future__ import annotations

from typing import Any

import trio

import dest.config
import dest.midstream
import dest.session
import source.session
from guest.programs import ProgramSpec
from protocol.errors import MidstreamError, MigrationError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, RamBlock
from protocol.report import Result
from tests.bounds import bare, bounded, nothing_left
from tests.guests import HUGE, KIB, MIB, SEED
from tests.sides import source_config
from tests.stories import Recorder

GEOMETRY = Geometry(
    (RamBlock("ram", 4 * HUGE, HUGE), RamBlock("rom", 512 * KIB, TARGET_PAGE_BYTES))
)
# vCPUs that fault without pause while pages come, and soon have all of them.
BUSY = ProgramSpec("uniform", vcpu_count=2, write_ratio=0.3, seed=SEED)
# vCPUs that write less than a link of this speed carries.
QUIET = ProgramSpec("hotspot", vcpu_count=2, access_rates=(2000.0,), write_ratio=0.5, seed=SEED)

# Slow enough that vCPUs have to ask, and over in a quarter of a second.
PACED: dict[str, Any] = {"postcopy_bandwidth": 32 * MIB}

STARTUP_SECONDS = 60.0


class Outcome:
    """How one side ended: with a result, with an error, or cancelled."""

    def __init__(self) -> None:
        """Start as it is before the end."""
        self.events = Recorder()
        self.scope = trio.CancelScope()
        self.result: Result | None = None
        self.error: MidstreamError | None = None

    async def run(self, session: dest.session.DestSession | source.session.SourceSession) -> None:
        """Run a side to its end."""
        with self.scope:
            try:
                self.result = await session.run()
            except MidstreamError as error:
                self.error = bare(error)

    @property
    def problem(self) -> MigrationError | None:
        """What was wrong at the end of a migration that ended."""
        assert self.result is not None, repr(self.error)
        return self.result.problem

    @property
    def report(self) -> dict[str, Any]:
        """The report of a migration that ended."""
        assert self.result is not None, repr(self.error)
        return self.result.report


class Pair:
    """A source and a destination in one process; `migrate` runs them against each other."""

    def __init__(
        self,
        placement: str = "auto",
        backing: str = "base",
        geometry: Geometry = GEOMETRY,
        **changes: Any,  # noqa: ANN401 - any field of the source's configuration
    ) -> None:
        """Configure both; placement and backing are the destination's."""
        self._config = dest.config.DestConfig(
            host="127.0.0.1", port=0, backing=backing, placement=placement
        )
        self._geometry = geometry
        self.source, self.dest = Outcome(), Outcome()
        self._changes: dict[str, Any] = {"spec": BUSY} | changes

    async def migrate(self) -> None:
        """Run both to their ends; nothing of either may stay."""
        # What Python and trio open once.
        await trio.to_thread.run_sync(int)
        address: list[str] = []
        listening = trio.Event()

        def listens(text: str) -> None:
            address.append(text)
            listening.set()

        receiving = dest.session.DestSession(
            self._config, dest.midstream.MidstreamPeer(self._config), self.dest.events, listens,
            address.append,
        )  # fmt: skip
        with nothing_left(), bounded(STARTUP_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.dest.run, receiving)
                await listening.wait()
                port = int(address[0].rpartition(":")[2])
                sending = source.session.SourceSession(
                    source_config(self._geometry, port, **self._changes), self.source.events
                )
                nursery.start_soon(self.source.run, sending)

    def expect_success(self) -> dict[str, Any]:
        """Check that both sides agree that all went well; return the report."""
        assert self.source.problem is None
        assert self.dest.problem is None
        report = self.source.report
        assert report == self.dest.report
        assert report["status"] == "completed"
        assert report["ram"]["remaining"] == 0
        verified = report["midstream"]["verified"]
        assert verified["digest-equal"] is True
        assert verified["mismatches"] == 0
        assert verified["reads"] > 0
        return report
