"""What a report says that a policy was: all of its fields, and what makes its parts."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from protocol.policy import PRESETS, HalfSent, Policy, Priority
from scripts.policies import TREE, WrongPolicy
from scripts.policy_definitions import definition_of
from scripts.results.schema import read_schema
from source.scheme import Prefetcher, Scheme

MINE = """
from functools import partial

from source.scheme import Order, Policy, Prefetcher, Scheme


class Ahead(Prefetcher):
    def __init__(self, depth=4, *, marks=(1, 2), where=object, limit=float("inf"), **more):
        self.depth = depth


class Newest(Order):
    def pick(self, queue, half_sent):
        return len(queue) - 1


mine = Scheme("mine", locality=False, prefetcher=Ahead)
eight = partial(partial(Ahead, 8), marks={"a": [3]}, extra=1)
deeper = Scheme("deeper", prefetcher=eight, order=Newest)
plain = Policy("plain", preempts=False)


def of_text(text):
    return Scheme("of-text", prefetcher=lambda: Ahead(int(text)))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Return what gives the definition of a policy of a user's file."""
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return lambda name: definition_of(f"{path}:{name}")


def test_a_preset_is_told_with_every_field() -> None:
    """Those that the class has, in its order, and that nothing is made for it."""
    names = [each.name.replace("_", "-") for each in fields(Policy)]
    for name in PRESETS:
        told = definition_of(name)
        assert list(told) == [*names, "prefetcher", "order"]
        assert told["name"] == name
        assert (told["prefetcher"], told["order"]) == (None, None)
    assert definition_of("drop")["half-sent"] == "postpone"
    assert definition_of("vanilla")["own-channel"] is False


def test_the_schema_has_these_fields() -> None:
    """And the values that they can have."""
    policy = read_schema()["$defs"]["policy"]
    assert list(policy["properties"]) == policy["required"] == list(definition_of("ordered"))
    assert policy["properties"]["half-sent"]["enum"] == [each.value for each in HalfSent]
    assert policy["properties"]["priority"]["enum"] == [each.value for each in Priority]


def test_a_prefetcher_is_told_with_its_options(mine: Callable[[str], dict[str, Any]]) -> None:
    """Its class's defaults, or what a partial has changed of them; objects by their kind."""
    told = mine("mine")
    assert (told["name"], told["locality"], told["priority"]) == ("mine", False, "urgency")
    assert told["prefetcher"] == {
        "name": "Ahead",
        "options": {"depth": 4, "marks": [1, 2], "where": "object", "limit": "inf"},
    }
    assert told["order"] is None
    told = mine("deeper")
    assert told["order"] == {"name": "Newest", "options": {}}
    options = told["prefetcher"]["options"]
    assert (options["depth"], options["marks"], options["more"]) == (8, {"a": [3]}, {"extra": 1})


def test_what_is_no_scheme_and_what_takes_a_text_is_told(
    mine: Callable[[str], dict[str, Any]],
) -> None:
    """A policy without parts, and one whose text stands in the option itself."""
    assert (mine("plain")["preempts"], mine("plain")["prefetcher"]) == (False, None)
    assert mine("of_text=7")["prefetcher"]["name"] == "of_text.<locals>.<lambda>"


def test_the_trees_schemes_have_names() -> None:
    """Each is made by a class that a reader finds."""
    for name in TREE:
        if name == "recorded":
            continue
        made = definition_of(name)["prefetcher"]
        assert (made is None) == (name == "no-prefetch")


@pytest.mark.parametrize("make", [partial(int, 1, 2, 3, 4), max])
def test_what_cannot_be_looked_into_has_a_name(
    make: Callable[[], Prefetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written in C, or would not take its options, is told without any."""
    scheme = Scheme("odd", prefetcher=make)
    monkeypatch.setattr("scripts.policy_definitions.policy_of", lambda _: scheme)
    told = definition_of("odd")["prefetcher"]
    assert told["name"] in {"int", "max"}
    assert told["options"] == {}


def test_a_name_of_none_is_refused() -> None:
    """There is nothing to tell."""
    with pytest.raises(WrongPolicy, match="nobodys"):
        definition_of("nobodys")
