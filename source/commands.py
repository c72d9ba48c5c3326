"""What the engine that sends wants done; its user does it, and says what came of it.  Pure."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from protocol.channels import Channel
from protocol.messages import RequestAnswer
from source.jobs import Chunk
from source.outlet import Frame, Outlet


class Write:
    """Hand a stream what it takes at once of a frame; then `took`, be it nothing.

    Attributes:
        chunk: What the frame carries.
        outlet: Where it goes.
        frame: The outlet's open frame.
        limit: The most bytes that may go now.
        paced: They go in the background, and may go in a row while the stream has room soon.
    """

    __slots__ = ("chunk", "frame", "limit", "outlet", "paced")

    def __init__(self, chunk: Chunk, outlet: Outlet, frame: Frame) -> None:
        """Begin with all that is left of the frame allowed."""
        self.chunk = chunk
        self.outlet = outlet
        self.frame = frame
        self.limit = frame.length
        self.paced = False


class Tell(NamedTuple):
    """Tell the destination of requests, over the first channel that takes it at once; then `told`.

    Attributes:
        channels: On none of these would it lie before bytes that somebody waits for.
        answers: What is told, oldest request first.
    """

    channels: tuple[Channel, ...]
    answers: list[RequestAnswer]


class Look(NamedTuple):
    """Look how a channel delivers; then `delivers`."""

    channel: Channel


class Turn:
    """Let other tasks have their turn, so that requests that have come are read; then ask again."""

    __slots__ = ()


class Room(NamedTuple):
    """Wait until a channel's stream takes bytes again; then `wait_over`."""

    channel: Channel


class Until(NamedTuple):
    """Wait until a time, in nanoseconds of the user's clock; then `wait_over`."""

    at_ns: int


class Request:
    """Wait until something is requested, or the background has sent all else."""

    __slots__ = ()


Wait: TypeAlias = Room | Until | Request
Command: TypeAlias = Write | Tell | Look | Turn | Wait

TURN = Turn()
REQUEST = Request()
