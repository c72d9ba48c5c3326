"""Frames that know how far they are, and what a channel has carried."""

import pytest

from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.messages import Discard, PageData
from protocol.wire import encode
from source.buffering import Buffering
from source.outlet import Frame, Outlet


@pytest.mark.parametrize("payload", [b"", b"p", b"some payload"])
def test_rest_cuts_a_frame_at_every_byte(payload: bytes) -> None:
    """Wherever a frame was broken off, and however much may go, the rest is what follows."""
    message = Discard(payload_bytes=len(payload), block=0, first=0, count=8)
    whole = encode(message) + payload
    frame = Frame(message, payload)
    assert frame.length == len(whole)
    for sent in range(len(whole)):
        frame.sent = sent
        assert not frame.done
        for limit in range(1, len(whole) + 2):
            buffers = frame.rest(limit)
            assert b"".join(buffers) == whole[sent : sent + limit]
            assert all(buffers)
    frame.sent = len(whole)
    assert frame.done


@pytest.mark.parametrize("limit", [1, 3, 7, 99])
def test_rest_cuts_a_frame_of_many_pieces_at_every_byte(limit: int) -> None:
    """From any byte on, what is left of the pieces follows one another, none of it empty."""
    frame = Frame(PageData(payload_bytes=10, block=0, offset=0), b"abc", b"", b"d", b"efghij")
    whole = encode(PageData(payload_bytes=10, block=0, offset=0)) + b"abcdefghij"
    assert frame.length == len(whole)
    for sent in range(frame.length):
        frame.sent = sent
        buffers = frame.rest(limit)
        assert b"".join(buffers) == whole[sent : sent + limit]
        assert all(map(len, buffers))


def test_a_frame_does_not_copy_its_payload() -> None:
    """The bytes that go are those that the payload has when they go."""
    payload = bytearray(b"before")
    message = Discard(payload_bytes=len(payload), block=0, first=0, count=8)
    frame = Frame(message, memoryview(payload))
    payload[:] = b"behind"
    assert bytes(frame.rest(frame.length)[-1]) == b"behind"


@pytest.mark.parametrize("payload", [b"", b"four", b"sixsix"])
def test_a_payload_must_be_as_long_as_its_message_says(payload: bytes) -> None:
    """A frame whose payload differs from what its head announces is refused before it is sent."""
    with pytest.raises(LocalProtocolError):
        Frame(Discard(payload_bytes=5, block=0, first=0, count=8), payload)


def test_what_went_of_a_frame_is_guest_memory_in_proportion() -> None:
    """Zeros that are only named count with its bytes; before and behind the frame nothing does."""
    outlet = Outlet(Channel.PRECOPY)
    outlet.bytes_carried_before = 1000
    assert outlet.begun_memory_bytes == 0
    data = PageData(payload_bytes=4096, block=0, offset=0)
    outlet.open_frame = frame = Frame(data, bytes(4096), memory_bytes=8192)
    outlet.took(frame, frame.length // 2)
    assert outlet.begun_memory_bytes == 8192 * frame.sent // frame.length
    assert (outlet.bytes_sent, outlet.bytes_carried) == (frame.sent, 1000 + frame.sent)
    outlet.took(frame, frame.length - frame.sent)
    assert frame.done
    assert outlet.begun_memory_bytes == 8192


def test_only_where_requests_may_come_runs_have_a_length() -> None:
    """Before that nobody measures the rate, and a pause means nothing."""
    outlet = Outlet(Channel.PRECOPY)
    outlet.pause()
    assert outlet.run_bytes is None
    outlet.buffering = Buffering()
    outlet.pause()
    assert outlet.run_bytes == 0
