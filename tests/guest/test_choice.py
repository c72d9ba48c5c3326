"""Which kind of guest is taken where none was asked for, and what is said of the others."""

from functools import partial

import pytest

from guest import choice
from guest.choice import choose_kind, why_not
from guest.native import code
from guest.spec import KINDS, KVM, NATIVE, PYTHON
from protocol.errors import GuestFailed


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kinds that work on this machine; a test takes some away."""
    kinds = set(KINDS)

    def attempt(kind: str) -> None:
        if kind not in kinds:
            raise GuestFailed(f"no {kind} today")

    for kind in KINDS:
        monkeypatch.setitem(choice._TRIES, kind, partial(attempt, kind))
    return kinds


def test_the_first_that_works_is_taken(works: set[str]) -> None:
    """Of those before it is said why not."""
    assert choose_kind() == (KVM, "")
    works.discard(KVM)
    assert choose_kind() == (NATIVE, "kvm: no kvm today")
    works.discard(NATIVE)
    assert choose_kind() == (PYTHON, "kvm: no kvm today; native: no native today")


def test_a_dirty_log_that_is_asked_for_is_heeded(works: set[str]) -> None:
    """A virtual machine's vCPUs mark nothing; KVM notes nothing of what threads do."""
    assert choose_kind("software") == (NATIVE, "kvm: its vCPUs do not mark what they write")
    assert choose_kind("kernel").kind == KVM
    assert why_not(NATIVE, "kvm") == "KVM keeps no log of it"
    works.discard(KVM)
    assert why_not(KVM, "kvm") == "no kvm today"


def test_another_processor_runs_no_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code is for, and what this machine is, is said."""
    code.machine_code.cache_clear()
    code.functions.cache_clear()
    monkeypatch.setattr(code, "MACHINE", "vax")
    assert "machine code is for vax, not" in why_not(NATIVE)
    assert why_not(PYTHON) == ""
