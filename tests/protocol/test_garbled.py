"""What counts as a broken connection though bytes came over it."""

from protocol.errors import ConnectionLost, PeerAborted, RemoteProtocolError
from protocol.garbled import as_loss


def test_what_makes_no_sense_is_a_loss() -> None:
    """The reason is kept."""
    loss = as_loss(RemoteProtocolError("kind 99 is not known"))
    assert isinstance(loss, ConnectionLost)
    assert str(loss).endswith("makes no sense: kind 99 is not known")


def test_other_errors_stay() -> None:
    """A peer that ends the session has said something that makes sense."""
    abort = PeerAborted("enough")
    assert as_loss(abort) is abort
