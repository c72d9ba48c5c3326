"""What the user may tell a running migration: other limits, and the switch-over by hand.

One `Steering` is a session's from its start on; the migration, when there is one, reads it and
hears of changes.  Pure: its commands come as lines and answer in lines.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol import events
from protocol.errors import LocalProtocolError, MigrationError
from protocol.events import Emit
from protocol.states import FINAL, Lifecycle, State
from protocol.text import did_you_mean
from protocol.units import format_rate, parse_duration_ms, parse_rate
from source.config import SourceConfig
from source.convergence import Convergence, Means

# Until then it is open when precopy ends, and how.
_OPEN = frozenset({State.NONE, State.SETUP, State.ACTIVE})

# The limits that can be changed, as the options that set them are called.
BANDWIDTH = "max-bandwidth"
POSTCOPY_BANDWIDTH = "max-postcopy-bandwidth"
DOWNTIME = "downtime-limit"
SETTABLE = (BANDWIDTH, POSTCOPY_BANDWIDTH, DOWNTIME)


class Steering:
    """The limits in force, and the decision when precopy is over.

    Attributes:
        bandwidth: Bytes a second in precopy, 0 for no limit.
        postcopy_bandwidth: Bytes a second of background in postcopy, 0 for no limit.
        convergence: Decides when precopy is over.
        on_change: Called when a limit has changed.
        warn: Takes a line for the user.
    """

    def __init__(self, config: SourceConfig, lifecycle: Lifecycle, emit: Emit) -> None:
        """Begin with what the user said at the start.

        Args:
            config: That.
            lifecycle: Where the migration is.
            emit: Takes events.
        """
        self.bandwidth = config.bandwidth
        self.postcopy_bandwidth = config.postcopy_bandwidth
        self.convergence = Convergence(config.rule)
        self.on_change: Callable[[], None] = lambda: None
        self.warn: Callable[[str], None] = lambda _: None
        self._lifecycle = lifecycle
        self._emit = emit

    async def switch_over(self, argument: str = "") -> str:
        """Switch over to postcopy, by the user's word; the answer to it.

        It needs no leave: both sides can always do postcopy, and `--postcopy-after never` only says
        that precopy does not end so by itself.

        Raises:
            MigrationError: Precopy is over, or has an end already.
        """
        if argument:
            raise MigrationError("switch-over takes no argument")
        state, convergence = self._lifecycle.state, self.convergence
        if state not in _OPEN:
            raise MigrationError(f"precopy is over, its state is {state.value}")
        if convergence.means is not Means.NONE:
            raise MigrationError(f"precopy is ending already: {convergence.means.value}")
        convergence.order()
        if state is State.ACTIVE:
            return "switching over to postcopy"
        return "switching over to postcopy as soon as the destination is ready"

    async def set_limits(self, argument: str) -> str:
        """Change limits, all that are named or none; the answer to it.

        Args:
            argument: NAME=VALUE, several with spaces between.

        Raises:
            MigrationError: That is none, or the migration is over.
        """
        if self._lifecycle.state in FINAL:
            raise MigrationError(f"it is over, its state is {self._lifecycle.state.value}")
        given = parse_limits(argument.split())
        self.bandwidth = int(given.get(BANDWIDTH, self.bandwidth))
        self.postcopy_bandwidth = int(given.get(POSTCOPY_BANDWIDTH, self.postcopy_bandwidth))
        convergence = self.convergence
        convergence.downtime_ms_max = given.get(DOWNTIME, convergence.downtime_ms_max)
        self.tell_limits()
        self.on_change()
        return ", ".join(f"{name} is {_told(name, value)}" for name, value in given.items())

    def tell_limits(self) -> None:
        """Report the limits that are in force."""
        self._emit(
            events.Limits(
                max_bandwidth=self.bandwidth, max_postcopy_bandwidth=self.postcopy_bandwidth,
                # One that can never be kept is below 0.
                downtime_limit_ms=max(self.convergence.downtime_ms_max, 0.0),
            )
        )  # fmt: skip


def parse_limits(words: list[str]) -> dict[str, float]:
    """Return limits by their names, rates in bytes a second and times in milliseconds.

    Args:
        words: NAME=VALUE each.

    Raises:
        MigrationError: None is given, one of them is no such thing, or is there twice.
    """
    limits: dict[str, float] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in SETTABLE:
            hint = did_you_mean(name, SETTABLE)
            raise MigrationError(
                f"{word!r} is not NAME=VALUE with one of {', '.join(SETTABLE)}{hint}"
            )
        if name in limits:
            raise MigrationError(f"{name} is given twice")
        try:
            limits[name] = parse_duration_ms(value) if name == DOWNTIME else parse_rate(value)
        except LocalProtocolError as error:
            raise MigrationError(f"{name}: {error}") from error
    if not limits:
        raise MigrationError(f"give NAME=VALUE, with one of {', '.join(SETTABLE)}")
    return limits


def _told(name: str, value: float) -> str:
    if name == DOWNTIME:
        return f"{value:g} ms"
    return format_rate(value) if value else "unlimited"
