"""What holds for all tests."""

import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.breaking import Breaking
from tests.processes import Lab, Zygote

# A deadline measures the machine that the tests share, not the code. All else stays as hypothesis
# chose it, which repeats the same examples where the environment says that this is CI.
settings.register_profile("midstream", settings(deadline=None))
settings.load_profile("midstream")

# A shell has what it starts in the background ignore Ctrl-C, `nohup` a terminal that is closed, and
# so does whoever is started by that: what is tested with a signal would wait for it for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Give a test that skips inside a nursery its reason back, which pytest-trio drops."""
    try:
        return (yield)
    except pytest.skip.Exception as skipped:
        reason = skipped.__context__
        while isinstance(reason, BaseExceptionGroup) and len(reason.exceptions) == 1:
            (reason,) = reason.exceptions
        if isinstance(reason, pytest.skip.Exception):
            raise reason from None
        raise


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """What forks commands for all tests."""
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def lab(tmp_path: Path, zygote: Zygote) -> Iterator[Lab]:
    """Real midstream processes in a folder of their own; none of them may outlive the test."""
    with Lab(tmp_path, zygote) as lab:
        yield lab


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Breaking:
    """Migrations in this process, over a network that fails."""
    return Breaking(monkeypatch)
