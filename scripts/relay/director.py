"""Decides at which byte of a page something is to happen, and what may not pass.

Whoever passes bytes on asks, for each piece of memory, up to where it may go, and tells how far it
has; requests, messages and states are told as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.qemu.messages import Blocks, QemuMessage
from protocol.qemu.pieces import PackageEnd, Part, Piece
from protocol.qemu.ram import BlockTable, block_table
from protocol.qemu.returned import PageAsked, Returned
from scripts.injection.actions import NetworkAction
from scripts.relay.steps import (
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
from scripts.relay.telling import block_name, message_name


class Director:
    """Does the steps of one migration."""

    def __init__(
        self,
        steps: Sequence[Step],
        emit: Emit,
        act: Callable[[NetworkAction | Touch], None],
        wake: Callable[[], None],
    ) -> None:
        """Start with no step done.

        Args:
            steps: Each is done once.
            emit: Is told of each that is.
            act: Does something to the connections, or to the destination; must not wait.
            wake: Has whoever waits before a held byte look again.
        """
        self._in_postcopy = False
        self._pending = list(steps)
        self._emit = emit
        self._act = act
        self._wake = wake
        self._holds: dict[NamedPage, Hold] = {}
        self._blocks: BlockTable = {}

    @property
    def pending(self) -> list[Step]:
        """The steps that were not done."""
        return list(self._pending)

    # Bytes of pages.

    def is_about(self, channel: Channel, piece: Piece) -> bool:
        """Tell whether a piece may not simply pass: a step is about memory in it, or a message."""
        if not (self._pending or self._holds):
            return False
        if piece.says:
            return True
        return bool(self._marks(channel, piece)) or any(
            self._hold_position(channel, piece, hold) is not None for hold in self._holds.values()
        )

    def limit(self, channel: Channel, piece: Piece, at: int) -> int:
        """Return up to which stream position a piece may pass; `at` itself if it is held there.

        Args:
            channel: Over which it comes.
            piece: Which.
            at: Up to where it has passed.
        """
        limit = min(
            [position for position, _ in self._marks(channel, piece) if position > at],
            default=piece.stop,
        )
        for hold in self._holds.values():
            held_at = self._hold_position(channel, piece, hold)
            if held_at is not None:
                limit = min(limit, max(held_at, at))
        return limit

    def flips(
        self, channel: Channel, piece: Piece, at: int, limit: int
    ) -> Iterator[tuple[int, int]]:
        """Yield the stream position behind each byte to be changed up to there, and the bit."""
        if piece.is_plain:
            for position, step in self._marks(channel, piece):
                if at < position <= limit and isinstance(step.action, Flip):
                    yield position, 1 << step.action.bit

    def passed(self, channel: Channel, piece: Piece, at: int) -> None:
        """Take that a piece has passed up to a stream position; do what is due there."""
        for position, step in self._marks(channel, piece):
            if position <= at:
                self._do(step)
        if at == piece.stop:
            for message in piece.says:
                self.said(message)

    # Everything else.

    def asked(self, message: PageAsked) -> None:
        """Take a page request before it is passed on."""
        page = self._page_at(message)
        self._do_all(lambda when: page is not None and when == Requested(page))

    def served(self, page: NamedPage) -> None:
        """Take a page that was asked for and has passed whole."""
        self._do_all(lambda when: when == Served(page))

    def said(self, message: QemuMessage | Returned) -> None:
        """Take a message that has passed."""
        if isinstance(message, Blocks):
            self._blocks = block_table(list(message.blocks))
        if isinstance(message, PackageEnd):
            self._in_postcopy = True
        name, block = message_name(message), block_name(message)
        self._do_all(
            lambda when: (
                isinstance(when, Said) and when.name == name and when.block in {None, block}
            )
        )

    def entered(self, state: str) -> None:
        """Take a state."""
        self._do_all(lambda when: when == Entered(state))

    def _do_all(self, is_due: Callable[[When], bool]) -> None:
        for step in [step for step in self._pending if is_due(step.when)]:
            self._do(step)

    def _do(self, step: Step) -> None:
        self._pending.remove(step)
        self._emit(events.Inject(step=step.number, line=step.line))
        match step.action:
            case Hold() as hold:
                self._holds[hold.page] = hold
            case Release(page):
                self._holds.pop(page, None)
                self._wake()
            case NetworkAction() | Touch() as action:
                self._act(action)

    def _page_at(self, message: PageAsked) -> NamedPage | None:
        if message.block not in self._blocks:
            return None
        return NamedPage(message.block, message.offset // self._blocks[message.block].page_bytes)

    def _marks(self, channel: Channel, piece: Piece) -> list[tuple[int, Step]]:
        """Return the steps that lie in a piece, each with its stream position, in order."""
        if piece.part is not Part.PAGES or not piece.length:
            return []
        found = []
        for step in self._pending:
            when = step.when
            if (
                isinstance(when, AtByte)
                and when.page.block == piece.block
                and when.in_postcopy is self._in_postcopy
                and when.channel in {None, channel}
            ):
                end = self._start(when.page) + when.byte
                if piece.offset < end <= piece.offset + piece.length:
                    found.append((piece.position(end), step))
        return sorted(found, key=lambda each: each[0])

    def _hold_position(self, channel: Channel, piece: Piece, hold: Hold) -> int | None:
        """Return the stream position at which a piece is held, None if it is not."""
        if (
            channel not in hold.channels
            or piece.part is not Part.PAGES
            or piece.block != hold.page.block
        ):
            return None
        start = self._start(hold.page)
        first = max(start + hold.byte, piece.offset)
        if not first < min(start + self._page_bytes(piece.block), piece.offset + piece.length):
            return None
        return piece.position(first) if first > piece.offset else piece.start

    def _start(self, page: NamedPage) -> int:
        return page.index * self._page_bytes(page.block)

    def _page_bytes(self, block: str) -> int:
        return self._blocks[block].page_bytes if block in self._blocks else TARGET_PAGE_BYTES
