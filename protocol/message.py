"""What every message is: a kind, and fields; what it carries beside them is its payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass(frozen=True, repr=False, eq=False)
class Message:
    """Base of all messages; `payload_bytes` is 0 for those that carry no bulk.

    How they compare and what they look like is said once, here: a dataclass that has methods of its
    own for that has them compiled while it loads, and a side loads thirty of these.
    """

    kind: ClassVar[int]
    payload_bytes_max: ClassVar[int] = 0
    payload_bytes: int = 0

    def __eq__(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, other: object
    ) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:  # type: ignore[explicit-override] # typing.override: from 3.12
        return hash((type(self), frozenset(vars(self).items())))

    def __repr__(self) -> str:  # type: ignore[explicit-override] # typing.override: from 3.12
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


@dataclass_transform(frozen_default=True, kw_only_default=True)
def message(cls: type[T]) -> type[T]:
    """Make a dataclass of a kind of message: frozen, its fields given by name."""
    return dataclass(frozen=True, kw_only=True, repr=False, eq=False)(cls)
