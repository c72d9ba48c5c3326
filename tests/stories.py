"""Events in tests: those that sides tell, and those of made-up migrations, for what shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson

from protocol import events
from protocol.report import STAGES
from scripts.views.saved import parse_event

Event = dict[str, Any]

MS = 1_000_000
PAGE_BYTES = 2 << 20

# Where the stories' clock begins: far from 0, as a machine's does.
ZERO_NS = 5_000 * MS


def fields_of(event: events.Event) -> dict[str, Any]:
    """Return the fields that an event has, by their names here."""
    fields = msgspec.structs.asdict(event)
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


class Deaf:
    """An `Emit` that nobody listens to, and that is not to be called.

    Attributes:
        is_heard: Nobody hears it.
    """

    is_heard = False

    def __call__(self, event: events.Event, /) -> None:
        """Refuse an event: it was made for nothing."""
        raise AssertionError(f"nobody hears of {event}")


class Recorder:
    """Keeps the events that it is told, in order; `on` adds what is to happen then."""

    def __init__(self) -> None:
        """Start with none."""
        self.events: list[events.Event] = []
        self._actions: list[tuple[type[events.Event], dict[str, Any], Callable[[], object]]] = []

    def __call__(self, event: events.Event, /) -> None:
        """Take an event; its fields must be what their definition says."""
        line = b'{"t-ns":0,"side":"test",' + msgspec.json.encode(event)[1:]
        parse_event(line, "what is told")
        self.note(event)

    def note(self, event: events.Event) -> None:
        """Keep an event, whatever its fields are, and do what is to happen then."""
        self.events.append(event)
        for kind, wanted, action in list(self._actions):
            if isinstance(event, kind) and wanted.items() <= fields_of(event).items():
                action()

    def on(self, kind: type[events.Event], action: Callable[[], object], **wanted: object) -> None:
        """Call an action at each event of that kind whose fields have the values given."""
        self._actions.append((kind, wanted, action))

    def of(self, kind: type[events.Event]) -> list[dict[str, Any]]:
        """Return the fields of all events of that kind, by their names here."""
        return [fields_of(event) for event in self.events if isinstance(event, kind)]

    def kinds(self, *wanted: type[events.Event]) -> list[type[events.Event]]:
        """Return the kinds of all events that are among those wanted, in order."""
        return [type(event) for event in self.events if isinstance(event, wanted)]

    @property
    def states(self) -> list[str]:
        """The states gone through."""
        return [fields["state"] for fields in self.of(events.State)]


class Story:
    """Events in the making; times are in milliseconds from the story's beginning."""

    def __init__(self, *, vcpus: int = 2, pages: int = 16) -> None:
        """Begin with both sides' account of the run."""
        self.events: list[Event] = []
        self._bytes = {"precopy": 0, "postcopy": 0}
        self._remaining = pages * PAGE_BYTES
        for side in ("source", "dest"):
            run: Event = {
                "policy": "ordered", "chunk-bytes": 65536, "vcpus": vcpus, "program": "scripted",
                "blocks": 1,
            }  # fmt: skip
            self.tell(0, side, "run", **run)
            block = {"length-bytes": pages * PAGE_BYTES, "page-bytes": PAGE_BYTES}
            self.tell(0, side, "ram-block", block=0, name="ram", **block)

    def tell(self, ms: float, side: str, event: str, **fields: Any) -> None:  # noqa: ANN401
        """Add an event, which must be as it is defined."""
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        time_ns = ZERO_NS + round(ms * MS)
        line = orjson.dumps({"t-ns": time_ns, "side": side, "event": event, **named})
        self.events.append(parse_event(line, "a story"))

    def state(self, ms: float, state: str) -> None:
        """Have both sides change their state."""
        for side in ("source", "dest"):
            self.tell(ms, side, "state", state=state)

    def start(self, ms: float, page: int, channel: str, **flags: bool) -> None:
        """Begin to send a page."""
        self._sent(ms, "page-start", page, channel, 0, flags)

    def end(
        self, ms: float, page: int, channel: str, count: int, event: str = "page-sent",
        **flags: bool,
    ) -> None:  # fmt: skip
        """End it, so many bytes on."""
        self._sent(ms, event, page, channel, count, flags)

    def wait(self, ms: float, vcpu: int, page: int) -> None:
        """Have a vCPU touch a page, and ask for it."""
        at = {"block": 0, "page": page}
        self.tell(
            ms + 0.1, "dest", "vcpu-wait",
            vcpu=vcpu, **at, fault_ns=ZERO_NS + round(ms * MS),
        )  # fmt: skip
        self.tell(ms + 0.15, "dest", "page-request", **at)
        self.tell(ms + 0.3, "source", "page-request", **at, answer="queued")

    def wake(
        self, ms: float, vcpu: int, page: int, waited_ms: float, **said: Any,  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Have its page placed, and the vCPU run again; the stages are equal parts of the wait."""
        self.tell(ms - 0.05, "dest", "page-placed", block=0, page=page, pages=1, channel="postcopy")
        stages = {f"{stage}-us": waited_ms * 1000 / len(STAGES) for stage in STAGES}
        latency = {"latency-us": waited_ms * 1000.0}
        told = {**latency, **stages, **said}
        self.tell(ms + 0.2, "dest", "vcpu-wake", vcpu=vcpu, block=0, page=page, **told)

    def _sent(
        self, ms: float, event: str, page: int, channel: str, count: int, flags: dict[str, bool]
    ) -> None:
        self._bytes[channel] += count
        self._remaining -= count
        told = {"urgent": False, "boosted": False, **flags}
        self.tell(
            ms, "source", event, block=0, page=page, channel=channel, **told,
            **({"pages": 1} if event == "page-sent" else {}),
            channel_bytes=self._bytes[channel], remaining_bytes=self._remaining,
        )  # fmt: skip


def half_sent() -> list[Event]:
    """Return the story of a page that is broken off for another, and then itself asked for."""
    story = Story()
    story.state(1, "setup")
    story.state(10, "active")
    story.tell(11, "source", "guest-stop")
    story.state(11.5, "device")
    story.state(12, "postcopy-active")
    story.tell(13, "dest", "guest-run")
    story.start(14, 5, "precopy")
    story.wait(15, 0, 9)
    story.wait(15.2, 1, 5)
    story.end(16, 5, "precopy", PAGE_BYTES // 4, "preempt")
    story.start(16, 9, "postcopy", urgent=True)
    story.end(30, 9, "postcopy", PAGE_BYTES, urgent=True)
    story.tell(30, "source", "boost", block=0, page=5, channel="precopy", urgent=True, boosted=True)
    story.start(30, 5, "precopy", urgent=True, boosted=True)
    story.wake(32, 0, 9, 17)
    story.end(42, 5, "precopy", PAGE_BYTES * 3 // 4, urgent=True, boosted=True)
    story.wake(44, 1, 5, 28.8, answer="boosted", behind="0:9", behind_count=1)
    # Given out and taken back: nothing of it went.
    story.start(44, 6, "precopy")
    story.start(45, 7, "precopy")
    story.end(60, 7, "precopy", PAGE_BYTES)
    story.tell(
        61, "dest", "accesses", count=10,
        p50_us=1.0, p90_us=2.0, p99_us=3.0, p999_us=8.0, max_us=9.0, mean_us=1.5,
    )  # fmt: skip
    story.state(62, "completed")
    story.tell(63, "source", "verdict", equal=True, mismatches=0, downtime_ms=2.1, total_ms=61.0)
    return story.events


def broken_once(*, counts_anew: bool = False) -> list[Event]:
    """Return the story of a break in postcopy: what was asked for before it is asked for again.

    Args:
        counts_anew: `channel-bytes` count from the new connections' begin, as they once did.
    """
    story = Story()
    story.state(1, "active")
    story.state(2, "postcopy-active")
    story.start(3, 2, "precopy")
    story.end(40, 2, "precopy", PAGE_BYTES)
    story.start(40, 3, "precopy")
    story.wait(45, 0, 3)
    story.tell(50, "dest", "channel-lost", channel="precopy", reason="it broke")
    story.tell(51, "source", "channel-lost", channel="precopy", reason="it broke")
    story.state(52, "postcopy-paused")
    story.state(100, "postcopy-recover")
    story.state(101, "postcopy-active")
    story.tell(102, "source", "recovered", missing_bytes=PAGE_BYTES, running=True)
    story.tell(103, "dest", "page-request", block=0, page=3)
    story.tell(104, "source", "page-request", block=0, page=3, answer="queued")
    if counts_anew:
        story._bytes["precopy"] = 0
    story.start(104, 3, "precopy", urgent=True)
    story.end(140, 3, "precopy", PAGE_BYTES, urgent=True)
    parts = "detect 100.000, request 900.000, broken 60000.000, request 1000.000, queue 35000.000"
    story.wake(142, 0, 3, 97, answer="queued", parts_us=parts)
    story.tell(
        143, "source", "progress",
        remaining_bytes=0, queued=0, precopy_bytes=2 * PAGE_BYTES, postcopy_bytes=0,
    )  # fmt: skip
    # The page goes again, and is placed again, long after its vCPU ran.
    story.tell(190, "dest", "page-placed", block=0, page=3, pages=1, channel="precopy")
    story.state(200, "completed")
    return story.events


def write(path: Path, events: list[Event]) -> Path:
    """Write events as a side does."""
    path.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    return path
