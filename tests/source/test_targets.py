"""Addresses as a user types them."""

import pytest

from protocol.errors import MigrationError
from source.targets import parse_target, target_text


@pytest.mark.parametrize(
    ("text", "target"), [("there:5", ("there", 5)), ("[::1]:65535", ("::1", 65535))]
)
def test_targets(text: str, target: tuple[str, int]) -> None:
    """A host and a port are told apart, brackets or none, and put together again."""
    assert parse_target(text) == target
    assert target_text(*target) == text


@pytest.mark.parametrize("text", ["", "there", "there:", ":5", "there:0", "there:99999", "a:²"])
def test_what_is_no_target(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(MigrationError, match="that is no HOST:PORT"):
        parse_target(text)
