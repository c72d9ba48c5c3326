"""Where a relay stops bytes, what it does there, and what it does not let pass."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import events
from protocol.channels import Channel
from protocol.qemu.following import Follower
from protocol.qemu.known import Known
from protocol.qemu.messages import Blocks
from protocol.qemu.pieces import PackageEnd
from protocol.qemu.ram import block_table
from protocol.qemu.returned import PageAsked, ReceivedBitmap
from scripts.injection.actions import NetworkAction
from scripts.relay.director import Director
from scripts.relay.steps import (
    Action,
    AtByte,
    Entered,
    Flip,
    Hold,
    NamedPage,
    Release,
    Requested,
    Said,
    Served,
    Step,
    Touch,
    When,
)
from tests import qemu_streams as qemu
from tests.qemu_streams import MIB, TARGET
from tests.stories import Recorder

HUGE = 2 * MIB
NAMED = [("ram", 4 * HUGE, HUGE), ("rom", 8 * TARGET, TARGET)]
CUT = NetworkAction("cut", tuple(Channel))
PAGE = NamedPage("ram", 1)
DATA = bytes(TARGET)

# Page 1 of "ram", target page by target page, and a bit of the next one.
RECORDS = b"".join(
    qemu.page(HUGE + number * TARGET, DATA, b"" if number else b"ram") for number in range(520)
)
HEAD = 8 + 1 + len(b"ram")


def position(byte: int) -> int:
    """Return with which byte of RECORDS so many bytes of the page have passed."""
    number, rest = divmod(byte - 1, TARGET)
    return HEAD + number * (8 + TARGET) + rest + 1


class Scene:
    """A director, and bytes that pass as far as it lets them."""

    def __init__(self, *steps: tuple[When, Action], postcopy: bool = True) -> None:
        """Begin, with the blocks known."""
        self.acts: list[tuple[NetworkAction | Touch, int]] = []
        self.woken: list[int] = []
        self.told = Recorder()
        self.passed_bytes = 0
        self.flipped: list[tuple[int, int]] = []
        self.director = Director(
            [Step(number, number, *step) for number, step in enumerate(steps, 1)],
            self.told,
            lambda action: self.acts.append((action, self.passed_bytes)),
            self.wake,
        )
        self.director.said(Blocks(blocks=tuple(NAMED)))
        if postcopy:
            self.director.said(PackageEnd(package_bytes=1, pings=()))
        self.follower = Follower(Channel.POSTCOPY, Known(blocks=block_table(NAMED)))

    def wake(self) -> None:
        """Take that whoever waits is to look again."""
        self.woken.append(self.passed_bytes)

    def feed(self, data: bytes, channel: Channel = Channel.POSTCOPY) -> bool:
        """Let bytes pass; return whether all of them could."""
        for piece in self.follower.feed(data):
            at = piece.start
            while True:
                limit = piece.stop
                if self.director.is_about(channel, piece):
                    limit = self.director.limit(channel, piece, at)
                    self.flipped += self.director.flips(channel, piece, at, limit)
                if limit == at < piece.stop:
                    return False
                at = self.passed_bytes = limit
                self.director.passed(channel, piece, at)
                if at == piece.stop:
                    break
        return True


@given(
    byte=st.sampled_from([1, 4096, 4097, 1048577, 2097151, 2097152]),
    size=st.sampled_from([100, 4104, 65536, 1 << 20, 1 << 22]),
)
@settings(deadline=None)
def test_a_step_is_done_at_its_very_byte(byte: int, size: int) -> None:
    """However the bytes come, a step is done when so many of the page have passed, and no more."""
    scene = Scene((AtByte(PAGE, byte, None, True), CUT))
    for start in range(0, len(RECORDS), size):
        assert scene.feed(RECORDS[start : start + size])
    assert scene.acts == [(CUT, position(byte))]
    assert scene.told.events == [events.Inject(step=1, line=1)]


@pytest.mark.parametrize("byte", [0, 1, 4096, 4097, 2097151])
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_a_held_page_passes_up_to_its_byte(byte: int, size: int) -> None:
    """Of a page that is held so many bytes pass, and no other."""
    scene = Scene((Entered("device"), Hold(PAGE, byte, (Channel.POSTCOPY,))))
    scene.director.entered("device")
    for start in range(0, len(RECORDS), size):
        if not scene.feed(RECORDS[start : start + size]):
            break
    # The head of its first record is none of its bytes; that of another stands before its byte.
    expected = position(byte) if byte else HEAD
    assert expected <= scene.passed_bytes <= expected + 8


def test_another_channel_is_not_held() -> None:
    """A page that is held on one channel passes on the other."""
    scene = Scene((Entered("device"), Hold(PAGE, 0, (Channel.PRECOPY,))))
    scene.director.entered("device")
    assert scene.feed(RECORDS)


def test_a_page_is_let_go() -> None:
    """A page that is let go passes; whoever waits is woken."""
    asked = PageAsked("ram", 2 * HUGE, HUGE)
    scene = Scene(
        (Entered("device"), Hold(PAGE, 5, tuple(Channel))),
        (Requested(NamedPage("ram", 2)), Release(PAGE)),
    )
    scene.director.entered("device")
    assert not scene.feed(RECORDS)
    scene.director.asked(PageAsked("rom", 2 * TARGET, TARGET))
    scene.director.asked(PageAsked("none", 0, TARGET))
    assert scene.woken == []
    scene.director.asked(asked)
    assert len(scene.woken) == 1
    assert scene.feed(RECORDS)
    assert scene.director.pending == []


def test_a_page_of_that_place_in_another_block_is_another() -> None:
    """Steps and holds are about a page of a block, never about where in a block it is."""
    other = NamedPage("rom", HUGE // TARGET)
    scene = Scene(
        (AtByte(other, 1, None, True), CUT),
        (Entered("device"), Hold(other, 0, tuple(Channel))),
    )
    scene.director.entered("device")
    assert scene.feed(RECORDS)
    assert not scene.acts


def test_what_passes_before_the_switch_over_is_another_matter() -> None:
    """A step is about what passes in its phase, on its channel."""
    steps = [
        (AtByte(PAGE, 9, None, True), CUT),
        (AtByte(PAGE, 9, Channel.PRECOPY, False), CUT),
        (AtByte(PAGE, 10, None, False), CUT),
    ]
    scene = Scene(*steps, postcopy=False)
    scene.feed(RECORDS)
    assert [at for _, at in scene.acts] == [position(10)]
    assert [step.number for step in scene.director.pending] == [1, 2]


def test_a_bit_is_flipped_before_its_byte_goes() -> None:
    """The byte at which a flip is, and the bit, are told before it passes."""
    scene = Scene((AtByte(PAGE, 5000, None, True), Flip(3)))
    scene.feed(RECORDS)
    assert scene.flipped == [(position(5000), 8)]


def test_zeros_are_not_spoiled() -> None:
    """What only says that a page is zero has no byte of it."""
    scene = Scene((AtByte(PAGE, 1, None, True), Flip(3)))
    scene.feed(qemu.zero(HUGE, b"ram"))
    assert scene.flipped == []
    assert scene.director.pending == []


def test_messages_are_moments() -> None:
    """A message that has passed is a moment, of one block or of any."""
    scene = Scene(
        (Said("recv-bitmap", "rom"), CUT), (Said("recv-bitmap", None), CUT), (Served(PAGE), CUT)
    )
    scene.director.said(ReceivedBitmap("ram", 8, 0))
    assert [step.number for step in scene.director.pending] == [1, 3]
    scene.director.said(ReceivedBitmap("rom", 8, 0))
    scene.director.served(NamedPage("rom", 1))
    assert [step.number for step in scene.director.pending] == [3]
    scene.director.served(PAGE)
    assert len(scene.acts) == 3
