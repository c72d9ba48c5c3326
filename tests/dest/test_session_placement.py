"""What is asked of the guest process follows from what the user and the policy want."""

import pytest

from dest.session import check_granted, may_use_hugetlb, service_for
from guest import services
from protocol.errors import GuestFailed
from protocol.policy import preset

ORDERED, CRITICAL = preset("ordered"), preset("critical-first")


@pytest.mark.parametrize("placement", ["auto", "userfault"])
def test_the_kernel_is_asked_unless_it_cannot(placement: str) -> None:
    """Whatever the memory is made of; but 4 KiB of a hugetlb page cannot be mapped."""
    for kinds in (("base",), ("thp", "base"), ("hugetlb",)):
        assert service_for(placement, ORDERED, kinds) == (services.USERFAULT, "")
    assert service_for(placement, CRITICAL, ("thp",)) == (services.USERFAULT, "")
    service, reason = service_for(placement, CRITICAL, ("base", "hugetlb"))
    assert service == services.NONE
    assert "hugetlb" in reason


def test_simulated_asks_for_nothing_and_misses_nothing() -> None:
    """Who wants no kernel gets none, and no reason why."""
    for policy in (ORDERED, CRITICAL):
        assert service_for("simulated", policy, ("hugetlb",)) == (services.NONE, "")


def test_hugetlb_is_avoided_where_it_is_in_the_way() -> None:
    """Memory that the user leaves open is chosen so that the kernel can place 4 KiB."""
    assert not may_use_hugetlb("auto", CRITICAL)
    assert may_use_hugetlb("auto", ORDERED)
    assert may_use_hugetlb("simulated", CRITICAL)


def test_only_who_insists_is_refused() -> None:
    """With `auto` the reason is told and the migration goes on."""
    check_granted("auto", "no userfaultfd")
    check_granted("userfault", "")
    with pytest.raises(GuestFailed, match="--placement userfault: no userfaultfd"):
        check_granted("userfault", "no userfaultfd")
