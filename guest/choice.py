"""What kind of guest a source gets that asks for none: the first that works, found by trying it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from guest.spec import KINDS, KVM, NATIVE, PYTHON
from protocol.errors import GuestFailed


class Choice(NamedTuple):
    """A kind of guest.

    Attributes:
        kind: One of `guest.spec.KINDS`.
        reason: Why it is none of those before it, a line; empty if it is the first.
    """

    kind: str
    reason: str = ""


def choose_kind(dirty_log: str = "auto") -> Choice:
    """Return the first kind of guest that works here; takes some tens of milliseconds.

    Args:
        dirty_log: One of DIRTY_LOG_CHOICES, which not every kind can have.
    """
    reasons: list[str] = []
    for kind in KINDS:
        reason = why_not(kind, dirty_log)
        if not reason:
            return Choice(kind, "; ".join(reasons))
        reasons.append(f"{kind}: {reason}")
    raise AssertionError("threads of an interpreter work wherever it does")


def why_not(kind: str, dirty_log: str = "auto") -> str:
    """Return in a line why there can be no guest of a kind here, empty if there can be.

    Args:
        kind: One of `guest.spec.KINDS`.
        dirty_log: One of DIRTY_LOG_CHOICES.
    """
    if kind == KVM and dirty_log == "software":
        return "its vCPUs do not mark what they write"
    if kind != KVM and dirty_log == "kvm":
        return "KVM keeps no log of it"
    try:
        _TRIES[kind]()
    except GuestFailed as error:
        return str(error)
    return ""


def _try_kvm() -> None:
    from guest.kvm.probe import try_machine  # noqa: PLC0415 - loaded where it is wanted

    try_machine()


def _try_native() -> None:
    from guest.native.code import functions  # noqa: PLC0415

    functions().counter()


_TRIES: dict[str, Callable[[], None]] = {
    KVM: _try_kvm,
    NATIVE: _try_native,
    PYTHON: lambda: None,
}
