"""A side and its parent: the reason goes to the parent, and without it the side ends."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from protocol.errors import LocalProtocolError
from scripts.runtime.parent import (
    ORDERS_VARIABLE,
    PARENT_VARIABLE,
    REASON_VARIABLE,
    LinkNote,
    Orders,
    has_listener,
    obey,
    orders,
    take_orders,
)
from tests.processes import ROOT

COMMAND = [sys.executable, "-P", "-m", "scripts", "dest", "--listen=127.0.0.1:0", "--frob"]


def run(environment: dict[str, str], *fds: int) -> subprocess.CompletedProcess[bytes]:
    """Run a command that fails, as a side with this environment."""
    return subprocess.run(
        COMMAND, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, pass_fds=fds,
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip


def test_a_person_is_told_where_no_parent_listens() -> None:
    """A command that somebody typed tells the reason on standard error."""
    assert not has_listener()
    done = run({})
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"midstream: No such option '--frob'.\n"


def test_a_parent_is_told_instead_of_the_user() -> None:
    """With somebody to listen, standard error stays empty and the pipe has the bare reason."""
    reader, writer = os.pipe()
    done = run({PARENT_VARIABLE: str(os.getpid()), REASON_VARIABLE: str(writer)}, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as reason:
        assert reason.read() == b"No such option '--frob'."
    assert (done.returncode, done.stderr) == (2, b"")


def test_a_parent_that_listens_no_more_is_no_error() -> None:
    """A side whose parent has closed the pipe ends as it would have ended."""
    reader, writer = os.pipe()
    os.close(reader)
    done = run({REASON_VARIABLE: str(writer)}, writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, b"")


def test_a_side_without_its_parent_ends() -> None:
    """A side whose parent is gone before the side can follow it ends at once, and silently."""
    done = run({PARENT_VARIABLE: "1"})
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@pytest.fixture
def unordered() -> Iterator[None]:
    """Let this process have no orders after the test."""
    yield
    obey(Orders())


SOME = Orders(
    shares_events=True, tells_at_once=True, prints_table=False, spool="/dev/fd/7",
    link=LinkNote(kind="namespaces", bytes_per_second=125_000_000, queue="pfifo_fast"),
)  # fmt: skip


@pytest.mark.parametrize("given", [Orders(), SOME, Orders(spool="")])
def test_orders_come_as_they_were_given(
    monkeypatch: pytest.MonkeyPatch, unordered: None, given: Orders
) -> None:
    """They are this process's, and no process that it starts has them."""
    for name, value in given.to_environment().items():
        monkeypatch.setenv(name, value)
    take_orders()
    assert orders() == given
    assert ORDERS_VARIABLE not in os.environ


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"spool": 7}', '{"link": {"kind": "proxy"}}', '{"prints_table": 1}']
)
def test_what_is_no_order_is_refused(
    monkeypatch: pytest.MonkeyPatch, unordered: None, text: str
) -> None:
    """Whoever sets that variable hears which it is; nothing is obeyed."""
    monkeypatch.setenv(ORDERS_VARIABLE, text)
    with pytest.raises(LocalProtocolError, match=f"^{ORDERS_VARIABLE}: no orders: "):
        take_orders()
    assert orders() == Orders()


def test_wrong_orders_are_one_line() -> None:
    """A command with such a variable ends before it begins anything, and says why."""
    done = run({ORDERS_VARIABLE: "frob"})
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(f"midstream: {ORDERS_VARIABLE}: no orders: ".encode())
    assert done.stderr.count(b"\n") == 1
