"""What counts as a broken connection though bytes came over it."""

from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError
from protocol.garbled import Garbled
from protocol.limits import GARBLED_COUNT_MAX


def test_what_makes_no_sense_is_a_loss_until_it_is_the_peers_own() -> None:
    """The reason is kept; what comes again and again is no longer laid to the network."""
    garbled = Garbled()
    error = RemoteProtocolError("kind 99 is not known")
    for _ in range(GARBLED_COUNT_MAX):
        loss = garbled.as_loss(error)
        assert isinstance(loss, ConnectionLost)
        assert str(loss).endswith("makes no sense: kind 99 is not known")
    assert garbled.as_loss(error) is error


def test_other_errors_stay() -> None:
    """A peer that ends the session has said something that makes sense."""
    abort = PeerAborted("enough")
    assert Garbled().as_loss(abort) is abort
