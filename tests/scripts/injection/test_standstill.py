"""For how long the network stands still when vCPUs are made to touch pages."""

from protocol.geometry import PageId
from scripts.injection.marks import Direction
from scripts.injection.standstill import Standstill

BOTH = frozenset(Direction)
FORWARD = frozenset({Direction.FORWARD})
OPEN: frozenset[Direction] = frozenset()
A, B, C = (PageId(0, index) for index in range(3))


def running(vcpu_count: int = 8) -> Standstill:
    """Return one of a guest that runs."""
    standstill = Standstill(vcpu_count)
    standstill.guest_runs()
    return standstill


def test_all_is_shut_until_all_is_asked_for_and_heard() -> None:
    """Requests wait for the last of them, and the way forward until the source has read that."""
    standstill = running()
    assert standstill.shut == OPEN
    standstill.touch([A, B])
    assert standstill.shut == BOTH
    standstill.requested(A)
    assert standstill.shut == BOTH
    standstill.requested(B)
    assert standstill.shut == FORWARD
    standstill.heard(A)
    assert standstill.shut == FORWARD
    standstill.heard(B)
    assert standstill.shut == OPEN


def test_a_step_that_waits_for_a_request_belongs_to_it() -> None:
    """What is touched because of a request is waited for before that goes on."""
    standstill = running()
    standstill.touch([A])
    standstill.requested(A)
    standstill.touch([B])
    assert standstill.shut == BOTH
    standstill.requested(B)
    assert standstill.shut == FORWARD


def test_what_is_there_is_not_asked_for() -> None:
    """A touch that is over is not waited for, nor one of a page that was asked for before."""
    standstill = running()
    standstill.touch([A, A, B])
    standstill.requested(B)
    standstill.heard(B)
    assert standstill.shut == BOTH
    standstill.touched(A)
    assert standstill.shut == BOTH
    standstill.touched(A)
    assert standstill.shut == OPEN
    standstill.touch([B])
    assert standstill.shut == OPEN


def test_nothing_stands_still_for_a_guest_that_does_not_run() -> None:
    """Touches wait for the destination's vCPUs to run, and the network goes on until then."""
    standstill = Standstill(1)
    standstill.touch([A])
    assert standstill.shut == OPEN
    standstill.guest_runs()
    assert standstill.shut == BOTH


def test_a_touch_that_has_no_vcpu_yet_is_not_waited_for() -> None:
    """So many touches as there are vCPUs are under way; the next comes when one of them is over."""
    standstill = running(vcpu_count=2)
    standstill.touch([A, B, C])
    for page in (A, B):
        standstill.requested(page)
        standstill.heard(page)
    assert standstill.shut == OPEN
    standstill.touched(A)
    assert standstill.shut == BOTH
    standstill.requested(C)
    standstill.heard(C)
    assert standstill.shut == OPEN


def test_nothing_is_waited_for_in_vain() -> None:
    """When a connection or a side is gone the network goes on, until there is another touch."""
    standstill = running()
    standstill.touch([A, B])
    standstill.requested(A)
    standstill.let_go()
    assert standstill.shut == OPEN
    standstill.touch([C])
    assert standstill.shut == BOTH
    standstill.requested(C)
    standstill.heard(C)
    assert standstill.shut == OPEN
