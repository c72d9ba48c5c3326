"""What a channel's frames are held against."""

import pytest

from dest.checking import FrameCheck
from protocol.channels import Channel
from protocol.checksums import checksum_of
from protocol.errors import ConnectionLost, RemoteProtocolError
from protocol.messages import End, Message, PageData, RunData, ZeroData
from tests.strategies import least_fields

PAGE = PageData(payload_bytes=4, block=0, offset=0)
ZERO = ZeroData(block=0, offset=0, length=4096)
END = End(target_pages=0, data_bytes=0)


def check(*, agreed: bool = True) -> FrameCheck:
    """Return the check of a new channel."""
    return FrameCheck(Channel.PRECOPY, agreed=agreed)


def test_what_comes_as_announced_is_right() -> None:
    """Frame after frame is held against its own checksum, with what needs none between them."""
    checks = check()
    for payload in (b"one.", b"two."):
        checks.announce(checksum_of(PAGE, [payload]))
        checks.begin(PAGE)
        assert checks.is_right([payload])
        checks.begin(END)
    checks.announce(checksum_of(ZERO, []))
    checks.begin(ZERO)
    assert checks.is_right()


def test_a_changed_payload_is_not_right() -> None:
    """One payload that differs says nothing of the next."""
    checks = check()
    for payload, right in ((b"onf.", False), (b"one.", True)):
        checks.announce(checksum_of(PAGE, [b"one."]))
        checks.begin(PAGE)
        assert checks.is_right([payload]) is right


def test_a_changed_head_breaks_the_connection() -> None:
    """Whose bytes those were nobody can tell: what was on its way is lost, and goes again."""
    checks = check()
    checks.announce(checksum_of(PAGE, [b"one."]))
    with pytest.raises(ConnectionLost, match="precopy connection changed the head") as caught:
        checks.begin(PageData(payload_bytes=4, block=0, offset=4096))
    assert caught.value.channel == "precopy"


@pytest.mark.parametrize("kind", [PageData, RunData, ZeroData])
def test_pages_do_not_come_unannounced(kind: type[Message]) -> None:
    """Where both agreed on checksums, each frame of pages has one."""
    with pytest.raises(RemoteProtocolError, match=f"{kind.__name__} came without its Checksum"):
        check().begin(kind(**least_fields(kind)))


def test_a_checksum_announces_pages() -> None:
    """After it nothing else may come, nor another."""
    checks = check()
    checks.announce(checksum_of(PAGE, []))
    with pytest.raises(RemoteProtocolError, match="End came where a page frame was due"):
        checks.begin(END)
    with pytest.raises(RemoteProtocolError, match="where the frame was due"):
        checks.announce(checksum_of(PAGE, []))


def test_nothing_is_checked_that_was_not_agreed_on() -> None:
    """Without checksums pages come as they are, and a Checksum breaks the protocol."""
    checks = check(agreed=False)
    checks.begin(PAGE)
    assert checks.is_right([b"what"])
    with pytest.raises(RemoteProtocolError, match="none was agreed on"):
        checks.announce(checksum_of(PAGE, []))
