"""One epoch of a migration: a set of open connections, and what comes back over them.  Pure.

A break ends an epoch, and with the next everything is counted anew but what the channels carried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.messages import Message
from protocol.session_messages import ANSWERS, CHECKSUM, KEEPALIVE, RECOVER
from source.engine import SendEngine
from source.outlet import Outlet
from source.steps import Received

# A correct destination is never this many messages ahead of what the source awaits.
HEARD_COUNT_MAX = 16


class Epoch:
    """The channels of one set of connections.

    Attributes:
        outlets: By their names.
        sending: Decides what goes over them.
        checked: Checksums go with frames.
        tells: The destination is told of its requests.
        recovers: A break can be mended.
        kept_alive: Both sides give signs of life.
    """

    def __init__(
        self, outlets: Mapping[Channel, Outlet], sending: SendEngine, capabilities: Sequence[str]
    ) -> None:
        """Begin with nothing sent, and nothing heard.

        Args:
            outlets: By their names.
            sending: Decides what goes over them.
            capabilities: What both sides can do.
        """
        self.outlets = outlets
        self.sending = sending
        self.checked = CHECKSUM in capabilities
        self.tells = ANSWERS in capabilities
        self.recovers = RECOVER in capabilities
        self.kept_alive = KEEPALIVE in capabilities
        self._heard: deque[Received[Message]] = deque()

    @property
    def main(self) -> Outlet:
        """The precopy channel's."""
        return self.outlets[Channel.PRECOPY]

    @property
    def target_pages_sent(self) -> int:
        """Target pages that went whole over them."""
        return sum(outlet.target_pages_sent for outlet in self.outlets.values())

    @property
    def data_bytes_sent(self) -> int:
        """Bytes of guest memory that went with those."""
        return sum(outlet.data_bytes_sent for outlet in self.outlets.values())

    @property
    def begun_memory_bytes(self) -> int:
        """Bytes of guest memory that the streams have taken of frames under way."""
        return sum(outlet.begun_memory_bytes for outlet in self.outlets.values())

    def keep(self, channel: Channel, received: Received[Message]) -> None:
        """Keep a message that came back until a phase waits for it.

        Raises:
            RemoteProtocolError: No correct destination says that over this channel, or so much.
        """
        if channel is not Channel.PRECOPY or len(self._heard) == HEARD_COUNT_MAX:
            name = type(received.message).__name__
            raise RemoteProtocolError(f"{name} came while nothing was awaited")
        self._heard.append(received)

    def heard(self) -> Received[Message] | None:
        """Return the next message that was kept, None if there is none."""
        return self._heard.popleft() if self._heard else None


def sent_bytes(epochs: Sequence[Epoch]) -> int:
    """Return what went over all channels of all epochs, heads and all."""
    return sum(outlet.bytes_sent for each in epochs for outlet in each.outlets.values())


def channel_bytes(epochs: Sequence[Epoch], name: Channel) -> int:
    """Return what went over one channel; 0 where the policy has none of that name."""
    return sum(each.outlets[name].bytes_sent for each in epochs if name in each.outlets)
