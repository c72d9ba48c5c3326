"""Who stops a vCPU at a missing page: what the user asked for, and what can be had."""

from __future__ import annotations

from dest.config import SIMULATED, USERFAULT
from guest import services
from protocol.errors import GuestFailed
from protocol.policy import Policy

_WHOLE_ONLY = (
    "critical-first places 4 KiB at a time, and hugetlb memory is mapped by whole pages; "
    "take --backing thp or base"
)


def may_use_hugetlb(placement: str, policy: Policy) -> bool:
    """Tell whether hugetlb memory leaves the user the placement that was asked for.

    Args:
        placement: One of PLACEMENT_CHOICES.
        policy: Says whether parts of a page are placed.
    """
    return placement == SIMULATED or not policy.critical


def service_for(placement: str, policy: Policy, kinds: tuple[str, ...]) -> tuple[str, str]:
    """Return the service to ask of the guest process, and if it is none that was wished for, why.

    Args:
        placement: One of PLACEMENT_CHOICES.
        policy: Says whether parts of a page are placed.
        kinds: The kinds of the memory that was had.
    """
    if placement == SIMULATED:
        return services.NONE, ""
    if policy.critical and "hugetlb" in kinds:
        return services.NONE, _WHOLE_ONLY
    return services.USERFAULT, ""


def check_granted(placement: str, reason: str) -> None:
    """Refuse to go on without what was asked for by its name.

    Raises:
        GuestFailed: It cannot be had, for that reason.
    """
    if placement == USERFAULT and reason:
        raise GuestFailed(f"--placement userfault: {reason}")
