"""Credentials tell what they demand, and nothing of what they hold."""

from protocol.credentials import NOTHING, Credentials


def test_a_secret_is_in_no_text() -> None:
    """Whatever prints credentials, the secret is not in it."""
    credentials = Credentials(secret=b"correct horse battery")
    for text in (repr(credentials), str(credentials), f"{credentials!s}"):
        assert "correct" not in text
    assert credentials.demanding
    assert not NOTHING.demanding
