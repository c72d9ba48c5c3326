"""What a relay knows of a migration from what passes: pages, requests, their latency, states."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import numpy as np
import pytest

from protocol import events
from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES as TARGET
from protocol.qemu.following import Follower
from protocol.qemu.returned import (
    PageAsked,
    Pong,
    ReceivedBitmap,
    ResumeAck,
    ReturnDecoder,
    Shut,
    SwitchoverAck,
    Unnamed,
)
from protocol.qemu.returns import PageRequests
from protocol.states import State
from scripts.relay.tracker import Tracker
from tests import qemu_streams as qemu
from tests.qemu_streams import MIB
from tests.stories import Recorder

HUGE = 2 * MIB
BLOCKS = [(b"ram", 4 * HUGE, HUGE), (b"rom", 8 * TARGET, TARGET)]
DATA = bytes(TARGET)
MS = 1_000_000


class Played:
    """A tracker, and connections that say what a test has them say."""

    def __init__(self) -> None:
        """Begin a migration up to the list of blocks."""
        self.told = Recorder()
        self.tracker = Tracker(self.told)
        self.followers: dict[Channel, Follower] = {}
        self.requests, self.returns = PageRequests(), ReturnDecoder()
        self.connect(Channel.PRECOPY)
        self.says(Channel.PRECOPY, qemu.head() + qemu.advise(HUGE | TARGET) + qemu.start(BLOCKS))

    def connect(self, channel: Channel, *, resumed: bool = False) -> None:
        """Open another connection for a channel."""
        number = 1 + list(Channel).index(channel)
        self.tracker.opened(number)
        self.tracker.recognised(number, channel, resumed=resumed)
        self.followers[channel] = Follower(channel, self.tracker.known, resumed=resumed)

    def says(self, channel: Channel, data: bytes, at_ms: int = 0) -> None:
        """Have the source say something."""
        for piece in self.followers[channel].feed(data):
            self.tracker.passed(1 + list(Channel).index(channel), channel, piece, at_ms * MS)

    def asks(self, block: str, page: int, page_bytes: int, at_ms: int = 0) -> None:
        """Have the destination ask for a page."""
        data = self.requests.encode(block, page * page_bytes, page_bytes)
        for _, message in self.returns.feed(data):
            assert isinstance(message, PageAsked)
            self.tracker.asked(1, message, at_ms * MS)

    def switch_over(self) -> None:
        """Have all memory be stale, and the guest run on the destination."""
        self.says(Channel.PRECOPY, qemu.discard(b"ram", (0, 4 * HUGE)))
        self.says(Channel.PRECOPY, qemu.discard(b"rom", (0, 8 * TARGET)))
        self.says(Channel.PRECOPY, qemu.package(3))
        self.connect(Channel.POSTCOPY)

    def pages(self, channel: Channel, pages: Iterable[bytes], at_ms: int = 0) -> None:
        """Have records pass on a channel."""
        data = b"".join(pages)
        self.says(channel, qemu.part(data) if channel is Channel.PRECOPY else data, at_ms)

    def served(self) -> list[events.RequestServed]:
        """Return the requests that were served."""
        return [each for each in self.told.events if isinstance(each, events.RequestServed)]


def huge_page(
    index: int, first: int = 0, stop: int = HUGE // TARGET, block: bytes = b"ram"
) -> bytes:
    """Return the records of a huge page, or of some target pages of it."""
    start = index * HUGE // TARGET
    return b"".join(
        qemu.page((start + number) * TARGET, DATA, b"" if number > first else block)
        for number in range(first, stop)
    )


@pytest.fixture
def played() -> Played:
    """A migration in postcopy, of which nothing has passed."""
    story = Played()
    story.switch_over()
    return story


def test_states_are_those_of_what_passes() -> None:
    """The states of a migration that ends well, as they can be seen from outside."""
    story = Played()
    story.switch_over()
    story.tracker.returned(1, Shut(failed=False))
    assert story.told.states == ["setup", "active", "postcopy-active", "completed"]
    story.tracker.closed(1, Channel.PRECOPY, (5, 6), "")
    assert story.tracker.state is State.COMPLETED


def test_what_is_missing_is_told_at_the_switch_over(played: Played) -> None:
    """What was discarded is missing when the guest runs on the destination."""
    missing = [each for each in played.told.events if isinstance(each, events.Missing)]
    bits = [
        np.unpackbits(np.frombuffer(base64.b64decode(each.bits), np.uint8), bitorder="little")
        for each in missing
    ]
    assert [int(each.sum()) for each in bits] == [4, 8]


def test_a_request_lasts_until_its_page_has_passed(played: Played) -> None:
    """Its latency ends with the page's last byte, wherever the first ones came."""
    played.asks("ram", 2, HUGE, at_ms=10)
    played.pages(Channel.POSTCOPY, [huge_page(2, 0, 500)], at_ms=15)
    assert played.served() == []
    assert [page.index for page in played.tracker.open_requests] == [2]
    played.pages(Channel.POSTCOPY, [huge_page(2, 500, 512)], at_ms=30)
    (served,) = played.served()
    assert (served.block, served.page, served.channel) == (0, 2, "postcopy")
    assert (served.latency_us, served.begun_bytes) == (20_000, 0)
    assert played.tracker.open_requests == []


def test_a_page_that_had_begun_is_told(played: Played) -> None:
    """Of a request for a page that is half on its way it is told how much had passed."""
    played.pages(Channel.PRECOPY, [huge_page(1, 0, 100)])
    played.asks("ram", 1, HUGE, at_ms=1)
    played.pages(Channel.PRECOPY, [huge_page(1, 100, 512)], at_ms=3)
    (served,) = played.served()
    assert (served.channel, served.begun_bytes) == ("precopy", 100 * TARGET)


def test_what_a_request_waited_for_is_told(played: Played) -> None:
    """Pages that became whole between a request and its own page are behind it."""
    played.asks("ram", 0, HUGE)
    played.asks("rom", 0, TARGET)
    played.asks("rom", 5, TARGET)
    played.pages(Channel.POSTCOPY, [qemu.page(5 * TARGET, DATA, b"rom")])
    played.pages(Channel.POSTCOPY, [huge_page(0)])
    played.pages(Channel.POSTCOPY, [qemu.zero(0, b"rom")])
    first, second, third = played.served()
    assert [(each.block, each.page, each.lane) for each in (first, second, third)] == [
        (1, 5, 2), (0, 0, 0), (1, 0, 1),
    ]  # fmt: skip
    assert (second.behind, second.behind_count) == ("1:5", 1)
    assert (third.behind, third.behind_count) == ("1:5 0:0", 2)


def test_pages_of_one_number_are_two(played: Played) -> None:
    """A page of another block with the same number answers no request."""
    played.asks("ram", 2, HUGE)
    played.pages(Channel.POSTCOPY, [qemu.page(2 * TARGET, DATA, b"rom")])
    assert played.served() == []


def test_a_run_of_base_pages_serves_each_that_was_asked_for(played: Played) -> None:
    """Of a run of base pages, those that were asked for are urgent, and no others."""
    played.asks("rom", 3, TARGET)
    played.asks("rom", 5, TARGET)
    rows = [qemu.page(0, DATA, b"rom"), *(qemu.page(n * TARGET, DATA) for n in range(1, 8))]
    played.pages(Channel.PRECOPY, rows)
    sent = [each for each in played.told.events if isinstance(each, events.PageSent)]
    assert [(each.page, each.pages, each.urgent) for each in sent] == [
        (0, 1, False), (1, 2, False), (3, 1, True), (4, 1, False), (5, 1, True), (6, 2, False),
    ]  # fmt: skip
    assert [each.page for each in played.served()] == [3, 5]


def test_a_request_that_crosses_its_page_is_not_open(played: Played) -> None:
    """A page that has passed before its request came here is not waited for."""
    played.pages(Channel.PRECOPY, [huge_page(3)])
    played.asks("ram", 3, HUGE)
    assert played.tracker.open_requests == []
    assert played.tracker.requested == 1


def test_a_break_begins_pages_anew(played: Played) -> None:
    """After a break what was half there begins anew, and requests last on, however often made."""
    played.asks("ram", 1, HUGE, at_ms=1)
    played.pages(Channel.POSTCOPY, [huge_page(1, 0, 511)], at_ms=2)
    played.tracker.closed(1, Channel.PRECOPY, (0, 0), "reset")
    assert played.told.states[-1] == "postcopy-paused"
    played.connect(Channel.PRECOPY, resumed=True)
    played.connect(Channel.POSTCOPY)
    played.says(Channel.PRECOPY, qemu.command(10, b"\x03ram"))
    played.tracker.returned(1, ReceivedBitmap("ram", 256, 0))
    played.says(Channel.PRECOPY, qemu.command(9))
    played.tracker.returned(1, ResumeAck(1))
    assert played.told.states[-2:] == ["postcopy-recover", "postcopy-active"]
    played.asks("ram", 1, HUGE, at_ms=50)
    assert played.tracker.repeated == 1
    played.pages(Channel.POSTCOPY, [huge_page(1, 511, 512)], at_ms=60)
    assert played.served() == []
    played.pages(Channel.POSTCOPY, [huge_page(1)], at_ms=70)
    (served,) = played.served()
    assert served.latency_us == 69_000


def test_precopy_that_breaks_has_failed() -> None:
    """A main connection that closes before the end of precopy is the end of the migration."""
    story = Played()
    story.tracker.closed(1, Channel.PRECOPY, (1, 1), "reset")
    assert story.tracker.state is State.FAILED
    assert story.tracker.reason == "reset"


def test_precopy_without_a_return_path_completes() -> None:
    """Where nobody says that all has come, the end of the stream and of the connection does."""
    story = Played()
    story.pages(Channel.PRECOPY, [huge_page(0)])
    story.says(Channel.PRECOPY, b"\0")
    story.tracker.closed(1, Channel.PRECOPY, (1, 0), "")
    assert story.told.states[-2:] == ["device", "completed"]


def test_messages_are_told_with_what_they_say(played: Played) -> None:
    """Each message has its name and its figures; a block has its number, or else its name."""
    for message in (
        Pong(3), ReceivedBitmap("rom", 8, 2), SwitchoverAck(), Unnamed(42, 7),
        ReceivedBitmap("other", 0, 0),
    ):  # fmt: skip
        played.tracker.returned(1, message)
    told = [each for each in played.told.events if isinstance(each, events.PeerMessage)]
    assert [each.name for each in told] == [
        "configuration", "advise", "blocks", "discard", "discard", "package-begin", "package",
        "pong", "recv-bitmap", "switchover-ack", "kind-42", "recv-bitmap",
    ]  # fmt: skip
    assert (told[4].block, told[4].bytes, told[4].count) == (1, 8 * TARGET, 1)
    assert told[7].value == 3
    assert (told[8].block, told[8].bytes, told[8].count) == (1, 8, 2)
    assert told[10].bytes == 7
    assert told[11].text == "other"


def test_what_cannot_be_read_is_told(played: Played) -> None:
    """Where reading ends and where it goes on is told, with the reason."""
    played.says(Channel.POSTCOPY, b"\0\0\0\0\0\0\0\xf0" + qemu.zero(0, b"rom") + qemu.zero(TARGET))
    (unread,) = (each for each in played.told.events if isinstance(each, events.Unread))
    assert (unread.connection, unread.at_byte) == (2, 0)
    (again,) = (each for each in played.told.events if isinstance(each, events.ReadAgain))
    assert (again.by, again.skipped_bytes) == ("named record", 8)
    assert played.tracker.unread_count == 1


def test_a_request_for_an_unknown_block_is_told(played: Played) -> None:
    """A request that names no block that was listed is told as it is, and waited for by nobody."""
    played.asks("none", 0, TARGET)
    told = [each for each in played.told.events if isinstance(each, events.PeerMessage)][-1]
    assert (told.name, told.text) == ("page-request", "none")
    assert played.tracker.requested == 0
