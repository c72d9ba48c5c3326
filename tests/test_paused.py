"""Paused is paused: strangers at the address of a paused side cost attempts, and never a guest."""

from __future__ import annotations

import itertools
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.messages import PROTOCOL_VERSION, Abort, Hello, Resume
from protocol.wire import encode
from tests.certificates import write_certificates
from tests.processes import AT_ONCE, Lab, Process, has_state, read_events, until
from tests.reports import read_report
from tests.strangers import (
    GARBAGE,
    HTTP,
    NEVER,
    SSH,
    STRANGERS,
    TLS_ALERT,
    Door,
    listen,
    over_tls,
    saying,
)
from tests.test_uninvited import SECRET, secret_option

SIZE_MIB = 4
# In the middle of postcopy, and long before its end.
HOLD_BYTES = SIZE_MIB << 19
GUEST = (
    f"--size={SIZE_MIB}MiB", "--page-size=4KiB", "--postcopy-after=0", "--vcpus=2",
    "--access-rate=100", "--chunk-size=16KiB",
)  # fmt: skip


class Pair:
    """A source and a destination, and the door between them, where their migration breaks."""

    def __init__(
        self,
        lab: Lab,
        source: tuple[str, ...] = (),
        dest: tuple[str, ...] = (),
        hold_at_bytes: int = HOLD_BYTES,
        name: str = "",
    ) -> None:
        """Start both, with files whose names begin with a name."""
        self._lab = lab
        self.source_events, self.dest_events = (
            lab.folder / f"{name}{side}.jsonl" for side in ("source", "dest")
        )
        self._reports = [lab.folder / f"{name}{side}.json" for side in ("source", "dest")]
        self.dest = lab.fork(
            "dest", "--listen=127.0.0.1:0", "--quiet", f"--report={self._reports[1]}",
            f"--events={self.dest_events}", *dest, environment=AT_ONCE,
        )  # fmt: skip
        self.target = self.dest.listening()
        self.door = Door(self.target, hold_at_bytes)
        self.source = lab.fork(
            "source", f"--connect={self.door.address}", f"--report={self._reports[0]}", *GUEST,
            f"--events={self.source_events}", *source, environment=AT_ONCE,
            # On a busy machine a connection seems to be long, and the whole rest might lie on it.
            rig="small-buffers",
        )  # fmt: skip

    @property
    def session(self) -> str:
        """The session's name."""
        (event,) = until(lambda: read_events(self.source_events, "session"))
        return str(event["session"])

    def attempts(self, outcome: str = "failed") -> list[str]:
        """Return why attempts to resume came to nothing, or of how many something came."""
        events = read_events(self.source_events, "resume-attempt")
        return [event["reason"] for event in events if event["outcome"] == outcome]

    def reach_postcopy(self) -> None:
        """Wait until the guest runs over there without half of its memory, which is held."""
        until(self.door.held.is_set)
        # What it runs without it has to ask for, sooner or later.
        until(lambda: read_events(self.source_events, "page-request"))

    def break_off(self) -> None:
        """Break the migration in the middle of postcopy; wait for the pauses."""
        self.reach_postcopy()
        self.door.answer(STRANGERS["closes"])
        both = (self.source_events, self.dest_events)
        until(lambda: all(states(events)[-1:] == ["postcopy-paused"] for events in both))

    def meet(self, times: int = 2) -> list[str]:
        """Wait until so many attempts have come to nothing; return why."""
        before = len(self.attempts())
        until(lambda: len(self.attempts()) >= before + times)
        return self.attempts()[before:]

    def complete(self) -> None:
        """Wait for a good end, and check that nothing was lost."""
        assert self.source.wait() == 0, self.source.errors
        assert self.dest.wait() == 0, self.dest.errors
        for path in self._reports:
            verified = read_report(path)["midstream"]["verified"]
            assert verified["mismatches"] == 0
            assert verified["digest-equal"] is True
        assert states(self.source_events)[-1] == "completed"
        recovered = read_events(self.source_events, "recovered")
        assert len(self.attempts("resumed")) == len(recovered)

    def resume(self, address: str) -> Process:
        """Tell the source to go on at an address."""
        command = ("source", f"--resume={self.session}", f"--connect={address}")
        process = self._lab.fork(*command)
        process.wait()
        return process


def states(events: Path) -> list[str]:
    """Return the states that a side went through by now."""
    return [event["state"] for event in read_events(events, "state")]


def credentials(lab: Lab, how: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a source's and a destination's options."""
    if how == "a secret":
        return (secret_option(lab.folder),), (secret_option(lab.folder),)
    if how == "TLS":
        source = write_certificates(lab.folder, "source")
        return tuple(source), tuple(write_certificates(lab.folder, "dest"))
    return (), ()


# With credentials everybody is a stranger who cannot prove himself; some are enough.
CASES = [
    *(("nothing", kind) for kind in STRANGERS),
    *itertools.product(("a secret", "TLS"), ("silence", "resets", "SSH", "garbage", "refuses")),
]


@pytest.mark.parametrize(("how", "kind"), CASES)
def test_a_stranger_and_then_the_right_one(lab: Lab, how: str, kind: str) -> None:
    """Whoever answers a paused source, it goes on when the right one is there again.

    By itself where the stranger was; every other one by its user's word, at another address.
    """
    by_hand = CASES.index((how, kind)) % 2 == 0
    source, dest = credentials(lab, how)
    pair = Pair(lab, source, dest)
    with pair.door:
        pair.break_off()
        pair.door.answer(STRANGERS[kind])
        until(lambda: pair.door.met)
        if kind not in {"silence", "welcomes, and says nothing"}:
            assert all(pair.meet(3))
        assert pair.source.status is None
        if by_hand:
            pair.resume(pair.target).succeed()
        else:
            pair.door.lead_to(pair.target)
        pair.complete()


@pytest.mark.parametrize("kind", ["idle", "busy", "wrong session", "wrong secret", "no secret"])
def test_another_midstream_and_then_the_right_one(lab: Lab, kind: str) -> None:
    """Another destination, whatever it does and knows, refuses, and costs neither side anything."""
    source, dest = credentials(lab, "a secret" if "secret" in kind else "nothing")
    pair = Pair(lab, source, dest)
    reasons = {
        "idle": "refused: no migration is under way here that could be resumed",
        "busy": "refused: another session is under way here",
        "wrong session": "refused: another session is under way here",
        "wrong secret": "refused: the secrets of the source and the destination differ",
        "no secret": "refused: the source has a secret and the destination has none",
    }
    with pair.door:
        pair.break_off()
        options = (secret_option(lab.folder, SECRET[::-1]),) if kind == "wrong secret" else ()
        with other_destination(lab, kind, options) as address:
            pair.door.lead_to(address)
            words = pair.resume(address)
            words.fail(1, reasons[kind], f"; it goes on trying {address} for ")
            assert set(pair.meet(2)) == {reasons[kind]}
            pair.resume(pair.target).succeed()
            pair.complete()


@contextmanager
def other_destination(lab: Lab, kind: str, options: tuple[str, ...]) -> Iterator[str]:
    """Have a destination that has nothing to do with the pair; it must go on undisturbed."""
    if kind in {"busy", "wrong session"}:
        other = Pair(lab, dest=options, name="other-")
        with other.door:
            other.reach_postcopy()
            if kind == "wrong session":
                other.break_off()
            yield other.target
            other.door.lead_to(other.target) if kind == "wrong session" else other.door.let_go()
            other.complete()
    else:
        process = lab.fork("dest", "--listen=127.0.0.1:0", "--quiet", *options)
        yield process.listening()
        process.signal(signal.SIGINT)
        assert process.wait() == 130


def test_who_may_not_speak_tls(lab: Lab) -> None:
    """A wrong certificate, a right one before another protocol, and a plain destination."""
    source, dest = credentials(lab, "TLS")
    pair = Pair(lab, source, dest)
    wrong = write_certificates(lab.folder, "wrong", signer="somebody else")
    named = write_certificates(lab.folder, "named", "there.example")
    right = write_certificates(lab.folder, "right")
    with pair.door:
        pair.break_off()
        for stranger, reason in (
            (over_tls(wrong, listen), "refused: no TLS connection: the peer's certificate"),
            (over_tls(named, listen), "refused: no TLS connection: the peer's certificate"),
            (over_tls(right, saying(HTTP)), "no midstream destination"),
            (over_tls(right, saying(SSH)), "no midstream destination"),
            (saying(TLS_ALERT), "refused: no TLS connection"),
        ):
            pair.door.answer(stranger)
            pair.resume(pair.door.address).fail(1, reason)
        pair.door.lead_to(pair.target)
        pair.complete()


def test_the_time_limit_ends_it_and_says_so(lab: Lab) -> None:
    """When time is up each side says that, and what the last stranger said."""
    pair = Pair(lab, ("--reconnect-timeout=1s",), ("--recover-timeout=1s",))
    with pair.door:
        pair.break_off()
        pair.door.answer(STRANGERS["refuses"])
        assert pair.source.wait() == 1
        assert re.search(
            r"it could not be resumed in 1 s: refused: no migration is under way here$",
            pair.source.errors.strip(),
        )
        assert pair.dest.wait() == 4
        assert "the source did not come back in 1 s" in pair.dest.errors


def test_its_user_ends_it(lab: Lab) -> None:
    """Ctrl-C ends a paused source at once, whatever a stranger keeps it waiting for."""
    pair = Pair(lab)
    with pair.door:
        pair.break_off()
        pair.door.answer(STRANGERS["silence"])
        until(lambda: pair.door.met)
        pair.source.signal(signal.SIGINT)
        assert pair.source.wait() == 130
        pair.dest.signal(signal.SIGINT)
        assert pair.dest.wait() == 4


def test_strangers_at_a_paused_destination(lab: Lab) -> None:
    """Whoever comes to a paused destination is turned away, and the source still gets in."""
    pair = Pair(lab, dest=("--verbose",))
    hello = Hello(version=PROTOCOL_VERSION, session=bytes(16), role="precopy", capabilities=())
    resume = Resume(version=PROTOCOL_VERSION, session=bytes(16), role="precopy", attempt=9)
    said = [
        b"", SSH, HTTP, TLS_ALERT, GARBAGE, bytes(64), encode(hello), encode(resume),
        encode(Abort(reason="enough")),
    ]  # fmt: skip
    host, _, port = pair.target.rpartition(":")
    with pair.door:
        pair.break_off()
        silent = [socket.create_connection((host, int(port))) for _ in range(20)]
        for data in said * 2:
            with socket.create_connection((host, int(port))) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(20)
                listen(sock)
        assert states(pair.dest_events)[-1] == "postcopy-paused"
        pair.door.lead_to(pair.target)
        pair.complete()
        for sock in silent:
            sock.close()


@pytest.mark.parametrize("kind", ["at once", "too late"])
def test_a_pause_by_hand(lab: Lab, kind: str) -> None:
    """A user takes a running postcopy to paused, and has it go on at another address.

    Nothing is tried meanwhile; who forgets it finds it tried where it was, when time is up.
    """
    pair = Pair(
        lab, ("--reconnect-timeout=60s" if kind == "at once" else "--reconnect-timeout=1s",)
    )
    with pair.door:
        pair.reach_postcopy()
        refused = pair.resume(pair.target)
        refused.fail(1, "it is not paused, its state is postcopy-active")
        pause = lab.fork("pause", f"--session={pair.session}")
        pause.succeed()
        assert re.fullmatch(
            rf"paused; by hand: midstream source --resume {pair.session} --connect HOST:PORT, "
            rf"in [0-9]+ s; then {pair.door.address} is tried once more\n",
            pause.output,
        )
        pair.door.let_go()
        until(lambda: "postcopy-paused" in states(pair.dest_events))
        if kind == "at once":
            lab.fork("pause", f"--session={pair.session}").fail(1, "this one is postcopy-paused")
            assert not pair.attempts()
            pair.door.answer(STRANGERS["closes"])
            pair.resume(pair.target).succeed()
            assert pair.door.met == 0
        pair.complete()
        assert len(pair.attempts("resumed")) == 1
        assert "paused: its user has paused it" in pair.source.errors


def test_a_pause_out_of_postcopy_is_refused(lab: Lab) -> None:
    """In precopy there is nothing to be paused, and in postcopy not what could not be resumed."""
    pair = Pair(lab, ("--postcopy-after=never", "--max-bandwidth=100KB/s"), hold_at_bytes=NEVER)
    with pair.door:
        until(lambda: has_state(pair.source_events, "active"))
        lab.fork("pause", f"--session={pair.session}").fail(
            1, "only a migration that is postcopy-active can be paused, this one is active"
        )
        assert states(pair.source_events)[-1] == "active"
        pair.source.signal(signal.SIGINT)
        assert pair.source.wait() == 130
        assert pair.dest.wait() == 1


def test_a_pause_without_a_resumption_is_refused(lab: Lab) -> None:
    """What is not to be resumed must not be paused."""
    pair = Pair(lab, ("--reconnect-timeout=0",))
    with pair.door:
        pair.reach_postcopy()
        lab.fork("pause", f"--session={pair.session}").fail(1, "--reconnect-timeout is 0")
        pair.door.let_go()
        pair.complete()
