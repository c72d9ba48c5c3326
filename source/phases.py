"""The source's side of a migration, phase by phase: set up, precopy, switch over, postcopy.  Pure.

Reads like the sequence diagram in `protocol/README.md`: each phase is a generator of the steps in
`source.steps`, which `source.migration` carries out.  What to send is decided in `scheduler` and
`convergence`, which bytes go now in `engine`, and how it ends in `verification` and `endings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from protocol import events
from protocol.channels import Channel
from protocol.errors import MigrationError, PolicyFailed, RemoteProtocolError
from protocol.events import Emit
from protocol.geometry import PageId
from protocol.limits import CLOSING_SECONDS_MAX
from protocol.messages import (
    Message,
    PageRequest,
    Resend,
    Running,
    SourceTime,
    Standing,
    SwitchOver,
)
from protocol.pageset import PageSet
from protocol.policy import Priority
from protocol.session_messages import ANSWERS, CHECKSUM
from protocol.states import Event, Lifecycle, State
from protocol.whereabouts import DEST, SOURCE, UNKNOWN
from source import handshakes
from source.commands import Look
from source.config import SourceConfig
from source.convergence import NextStep
from source.engine import SendEngine
from source.epochs import Epoch, channel_bytes, sent_bytes
from source.framing import Blocks, FrameMaker, frame_of
from source.meter import Meter
from source.outlet import Outlet
from source.pacing import Pacer
from source.passes import Passes
from source.resends import Resends
from source.resumption import Lacking, Resumption
from source.scheduler import Scheduler
from source.steering import Steering
from source.steps import Do, Drain, Now, Received, Say, Steps, expect
from source.tracking import RequestTracker

_VCPUS_RUN_THERE = frozenset({State.DEVICE, State.POSTCOPY_ACTIVE})


class Phases:
    """One migration; it goes from one *epoch*, a set of open connections, to the next.

    `attach` each epoch's channels, then carry `transfer` out in the first and `resume` in the
    others; meanwhile tell of what comes back with `request` and `hear`.

    Attributes:
        now: The time of what happened last.
        meter: What is measured.
        scheduler: What is to be sent, and in which order.
        resumption: Whoever comes back after a break is held against it.
        epochs: All of them, the present one last.
        epoch: The present one, once there is one.
        memory: The guest's.
        announced: SwitchOverAhead may have left: a destination that loses us waits.
        handed_over: The first byte of SwitchOver may have left: the guest is not this side's.
    """

    epoch: Epoch

    def __init__(
        self,
        config: SourceConfig,
        memory: Blocks,
        lifecycle: Lifecycle,
        emit: Emit,
        steering: Steering,
        now_ns: int,
        make_frame: FrameMaker = frame_of,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            config: What the user said at the start.
            memory: The guest's.
            lifecycle: Where the migration is.
            emit: Takes events.
            steering: What the user says while it goes on.
            now_ns: The time.
            make_frame: Makes the frame of a chunk, as `frame_of` does.
        """
        self.now = Now(now_ns)
        self.meter = Meter(now_ns, emit)
        self.scheduler = Scheduler(config.geometry, config.policy, config.chunk_bytes)
        self.resumption = Resumption(config.geometry, config.policy, self.scheduler)
        self.epochs: list[Epoch] = []
        self.announced = False
        self.handed_over = False
        self.memory = memory
        self._make_frame = make_frame
        self._config = config
        self._lifecycle = lifecycle
        self._emit = emit
        self._steering = steering
        self._resends = Resends(config.geometry, self.scheduler, emit)
        self._passes = Passes(
            config, steering, self.scheduler, self._resends, self.meter, emit, self.now
        )
        self._device_state: bytes | None = None
        # What is dirty when the guest is handed over, and whether it is sent before or after.
        self._dirty = PageSet(config.geometry)
        self._step = NextStep.POSTCOPY
        # Puts a change of the limits into force; how depends on what is being sent.
        self._repace: Callable[[int], None] = lambda _: None
        self._pacer = Pacer(0)
        self._tracker = RequestTracker(config.geometry, critical=config.policy.critical)

    def attach(
        self, outlets: Mapping[Channel, Outlet], capabilities: Sequence[str], now_ns: int
    ) -> None:
        """Take the channels of a new epoch, over which nothing has gone.

        Args:
            outlets: By their names.
            capabilities: What both sides can do.
            now_ns: The time.
        """
        for name, outlet in outlets.items():
            outlet.bytes_carried_before = channel_bytes(self.epochs, name)
        tells, checked = ANSWERS in capabilities, CHECKSUM in capabilities
        self._resends.checked = checked
        self._tracker.broke(now_ns)
        sending = SendEngine(
            self.scheduler, partial(self._make_frame, self.memory, checked=checked), outlets,
            self._emit, pacer=self._pacer, tracker=self._tracker if tells else None,
            yields=self._config.policy.preempts,
        )  # fmt: skip
        if self._config.policy.priority is Priority.URGENCY:
            sending.gate.keep_behind()
        self.epoch = Epoch(outlets, sending, capabilities)
        self.epochs.append(self.epoch)

    @property
    def recoverable(self) -> bool:
        """Whether both sides can resume this migration, and the user wants them to."""
        return self.epoch.recovers and self._config.reconnect_seconds > 0

    @property
    def remaining_bytes(self) -> int:
        """Bytes of guest memory that have not been sent: of this pass, or of postcopy.

        Before the first pass that is all of it.
        """
        begun = self.epoch.begun_memory_bytes if self.epochs else 0
        rest_bytes = self.resumption.rest_bytes
        return self._passes.waiting_bytes + self.scheduler.unsent_bytes - begun + rest_bytes

    @property
    def guest_side(self) -> str:
        """Which side has the guest (`protocol.whereabouts`)."""
        if not self.handed_over:
            return SOURCE
        return DEST if self.meter.running_ns is not None else UNKNOWN

    @property
    def switch_over_reason(self) -> str:
        """What ended precopy, as the report names it; empty as long as nothing has."""
        return self._steering.convergence.means.value

    @property
    def phase_bytes(self) -> int:
        """What this pass, or postcopy, had to send when it began."""
        return self._passes.phase_bytes

    # What happens while a phase goes on.

    def request(self, request: PageRequest, now_ns: int) -> Look | None:
        """Take a page request; when all that have come are taken, have them served.

        Returns:
            What is to be looked at first; then the same is asked again.

        Raises:
            RemoteProtocolError: No vCPU can wait for that.
        """
        # One may come before this side has noted that its SwitchOver is sent.
        if self._lifecycle.state not in _VCPUS_RUN_THERE:
            raise RemoteProtocolError(
                f"PageRequest came in state {self._lifecycle.state.value}, no vCPU runs there"
            )
        self.resumption.see_there()
        page = PageId(request.block, request.page)
        answer = self.epoch.sending.request(page, request.target_page, now_ns)
        return answer if isinstance(answer, Look) else None

    def hear(self, channel: Channel, received: Received[Message]) -> None:
        """Take any other message that came back; it is kept until a phase waits for it.

        Raises:
            RemoteProtocolError: No correct destination says that.
        """
        message = received.message
        if isinstance(message, Resend):
            self._resends.hear(message, handed_over=self.handed_over)
            return
        if isinstance(message, Running) and self.handed_over:
            # At once: the phase comes to it only when all is sent.
            self.resumption.see_there()
            self.meter.note_running(message.run_ns, received.at_ns)
        self.epoch.keep(channel, received)

    def limits_changed(self, now_ns: int) -> None:
        """Put what the user has said of the limits into force."""
        self._repace(now_ns)

    # The phases.

    def transfer(self) -> Steps[None]:
        """Bring the guest over.

        Raises:
            ConnectionLost, RemoteProtocolError, GuestFailed: The migration failed.
            MigrationError: Precopy does not converge.
        """
        yield from self._set_up()
        self._repace = partial(self._passes.repace, self.epoch.sending)
        try:
            self._dirty, self._step = yield from self._passes.run(self.epoch.sending)
        finally:
            self._repace = lambda _: None
        yield from self._tell_time()
        if self.epoch.recovers:
            self.announced = True
            yield from handshakes.announce_switch_over(self.meter, self.now)
        self._device_state = yield from self._stop_guest(self._dirty)
        yield from self._hand_over()
        yield from self._finish()

    def resume(self, standing: Standing, lacking: Lacking) -> Steps[None]:
        """Go on after a break, over new channels, with the destination that was left.

        Args:
            standing: What it says of itself, and `resumption` found right.
            lacking: What it has not received, if it runs the guest.

        Raises:
            ConnectionLost, RemoteProtocolError: It broke again.
        """
        self.scheduler.counts.recoveries += 1
        if not standing.running:
            self._lifecycle.go_on(Event.SWITCH_OVER_AGAIN)
            self.resumption.hand_over_again()
            yield from self._hand_over()
        else:
            self.meter.note_running(standing.run_ns, self.now.ns)
            self.resumption.take(standing, lacking)
            self._lifecycle.go_on(Event.RECOVERED)
            yield from self._begin_postcopy()
            yield from self.resumption.send_rests(self.memory, self.epoch.main, self._emit)
        yield from self._finish()

    def _set_up(self) -> Steps[None]:
        if self._config.checksum and not self.epoch.checked:
            raise MigrationError("the destination knows no checksums, and --checksum was given")
        yield from handshakes.set_up(self._config)
        self.meter.prepared_ns = self.now.ns
        self._lifecycle.fire(Event.PREPARED)
        if self.epoch.kept_alive:
            yield Do.KEEP_ALIVE

    def _stop_guest(self, dirty: PageSet) -> Steps[bytes]:
        """Stop the guest and add its last writes to what is dirty; return its device state."""
        self.meter.stopped_ns = self.now.ns
        self._emit(events.GuestStop())
        self.meter.bytes_at_stop = sent_bytes(self.epochs)
        device_state: bytes = yield Do.STOP_GUEST
        self._lifecycle.fire(Event.GUEST_STOPPED)
        yield from self._passes.harvest(dirty)
        return device_state

    def _hand_over(self) -> Steps[None]:
        """Make the guest the destination's; it stands still."""
        assert self._device_state is not None, "the guest has been stopped"
        yield from self._tell_time()
        postcopy = self._step is NextStep.POSTCOPY
        if postcopy:
            self.resumption.hand_over(self._dirty)
            # Before the guest can run there: a request for a page not yet known here would be taken
            # for one that was sent, and the page would come when the scan gets to it.
            self._passes.hand_on(self._dirty, postcopy=True)
            if self.scheduler.policy_failure and not self.handed_over:
                # Later nothing of a user's ends it: the source may hold the only copy of a page.
                raise PolicyFailed(self.scheduler.policy_failure)
            yield from handshakes.discard(self._dirty)
        else:
            yield from self._send_dirty()
        # From the first byte on nobody can know how much of it the destination gets.
        self.handed_over = True
        if postcopy:
            self._lifecycle.fire(Event.POSTCOPY_STARTED)
        state = self._device_state
        yield Say(SwitchOver(payload_bytes=len(state), postcopy=postcopy), state)
        self.meter.bytes_at_switch_over = sent_bytes(self.epochs)
        if postcopy:
            yield from self._begin_postcopy()

    def _send_dirty(self) -> Steps[None]:
        """Send the rest while the guest stands still, unpaced."""
        self.epoch.sending.pace(0, self.now.ns)
        with self.meter.sending(self.now):
            self._passes.hand_on(self._dirty)
            yield Drain()
            while self.epoch.checked:
                yield from self._resends.confirm([Channel.PRECOPY])
                changed = self._resends.take_changed()
                if not len(changed):
                    return
                self._passes.hand_on(changed)
                yield Drain()

    def _begin_postcopy(self) -> Steps[None]:
        """Hold the background of postcopy to the limit in force, and to each that follows."""
        yield Do.KEEP_LITTLE
        sending, steering = self.epoch.sending, self._steering
        self._repace = lambda now_ns: sending.pace(steering.postcopy_bandwidth, now_ns)
        self._repace(self.now.ns)

    def _finish(self) -> Steps[None]:
        """Send what is missing, in the order of the requests, until both say that it is there."""
        with self.meter.sending(self.now):
            try:
                yield Drain()
            except BaseException:
                self._tracker.broke(self.now.ns)
                raise
            if not self.resumption.runs_there:
                yield from expect(Running, CLOSING_SECONDS_MAX)
                self.resumption.confirm_there()
        epoch = self.epoch
        if epoch.checked and self._step is NextStep.POSTCOPY:
            yield from self._resends.drain(epoch.outlets)
        for answer in epoch.sending.last_answers(self.now.ns):
            yield Say(answer)
        finished_ns = yield from handshakes.finish(self._config.geometry, epoch)
        if self.meter.finished_ns is None:
            self.meter.finish(finished_ns)
            yield Do.STOP_LOG
        self._lifecycle.go_on(Event.ALL_PLACED)

    def _tell_time(self) -> Steps[None]:
        """Tell the time here while nothing else is under way that would hold the message up."""
        if self.epoch.tells and self._step is NextStep.POSTCOPY:
            yield Say(SourceTime(now_ns=self.now.ns))
