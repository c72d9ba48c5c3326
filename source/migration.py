"""The source's side of a migration, step by step: set up, precopy, switch over, postcopy, close.

Reads like the sequence diagram in `protocol/README.md`.  What to send is decided in `scheduler` and
`convergence`, how it gets onto the wire in `sender`, and what is said at each step in `handshakes`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from guest import clock
from guest.busy_poll import BusyPoll
from guest.dirty_log import DirtyLog
from guest.interface import Guest, GuestSnapshot
from guest.memory import GuestMemory
from protocol import events
from protocol.capabilities import ANSWERS, CHECKSUM, RECOVER
from protocol.channels import Channel
from protocol.errors import MigrationError, RemoteProtocolError
from protocol.events import Emit
from protocol.geometry import PageId
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.messages import PageRequest, Resend, Running, SourceTime, Standing
from protocol.pageset import PageSet
from protocol.states import Event, Lifecycle, State
from source import handshakes
from source.config import SourceConfig
from source.connect import Connections
from source.convergence import NextStep
from source.downtime import Downtime
from source.engine import SendEngine
from source.framing import frame_of
from source.meter import Meter, channel_bytes, sent_bytes
from source.pacing import Pacer
from source.passes import Passes
from source.recovery import Lacking
from source.resends import Resends
from source.rests import send_rests
from source.resumption import Resumption
from source.returns import Inbox, Received
from source.scheduler import Scheduler
from source.sender import Sender
from source.steering import Steering
from source.tracking import RequestTracker


class Migration:
    """One migration; it goes from one *epoch*, a set of open connections, to the next.

    `attach` each epoch's connections, then `transfer` in the first and `resume` in the others.

    Attributes:
        epochs: The connections of all epochs, the present ones last.
        inboxes: What the present ones bring back.
        announced: SwitchOverAhead may have left: a destination that loses us waits.
        handed_over: The first byte of SwitchOver may have left: the guest is not this side's.
        memory: The guest's.
        resumption: Whoever comes back after a break is held against it.
        prepared: The destination has said Ready; from then on it answers.
    """

    def __init__(  # noqa: PLR0913 - the clock is the tests' alone
        self,
        config: SourceConfig,
        memory: GuestMemory,
        guest: Guest,
        lifecycle: Lifecycle,
        emit: Emit,
        dirty_log: DirtyLog,
        steering: Steering,
        *,
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            config: What the user said at the start.
            memory: The guest's.
            guest: Runs it.
            lifecycle: Where the migration is.
            emit: Takes events.
            dirty_log: Knows what the guest writes.
            steering: What the user says while it goes on.
            now_ns: Tells the time, by a clock that goes as fast as trio's.
        """
        self.meter = Meter()
        self._downtime = Downtime(self.meter, emit)
        self.scheduler = Scheduler(config.geometry, config.policy, config.chunk_bytes)
        self.resumption = Resumption(config.geometry, config.policy, self.scheduler)
        self.epochs: list[Connections] = []
        self.inboxes: dict[Channel, Inbox] = {}
        self.announced = False
        self.handed_over = False
        self.prepared = trio.Event()
        self.busy_poll = BusyPoll(yields=False)
        self._config = config
        self.memory = memory
        self._guest = guest
        self._lifecycle = lifecycle
        self._emit = emit
        self._dirty_log = dirty_log
        self._steering = steering
        self._now_ns = now_ns
        self._resends = Resends(config.geometry, self.scheduler, emit)
        self._passes = Passes(
            config, steering, self.scheduler, dirty_log, self._resends, self.meter, emit
        )
        self._snapshot: GuestSnapshot | None = None
        # What is dirty when the guest is handed over, and whether it is sent before or after.
        self._dirty = PageSet(config.geometry)
        self._step = NextStep.POSTCOPY
        # Puts a change of the limits into force; how depends on what is being sent.
        self._repace: Callable[[], None] = lambda: None
        steering.on_change = self._heed_limits
        self._pacer = Pacer(0)
        self._tracker = RequestTracker(config.geometry, critical=config.policy.critical)

    def attach(self, connections: Connections) -> None:
        """Take the connections of a new epoch; their inboxes are the caller's to run."""
        for name, connection in connections.items():
            connection.out.bytes_carried_before = channel_bytes(self.epochs, name)
        self.epochs.append(connections)
        capabilities = connections[Channel.PRECOPY].capabilities
        self._resends.begin_epoch(checked=CHECKSUM in capabilities)
        self._tells = ANSWERS in capabilities
        self._tracker.broke(clock.now_ns())
        self.inboxes = {
            name: Inbox(
                connection.returns, self._on_request, self._on_resend, self._serve,
                self._on_running,
            )
            for name, connection in connections.items()
        }  # fmt: skip
        outs = {name: connection.out for name, connection in connections.items()}
        engine = SendEngine(
            self.scheduler, partial(frame_of, self.memory, checked=self._resends.checked), outs,
            self._emit, pacer=self._pacer, tracker=self._tracker if self._tells else None,
            yields=self._config.policy.preempts,
        )  # fmt: skip
        self._sender = Sender(engine, outs, self._now_ns)
        self._main = outs[Channel.PRECOPY]
        self._inbox = self.inboxes[Channel.PRECOPY]

    @property
    def backing(self) -> str:
        """What the guest's memory is made of here."""
        return self.memory.backing

    @property
    def dirty_log(self) -> str:
        """Who logs what the guest writes, "kernel" or "software"."""
        return self._dirty_log.name

    @property
    def recoverable(self) -> bool:
        """Whether both sides can resume this migration, and the user wants them to."""
        capabilities = self.epochs[-1][Channel.PRECOPY].capabilities
        return RECOVER in capabilities and self._config.reconnect_seconds > 0

    @property
    def has_sent(self) -> bool:
        """Whether memory has left over the present connections."""
        return any(connection.out.target_pages_sent for connection in self.epochs[-1].values())

    @property
    def remaining_bytes(self) -> int:
        """Bytes of guest memory that have not been sent: of this pass, or of postcopy.

        Before the first pass that is all of it.
        """
        connections = self.epochs[-1].values() if self.epochs else ()
        begun = sum(connection.out.begun_memory_bytes for connection in connections)
        rest_bytes = self.resumption.rest_bytes
        return self._passes.waiting_bytes + self.scheduler.unsent_bytes - begun + rest_bytes

    @property
    def guest_side(self) -> str:
        """Which side has the guest: source or dest, or unknown while nobody has said so."""
        if not self.handed_over:
            return "source"
        return "dest" if self.meter.running_ns is not None else "unknown"

    @property
    def switch_over_reason(self) -> str:
        """What ended precopy, as the report names it; empty as long as nothing has."""
        return self._steering.convergence.means.value

    @property
    def phase_bytes(self) -> int:
        """What this pass, or postcopy, had to send when it began."""
        return self._passes.phase_bytes

    async def transfer(self) -> GuestSnapshot:
        """Bring the guest over; return it as it was when it stopped here.

        Raises:
            ConnectionLost, RemoteProtocolError, GuestFailed: The migration failed.
            MigrationError: Precopy does not converge.
        """
        await self._set_up()
        self._repace = lambda: self._passes.repace(self._sender)
        try:
            passes = self._passes.run(self._sender, self._main, self._inbox)
            self._dirty, self._step = await passes
        finally:
            self._repace = lambda: None
        await self._tell_time()
        if RECOVER in self.epochs[-1][Channel.PRECOPY].capabilities:
            self.announced = True
            await handshakes.announce_switch_over(self._main, self._inbox, self._downtime)
        self._snapshot = await self._stop_guest(self._dirty)
        await self._hand_over(self._snapshot)
        return await self._finish()

    async def resume(self, standing: Standing, lacking: Lacking) -> GuestSnapshot:
        """Go on after a break, over new connections, with the destination that was left.

        Args:
            standing: What it says of itself, and `resumption` found right.
            lacking: What it has not received, if it runs the guest.

        Raises:
            ConnectionLost, RemoteProtocolError: It broke again.
        """
        assert self._snapshot is not None, "only what was handed over is resumed"
        self.scheduler.counts.recoveries += 1
        if not standing.running:
            self._lifecycle.go_on(Event.SWITCH_OVER_AGAIN)
            self.resumption.hand_over_again()
            await self._hand_over(self._snapshot)
            return await self._finish()
        self._downtime.note_running(standing.run_ns, clock.now_ns())
        self.resumption.take(standing, lacking)
        self._lifecycle.go_on(Event.RECOVERED)
        self._main.keep_little_in_the_kernel()
        self._pace_postcopy()
        remaining = self.scheduler.remaining
        await send_rests(self.resumption.rests, self.memory, remaining, self._main, self._emit)
        return await self._finish()

    async def _set_up(self) -> None:
        if self._config.checksum and not self._resends.checked:
            raise MigrationError("the destination knows no checksums, and --checksum was given")
        await handshakes.set_up(self._config, self._main, self._inbox)
        self.meter.prepared_ns = clock.now_ns()
        self._lifecycle.fire(Event.PREPARED)
        self.prepared.set()

    async def take_back(self) -> None:
        """Have the guest run on here, if it was stopped for a switch-over that came to nothing."""
        if self.handed_over or self._guest.is_running or self._config.hold:
            return
        await self._guest.run()
        if self._downtime.has_stopped:
            self._emit(events.GuestRun())
            self._downtime.take_back(clock.now_ns())

    async def _stop_guest(self, dirty: PageSet) -> GuestSnapshot:
        """Stop the guest and add its last writes to what is dirty."""
        self._downtime.stop(clock.now_ns())
        self._emit(events.GuestStop())
        self.meter.bytes_at_stop = sent_bytes(self.epochs)
        snapshot = await self._guest.pause(anywhere=True)
        self._lifecycle.fire(Event.GUEST_STOPPED)
        self._passes.harvest(dirty)
        return snapshot

    async def _hand_over(self, snapshot: GuestSnapshot) -> None:
        """Make the guest the destination's; the guest stands still."""
        await self._tell_time()
        if self._step is NextStep.POSTCOPY:
            self.resumption.hand_over(self._dirty)
            await self._discard_dirty()
        else:
            await self._send_dirty()
        # From the first byte on nobody can know how much of it the destination gets.
        self.handed_over = True
        if self._step is NextStep.POSTCOPY:
            self._lifecycle.fire(Event.POSTCOPY_STARTED)
        postcopy = self._step is NextStep.POSTCOPY
        await handshakes.switch_over(snapshot, self._main, postcopy=postcopy)
        self.meter.bytes_at_switch_over = sent_bytes(self.epochs)
        if postcopy:
            self._main.keep_little_in_the_kernel()
            self._pace_postcopy()

    def _heed_limits(self) -> None:
        self._repace()

    def _pace_postcopy(self) -> None:
        """Hold the background of postcopy to the limit in force, and to each that follows."""
        self._repace = lambda: self._sender.pace(self._steering.postcopy_bandwidth)
        self._repace()

    async def tell_answers(self) -> None:
        """Tell the destination what became of its requests, until cancelled; once an epoch.

        Raises:
            ConnectionLost: The connection is broken.
        """
        await self._sender.tell()

    async def _tell_time(self) -> None:
        """Tell the time here while nothing else is under way that would hold the message up."""
        if self._tells and self._step is NextStep.POSTCOPY:
            await self._main.send(SourceTime(now_ns=clock.now_ns()))

    async def _send_dirty(self) -> None:
        """Send the rest while the guest stands still, unpaced."""
        self._sender.pace(0)
        with self.meter.sending():
            self._passes.hand_on(self._dirty)
            await self._sender.drain()
            while self._resends.checked:
                await self._resends.confirm(self._inbox, [self._main])
                changed = self._resends.take_changed()
                if not len(changed):
                    return
                self._passes.hand_on(changed)
                await self._sender.drain()

    async def _discard_dirty(self) -> None:
        """Say what is missing there, and have it ready to be sent."""
        # Before the guest can run there: a request for a page not yet known here would be taken for
        # one that was sent, and the page would come when the scan gets to it.
        self._passes.hand_on(self._dirty, postcopy=True)
        await handshakes.discard(self._dirty, self._main)

    async def _finish(self) -> GuestSnapshot:
        """Send what is missing, in the order of the requests, until both say that it is there."""
        assert self._snapshot is not None
        with self.meter.sending():
            try:
                await self._sender.drain()
            except BaseException:
                self._tracker.broke(clock.now_ns())
                raise
            if not self.resumption.runs_there:
                await self._inbox.expect(Running, CLOSING_SECONDS_MAX)
                self.resumption.confirm_there()
        outs = [connection.out for connection in self.epochs[-1].values()]
        if self._resends.checked and self._step is NextStep.POSTCOPY:
            await self._resends.drain(self._sender, self._inbox, outs)
        await self._sender.tell_all()
        finished_ns = await handshakes.finish(self._config.geometry, outs, self._inbox)
        if self.meter.finished_ns is None:
            self.meter.finish(finished_ns)
            self._dirty_log.stop()
        self._lifecycle.go_on(Event.ALL_PLACED)
        return self._snapshot

    def _on_running(self, running: Received[Running]) -> None:
        # As soon as it is read: the sending task comes to it only when it has sent everything.
        if self.handed_over:
            self.resumption.see_there()
            self._downtime.note_running(running.message.run_ns, running.at_ns)

    def _on_resend(self, resend: Resend) -> None:
        self._resends.hear(resend, handed_over=self.handed_over)

    def _on_request(self, request: PageRequest) -> None:
        # One may come before this side has noted that its SwitchOver is sent.
        if self._lifecycle.state not in (State.DEVICE, State.POSTCOPY_ACTIVE):
            raise RemoteProtocolError(
                f"PageRequest came in state {self._lifecycle.state.value}, no vCPU runs there"
            )
        self.resumption.see_there()
        self.busy_poll.prolong()
        self._sender.request(PageId(request.block, request.page), request.target_page)

    def _serve(self) -> None:
        self._sender.serve()
