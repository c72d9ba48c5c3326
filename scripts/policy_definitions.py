"""Definition of a policy, as a report has it: what its name stood for in that run.

A name is for people.  Another version may mean something else by it, and what is called so in a
user's file is whatever that file says today.  So a report has every field of the policy that was
used and, of one with a prefetcher or an order, what makes these and with which options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

from protocol.policy import Policy
from scripts.policies import policy_of

Plain = dict[str, Any]

# The parts that a scheme makes anew for each migration.
_PARTS = ("prefetcher", "order")

# Of an option's value so much is told; a longer one is cut, deeper ones are told by their kind.
_CHARS_MAX, _COUNT_MAX, _DEPTH_MAX = 200, 64, 4


def definition_of(text: str) -> Plain:
    """Return all that a policy of that name is.

    Args:
        text: As `--policy` takes it.

    Raises:
        WrongPolicy: There is none.
    """
    policy = policy_of(text)
    plain = {_key(each.name): _plain(getattr(policy, each.name)) for each in fields(Policy)}
    return plain | {part: _part(getattr(policy, part, None)) for part in _PARTS}


def _part(make: Callable[[], object] | None) -> Plain | None:
    """Return the name of what makes a part, and the options that it makes it with."""
    if make is None:
        return None
    # Only who has a prefetcher or an order waits for these.
    import inspect  # noqa: PLC0415
    from functools import partial  # noqa: PLC0415

    bound: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    if isinstance(make, partial):
        # One of another is one already.
        bound, make = (make.args, make.keywords), make.func
    name = getattr(make, "__qualname__", type(make).__qualname__)
    try:
        signature = inspect.signature(make)
        arguments = signature.bind_partial(*bound[0], **bound[1])
    except (TypeError, ValueError):
        # Written in C, or it would not take them: then it is refused where it is made.
        return {"name": name, "options": {}}
    arguments.apply_defaults()
    variable = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    kinds = {each.name: each.kind for each in signature.parameters.values()}
    options = {
        option: _plain(value)
        for option, value in arguments.arguments.items()
        if value or kinds[option] not in variable
    }
    return {"name": name, "options": options}


def _plain(value: object, depth: int = 0) -> Any:  # noqa: ANN401 - what JSON has
    """Return a value as JSON has it, the same each time; an object by its kind, not its address."""
    told: Any = getattr(value, "__qualname__", type(value).__qualname__)
    match value:
        case Enum():
            told = _plain(value.value, depth)
        case float() if not math.isfinite(value):
            told = str(value)
        case None | bool() | int() | float():
            told = value
        case str():
            told = value[:_CHARS_MAX].encode(errors="replace").decode()
        case list() | tuple() if depth < _DEPTH_MAX:
            told = [_plain(each, depth + 1) for each in value[:_COUNT_MAX]]
        case Mapping() if depth < _DEPTH_MAX:
            items = list(value.items())[:_COUNT_MAX]
            told = {str(key)[:_CHARS_MAX]: _plain(each, depth + 1) for key, each in items}
    return told


def _key(name: str) -> str:
    return name.replace("_", "-")
