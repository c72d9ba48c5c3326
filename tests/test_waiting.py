"""Tests wait for what anybody can see: none looks at a private field to know when to go on."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def waits_of(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield what loops and calls with `wait` or `until` in their names wait for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.While):
            yield node.test
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if "wait" in name or "until" in name:
                yield node


def private_fields(waited_for: ast.expr) -> set[str]:
    """Return the private fields of others than the test's own object in an expression."""
    return {
        ast.unparse(node)
        for node in ast.walk(waited_for)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("while not rig.sender._waiting: pass", {"rig.sender._waiting"}),
        ("until(lambda: child._status is not None)", {"child._status"}),
        ("await guest._process.wait_answer()", {"guest._process"}),
        ("await until(lambda: guest.is_running)", set()),
        ("while self._rest: pass", set()),
        ("while self.guest._events: pass", {"self.guest._events"}),
        ("assert rig._secret", set()),
    ],
)
def test_waits_are_found(code: str, found: set[str]) -> None:
    """Loops and waits count, whatever is in them; other looks and own fields do not."""
    tree = ast.parse(code)
    assert {name for waited_for in waits_of(tree) for name in private_fields(waited_for)} == found


def test_no_test_waits_for_a_private_field() -> None:
    """Where one would have to, the product or a double has a public way."""
    found = {
        f"{path.relative_to(TESTS)}: {name}"
        for path in TESTS.rglob("*.py")
        for waited_for in waits_of(ast.parse(path.read_text(encoding="utf-8")))
        for name in private_fields(waited_for)
    }
    assert found == set()
