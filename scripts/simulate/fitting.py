"""Fits what a model says of processors and packets to a real run, by simulating that run.

Where a fault's time goes inside a process nobody can measure from outside; how much of it there is,
the stages of its waits tell.  So the costs of each side are scaled, all of a side alike, and the
packet that nothing overtakes, until the simulated run's typical stages take as long as the real
one's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scripts.simulate.model import DEST_COSTS, SOURCE_COSTS, Model

Simulate = Callable[[Model], Mapping[str, Any]]

_ROUNDS_MAX = 10
# Runs of one kind differ by more: of the time, or in microseconds.
_NEAR_SHARE, _NEAR_US = 0.02, 1.0
# What is tried first: two cores took four vCPUs for some twenty times as late.
_CROWDING_TRIED = 10.0
# Further from the base is no machine; in one step a dial goes no further than to a half or twice.
_SCALE_MIN, _SCALE_MAX = 0.02, 20.0


@dataclass
class _Dial:
    """Values of a model that are scaled together, and the time that they are to make right.

    Attributes:
        names: The values'.
        time_us: Returns that time of a report.
        scale: Of the base's values.
    """

    names: tuple[str, ...]
    time_us: Callable[[Mapping[str, Any]], float]
    scale: float = 1.0
    # The scale and the time of the round before.
    _before: tuple[float, float] | None = field(default=None, init=False)

    def turn(self, wanted_us: float, time_us: float) -> bool:
        """Turn it; return False if it is right already.

        In proportion at first, then along the line through the last two rounds: much of a stage's
        time is no processor's.
        """
        if abs(wanted_us - time_us) <= max(_NEAR_SHARE * wanted_us, _NEAR_US):
            return False
        scale, before = self.scale, self._before
        self._before = scale, time_us
        if before is None or (time_us - before[1]) * (scale - before[0]) <= 0:
            aimed = scale * wanted_us / max(time_us, 1e-3)
        else:
            slope = (time_us - before[1]) / (scale - before[0])
            aimed = scale + (wanted_us - time_us) / slope
        aimed = min(max(aimed, scale / 2), scale * 2)
        self.scale = min(max(aimed, _SCALE_MIN), _SCALE_MAX)
        return self.scale != scale


def fit_costs(base: Model, measured: Mapping[str, Any], simulate: Simulate) -> Model:
    """Return the model with which the stages of a run with one vCPU take as long as they did.

    Args:
        base: Says how a side's costs are divided, and all else.
        measured: The `midstream` part of the real run's report.
        simulate: Returns that part of the same run as a model has it.
    """
    dials = (
        _Dial(SOURCE_COSTS, _stages("queue", "send")),
        _Dial(DEST_COSTS, _stages("detect", "request", "place", "wake")),
        _Dial(("packet_bytes",), _stages("receive")),
    )
    return _fit(base, dials, measured, simulate)


def fit_crowding(base: Model, measured: Mapping[str, Any], simulate: Simulate) -> Model:
    """Return the model with which the faults of a run with several vCPUs take as long as they did.

    Args:
        base: With the costs that one vCPU makes.
        measured: The `midstream` part of the real run's report.
        simulate: Returns that part of the same run as a model has it.
    """
    dial = _Dial(("crowding",), lambda report: float(report["faults"]["p50-us"]))
    return _fit(replace(base, crowding=_CROWDING_TRIED), (dial,), measured, simulate)


def _stages(*names: str) -> Callable[[Mapping[str, Any]], float]:
    """Return what tells how long some stages typically took together."""

    def of(report: Mapping[str, Any]) -> float:
        return float(sum(report["stages"][name]["p50-us"] for name in names))

    return of


def _fit(
    base: Model, dials: Sequence[_Dial], measured: Mapping[str, Any], simulate: Simulate
) -> Model:
    model = base
    for _ in range(_ROUNDS_MAX):
        predicted = simulate(model)
        turned = [dial.turn(dial.time_us(measured), dial.time_us(predicted)) for dial in dials]
        if not any(turned):
            break
        model = _scaled(base, dials)
    return model


def _scaled(base: Model, dials: Sequence[_Dial]) -> Model:
    changes: dict[str, Any] = {}
    for dial in dials:
        for name in dial.names:
            before = getattr(base, name)
            value = before * dial.scale
            changes[name] = value if isinstance(before, float) else max(1, round(value))
    return replace(base, **changes)
