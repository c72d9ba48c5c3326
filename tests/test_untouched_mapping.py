"""Nothing but `libc.memcpy` touches what the kernel may stop a thread at, and only vCPUs do.

A thread that touches a missing page with the GIL held stops its whole interpreter, for ever.
What happens when one is stopped is tested in tests/dest/test_placement.py; here the source text is
searched for what could make bytes of an address in another way.
"""

import ast
import ctypes

import pytest

from guest import libc
from tests.test_layering import imports_of, project_modules

# What makes something readable of a bare address, or calls C with the GIL held.
MAKERS = frozenset(
    {
        "from_address", "string_at", "wstring_at", "memoryview_at", "memmove", "memset", "cast",
        "POINTER", "pointer", "PyDLL", "pythonapi", "as_array", "memcpy", "__array_interface__",
    }
)  # fmt: skip

# Who may use which, and on what.
ALLOWED = {
    "guest.libc": {"memcpy"},  # the door itself
    "guest.vcpu": {"memcpy", "cast"},  # the touch, and a memoryview of the vCPU's own two words
    "guest.backing": {"from_address", "cast"},  # the alias, which is never registered
    "guest.kvm.log": {"from_address", "as_array"},  # a bitmap of its own, in a memfd of its own
}

# Who may know where the guest mapping is: those that touch it, or tell the kernel or KVM about it.
# What runs machine code touches it outside of the interpreter.
MAPPING_USERS = {
    "guest.process", "guest.vcpu", "guest.services", "guest.probe", "guest.mapping", "guest.crew",
    "guest.native.vcpu", "guest.kvm.vcpu", "guest.kvm.probe",
}  # fmt: skip


def makers_in(source: str) -> set[str]:
    """Return the names of MAKERS that a module uses."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            used.update(alias.name for alias in node.names)
    # `typing.cast` makes nothing.
    if "from typing import" in source and "cast" in source.partition("from typing import")[2][:40]:
        used.discard("cast")
    return used & MAKERS


def test_only_vcpus_touch_and_only_by_memcpy() -> None:
    """No module but those named makes bytes of an address, and none in a way of its own."""
    faults = [
        f"{module} uses {maker}"
        for module, path in project_modules().items()
        for maker in makers_in(path.read_text(encoding="utf-8")) - ALLOWED.get(module, set())
    ]
    assert not faults, "\n".join(faults)


def test_few_know_where_the_guest_mapping_is() -> None:
    """A module that has no part in it cannot touch it by mistake."""
    users = {
        module
        for module, path in project_modules().items()
        for name, _ in imports_of(ast.parse(path.read_text(encoding="utf-8")), module)
        if name.startswith("guest.mapping") or name == "guest.mapping"
    }
    assert users <= MAPPING_USERS


def test_memcpy_lets_the_interpreter_go() -> None:
    """The copy is made by a call that gives up the GIL."""
    assert isinstance(libc._C, ctypes.CDLL)
    assert not isinstance(libc._C, ctypes.PyDLL)
    assert not libc.memcpy._flags_ & ctypes._FUNCFLAG_PYTHONAPI  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "source",
    [
        "import ctypes\nctypes.string_at(5, 8)",
        "from ctypes import memmove\nmemmove(1, 2, 3)",
        "import ctypes\n(ctypes.c_char * 8).from_address(5)",
        "import numpy as np\nnp.ctypeslib.as_array(5)",
        "from guest import libc\nlibc.memcpy(1, 2, 3)",
        "import ctypes\nctypes.cast(5, ctypes.c_char_p).value",
        "import ctypes\nctypes.PyDLL(None)",
    ],
)
def test_another_way_to_touch_is_found(source: str) -> None:
    """Each way in which Python reads at an address is seen."""
    assert makers_in(source)


def test_what_touches_nothing_is_left_alone() -> None:
    """A cast that is only about types is none of memory."""
    assert makers_in("from typing import Any, cast\ncast(int, 5)") == set()
