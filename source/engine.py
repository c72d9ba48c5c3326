"""Decides what goes over which channel now, what waits for what, and what is broken off.  Pure.

The engine that sends, without I/O: it is told what happened, with the time, and answers with a
command of `source.commands`.  Two users ask it.  The task of a lane asks `next`, carries the
command out, says what came of it, and asks again.  Whoever brings requests asks `serve`: while the
lane's task waits, what is urgent goes at once, and a task whose wait is still the same need not be
woken.  So no other task's wake-up lies on a request's way.

A background frame is broken off even while it waits, for its socket or for its bandwidth limit; an
urgent one runs to its end.  What it waits for beside room in its socket is `source.gate`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import PageId, Span
from protocol.messages import RequestAnswer
from source.commands import REQUEST, TURN, Command, Look, Room, Tell, Until, Wait, Write
from source.frames import Frames
from source.gate import Gate
from source.jobs import Answer, Chunk, Lane
from source.outlet import Frame, Outlet
from source.pacing import Pacer
from source.scheduler import Scheduler
from source.telling import Telling
from source.tracking import RequestTracker

# See `source.scheduler`: a look at an enumeration's member is not free.
_URGENT, _BACKGROUND = Lane.URGENT, Lane.BACKGROUND
_PRECOPY, _POSTCOPY = Channel.PRECOPY, Channel.POSTCOPY


# After an urgent frame that is no longer than this the next one goes without a turn in between.
_IN_A_ROW_BYTES_MAX = 16 * 1024


class SendEngine:
    """Sends what a scheduler has, over the channels of one migration, by its users' hands.

    Attributes:
        scheduler: What is to be sent, and in which order.
        gate: What bytes wait for before they may go; `delivers` is its.
        telling: When the destination is told of its requests.
        serving_lane: The lane that requests are served in.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        make_frame: Callable[[Chunk, int, int], Frame],
        outlets: Mapping[Channel, Outlet],
        emit: Emit,
        *,
        pacer: Pacer | None = None,
        tracker: RequestTracker | None = None,
        yields: bool = False,
    ) -> None:
        """Send nothing yet; `start`, then ask `next`.

        Args:
            scheduler: What is to be sent, and in which order.
            make_frame: Returns the frame of a chunk, given how long a request has waited for it
                and how long ago its first frame was made, in microseconds.
            outlets: Where it goes.
            emit: Takes events.
            pacer: Holds the background to a bandwidth, over all connections of a migration; no
                limit if not given.
            tracker: Keeps account of the requests, where the destination wants to be told of them.
            yields: The background waits until urgent bytes that the kernel has taken are on their
                way, and does not share the link with them.
        """
        self.gate = Gate(scheduler, outlets, pacer or Pacer(0))
        self.telling = Telling(scheduler, outlets, tracker)
        self.serving_lane = scheduler.lanes[0]
        self.scheduler = scheduler
        self._is_sending = False
        self._frames = Frames(
            scheduler, make_frame, outlets, emit, self.telling, self.gate.overtaking
        )
        self._outlets = outlets
        self._emit = emit
        self._is_heard = events.is_heard(emit)
        self._yields = yields
        self._rooms = {channel: Room(channel) for channel in outlets}
        self._until: Callable[[int], bool] | None = None
        self._is_background_done = False
        # What the task of each lane waits for.
        self._waits: dict[Lane, Wait] = {}
        # How many turns others have before a lane goes on.
        self._turns: dict[Lane, int] = {}

    @property
    def remaining_bytes(self) -> int:
        """Bytes of guest memory that no stream has taken yet, to the byte."""
        return self._frames.remaining_bytes

    def start(self, until: Callable[[int], bool] | None = None) -> None:
        """Begin to send until the scheduler has nothing left; then ask `next` for each lane.

        Args:
            until: Asked with the time before each frame of the background: true to leave the rest.
        """
        self._until = until
        self._is_background_done = False
        self._turns.clear()
        # That the guest is handed over, and what a break has left of pages, went before.
        self._outlets[_PRECOPY].await_sent()
        self.stop()
        self._is_sending = True

    def stop(self) -> None:
        """Say that no lane's task waits any more, however it ended."""
        self._is_sending = False
        self._waits.clear()

    def wait_of(self, lane: Lane) -> Wait | None:
        """Return what a lane's task is to wait for; `next` answers with it, too."""
        return self._waits.get(lane)

    def pace(self, bytes_per_second: int, now_ns: int) -> None:
        """Hold the background to a bandwidth from now on, also what waits for its turn already."""
        self.gate.pacer.set_rate(bytes_per_second, now_ns)
        self.reconsider()

    def reconsider(self) -> None:
        """Have no lane wait for a time that was worked out before."""
        for lane in [lane for lane, wait in self._waits.items() if type(wait) is Until]:
            del self._waits[lane]

    def request(self, page: PageId, target_page: int, now_ns: int) -> Answer | Look:
        """Take a page request of the destination; when all that have come are taken, ask `serve`.

        A `Look` is to be done first; then the same is asked again.

        Args:
            page: The page that a vCPU waits for.
            target_page: Which target page of it was touched, from 0.
            now_ns: The time.

        Raises:
            RemoteProtocolError: The guest has no such page.
        """
        # When all was sent, nobody sends anything again.
        lies = self.gate.find(page, target_page) if self._is_sending else None
        if isinstance(lies, Look):
            return lies
        answer = self.scheduler.request(page, target_page, now_ns, lies)
        if (tracker := self.telling.tracker) is not None:
            breaks_off = self.scheduler.wants_preemption
            tracker.asked(page, target_page, answer, now_ns, breaks_off=breaks_off, lies=lies)
        if self._is_heard:
            self._emit(events.PageRequest(block=page.block, page=page.index, answer=answer.value))
        if answer is Answer.URGENT_IN_PLACE:
            # It keeps to no limit any more.
            self.reconsider()
        elif answer is Answer.ALREADY_SENT:
            # It may lie in the socket, behind all that goes first.
            overtaking = self.gate.overtaking
            self._outlets[_PRECOPY].await_sent(overtaking.awaited_bytes if overtaking else None)
        return answer

    def next(self, lane: Lane, now_ns: int) -> Command | None:
        """Return what the task of a lane is to do now, None when it has sent what it has.

        Args:
            lane: One of the scheduler's.
            now_ns: The time.
        """
        if (wait := self._waits.get(lane)) is not None:
            return wait
        if self.telling.is_overdue and (tell := self.telling.overdue(now_ns)):
            return tell
        if turns := self._turns.get(lane):
            self._turns[lane] = turns - 1
            return TURN
        write = self._frames.writes.get(lane)
        if write is not None and write.frame.done:
            # A sign of life was its last byte.
            self._sent(lane, write, now_ns)
            write = None
        elif write is not None and self.scheduler.wants_preemption:
            self._frames.break_off(lane, now_ns)
            write = None
        return self._go_on(lane, write, now_ns) if write else self._begin(lane, now_ns)

    def serve(self, now_ns: int) -> Write | Tell | Look | None:
        """Return what is to be done at once for requests, None if there is no more.

        While the lane's task does not wait there is nothing: it asks `next` by itself.  Afterwards
        `wait_of` tells whether it still waits for what it did.
        """
        lane = self.serving_lane
        wait = self._waits.get(lane)
        if wait is None:
            return None
        if self.telling.is_overdue and (tell := self.telling.overdue(now_ns)):
            return tell
        scheduler = self.scheduler
        write = self._frames.writes.get(lane)
        if write is not None and scheduler.wants_preemption:
            self._frames.break_off(lane, now_ns)
            write = None
        if write is None:
            command = self._begin_urgent(lane, now_ns)
            if command is None and not scheduler.unsent_bytes:
                # All of the background was asked for: no limit holds up the end.
                self.reconsider()
            return command
        waits = wait is self._rooms[write.outlet.name] or wait is self.gate.held
        return _hurried(write) if scheduler.urgent(lane) and not waits else None

    def took(self, lane: Lane, count: int, now_ns: int) -> None:
        """Say how many bytes the stream took of what a lane was to write, perhaps none."""
        write = self._frames.writes[lane]
        if not count:
            self._waits[lane] = self._rooms[write.outlet.name]
            return
        if write.paced:
            self.gate.pacer.spend(count)
        # Requests that have come are heard before more is sent.
        turns = 1
        if write.frame.done:
            was_urgent = self._sent(lane, write, now_ns)
            if write.paced and self.scheduler.runs_are_short:
                self._lengthen_runs(write.outlet, now_ns)
            if was_urgent and not self.scheduler.queued_requests:
                # One turn was had behind the bytes: in it requests were noticed, not read.
                turns = 2
            elif was_urgent and write.frame.length <= _IN_A_ROW_BYTES_MAX:
                # What comes now is behind those that are known.  A turn takes as long as to make
                # and send a small frame.
                turns = 0
        if lane not in self._waits:
            self._turns[lane] = turns

    def ahead(self, lane: Lane, count_max: int) -> list[Span]:
        """Return the pages that a lane writes next if nothing comes between, each whole in a frame.

        They lie in rows of one block.  Nothing where something is to be decided, looked at or told
        before one of their frames, or where what is under way is no such page of the background.

        Args:
            lane: Its task writes a frame, and does not wait for anything but room.
            count_max: The most pages that are wanted, 1 or more.
        """
        write, telling = self._frames.writes.get(lane), self.telling
        wait = self._waits.get(lane)
        if write is None or not write.paced or not (wait is None or type(wait) is Room):
            return []
        is_asked = self._until is not None or self.gate.pacer.bytes_per_second or self._is_heard
        is_told = telling.is_overdue or telling.has_many or not telling.is_idle
        if is_asked or is_told or self.gate.backlog.is_unknown:
            return []
        return self.scheduler.ahead(lane, count_max)

    def run_on(self, lane: Lane, row: Span) -> Write:
        """Say that a stream took the lane's frame, and those of a row of pages but the last.

        Of the last it took as much as of the one that was under way; all are as long.  It is as if
        `took`, `wait_over` and `next` had been called for each.

        Args:
            lane: As of `ahead`; its task goes on with what it does.
            row: The first that was `ahead`, or the first pages of it.

        Returns:
            The write of the last of these pages.
        """
        self._frames.run_on(lane, row)
        return self._frames.writes[lane]

    def told(self, *, went: bool) -> None:
        """Say whether one of the channels took what was to be told."""
        self.telling.told(went=went)

    def wait_over(self, lane: Lane, wait: Wait) -> None:
        """Say that what a lane's task waited for has come."""
        if self._waits.get(lane) is not wait:
            return
        del self._waits[lane]
        if type(wait) is Room and (run_bytes := self._outlets[wait.channel].run_bytes) is not None:
            self.scheduler.keep_runs(run_bytes)
        if lane not in self._frames.writes:
            # What was asked for while others were served comes before what was left.
            self._turns[lane] = 1

    def tell_by_itself(self, now_ns: int) -> Tell | Until | None:
        """Return what is told of requests though no lane comes to that, or when to ask again.

        None: there is nothing to tell by now.
        """
        return self.telling.by_itself(now_ns, is_full=self._is_full)

    def last_answers(self, now_ns: int) -> list[RequestAnswer]:
        """Return what there is to tell before the last frames go; nothing is told after that."""
        return self.telling.take_last(now_ns)

    @property
    def _is_full(self) -> bool:
        """Whether urgent bytes wait for room, or for their turn."""
        return any(self.scheduler.urgent(lane) for lane in self._frames.writes)

    def _begin(self, lane: Lane, now_ns: int) -> Command | None:
        """Return what a lane does that is between two frames."""
        if lane is not _URGENT:
            if self._until is not None and self._until(now_ns):
                return self._end(lane)
            if self.telling.has_many:
                tell = self.telling.before_background(now_ns, is_full=self._is_full)
                if tell is not None:
                    return tell
        leaving = self.gate.leaving
        if leaving is not None and leaving.is_pending and (held := self._hold(lane, now_ns)):
            return held
        write = self._frames.pick(lane, now_ns)
        return self._go_on(lane, write, now_ns) if write is not None else self._end(lane)

    def _begin_urgent(self, lane: Lane, now_ns: int) -> Write | Look | None:
        """Return the next urgent write of a lane whose task waits, None without any."""
        scheduler = self.scheduler
        if not (scheduler.queued_requests or scheduler.urgent(lane)):
            return None
        leaving = self.gate.leaving
        if leaving is not None and leaving.is_pending and (held := self._hold(lane, now_ns)):
            return held if type(held) is Look else None
        write = self._frames.pick(lane, now_ns)
        if write is None:
            return None
        if scheduler.urgent(lane):
            return _hurried(write)
        # The background is its task's, which waits for something else now.
        del self._waits[lane]
        return None

    def _hold(self, lane: Lane, now_ns: int) -> Look | Until | None:
        """Return what goes before what a lane is to send first, None if nothing does."""
        if not self.scheduler.goes_first(lane):
            return None
        held = self.gate.hold(self._waits.get(lane), now_ns)
        if type(held) is Until:
            self._waits[lane] = held
        return held

    def _go_on(self, lane: Lane, write: Write, now_ns: int) -> Command:
        """Return a lane's write with what may go of it now, or what to wait for."""
        if not self.scheduler.urgent(lane):
            admitted = self.gate.admit(write, now_ns)
            if type(admitted) is Until:
                self._waits[lane] = admitted
            return admitted
        leaving = self.gate.leaving
        # On a slow line one frame takes longer than a peer may be silent.
        if leaving is not None and leaving.owes_sign:
            return self._hold(lane, now_ns) or _hurried(write)
        return _hurried(write)

    def _end(self, lane: Lane) -> Wait | None:
        """Return what a lane does that has nothing to send now."""
        if lane is _URGENT and not self._is_background_done:
            self._waits[lane] = REQUEST
            return REQUEST
        # With two lanes nothing is overtaken.
        self._is_sending = False
        if lane is _BACKGROUND:
            self._is_background_done = True
            if self._waits.get(_URGENT) is REQUEST:
                del self._waits[_URGENT]
        return None

    def _lengthen_runs(self, outlet: Outlet, now_ns: int) -> None:
        """Lengthen runs where a connection has room for more."""
        buffering = outlet.buffering
        if buffering is not None and buffering.has_room(outlet.bytes_sent, now_ns):
            self.scheduler.keep_runs(buffering.run_bytes)

    def _sent(self, lane: Lane, write: Write, now_ns: int) -> bool:
        """Take notice that a frame is whole with its stream; return whether it was urgent."""
        if self._yields and write.chunk.channel is _POSTCOPY:
            self.gate.backlog.urgent_sent(now_ns)
        return self._frames.sent(lane, now_ns)


def _hurried(write: Write) -> Write:
    """Return a write of all that is left of its frame, without a limit."""
    write.limit, write.paced = write.frame.length, False
    return write
