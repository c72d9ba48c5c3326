"""A file of events begins when its migration does; until then an earlier run's stays."""

import errno

from protocol import events
from protocol.errors import MidstreamError
from protocol.states import State
from scripts.screen.beginning import Held, Out, begins, has_begun

LINES = [b"one\n", b"two\n"]


class Written:
    """What lines go to in the end, or not."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.lines: list[bytes] = []
        self.closed = False
        self.dropped = 3
        self.failure: OSError | None = None

    def write(self, lines: list[bytes]) -> None:
        """Keep them."""
        self.lines += lines

    def close(self, *, hurry: bool) -> None:
        """Note how."""
        self.closed = hurry


def test_lines_wait_until_it_has_begun() -> None:
    """Then all are written, in their order, and what comes after that at once."""
    out = Written()
    held = Held(lambda: out)
    held.write(LINES)
    assert (held.is_held, out.lines, held.dropped, held.failure) == (True, [], 0, None)
    held.begin()
    held.begin()
    held.write([b"three\n"])
    assert not held.is_held
    assert out.lines == [*LINES, b"three\n"]
    assert held.dropped == 3
    out.failure = OSError("full")
    assert held.failure is out.failure
    held.close(hurry=True)
    assert out.closed


def test_what_never_began_opens_nothing() -> None:
    """What there is stays as it is."""

    def open_out() -> Out:
        raise AssertionError

    held = Held(open_out)
    held.write(LINES)
    held.close(hurry=False)
    assert held.is_held


def test_what_cannot_be_opened_any_more_is_a_failure() -> None:
    """The file was one that could be written; of what comes now every line is lost, and counted."""

    def open_out() -> Out:
        raise MidstreamError("cannot write it") from OSError(errno.EACCES, "Permission denied")

    held = Held(open_out)
    held.write(LINES)
    held.begin()
    held.write(LINES)
    assert held.failure is not None
    assert held.failure.errno == errno.EACCES
    assert (held.dropped, held.is_held) == (4, False)
    held.close(hurry=False)


def test_what_is_held_is_bounded() -> None:
    """Whatever tells so much has begun, whatever it has not told."""
    out = Written()
    held = Held(lambda: out)
    for _ in range(101):
        held.write([b"x\n"] * 1000)
    assert not held.is_held
    assert len(out.lines) == 101_000


def test_it_begins_when_the_destination_is_prepared() -> None:
    """Which that tells by its run, before it says so; for the source a state begins then."""
    for side in (events.SOURCE, events.DEST, events.RELAY):
        begun = {state.value for state in State if begins(side, events.State(state=state.value))}
        assert begun == {
            "active", "device", "postcopy-active", "postcopy-paused", "postcopy-recover",
            "completed",
        }  # fmt: skip
    run = events.Run(policy="ordered", chunk_bytes=1, vcpus=1, program="uniform", blocks=1)
    assert [begins(side, run) for side in (events.SOURCE, events.DEST)] == [False, True]
    assert not begins(events.SOURCE, events.Filling(bytes=1, total_bytes=2))
    assert begins(events.RELAY, events.PeerConnection(connection=1, now="open"))


def test_events_of_a_file_say_whether_it_began() -> None:
    """A source has told its run, and how it failed, of a migration that never was one."""
    refused = [
        {"event": "run", "side": "source"},
        {"event": "state", "side": "source", "state": "setup"},
        {"event": "state", "side": "source", "state": "failed", "reason": "nobody listens"},
    ]
    assert not has_begun(refused)
    assert has_begun([*refused, {"event": "state", "side": "source", "state": "active"}])
    assert has_begun([{"event": "peer-connection", "side": "relay"}])
