"""What holds for all tests."""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.breaking import Breaking
from tests.processes import Lab, Zygote

# A deadline measures the machine that the tests share, not the code. All else stays as hypothesis
# chose it, which repeats the same examples where the environment says that this is CI.
#
# What fails is kept where the tests are begun, and tried first the next time; in a checkout that
# cannot be written to hypothesis would only warn, and each warning here is an error.
_KEEPS = "HYPOTHESIS_STORAGE_DIRECTORY" in os.environ or os.access(".", os.W_OK)
_KEPT: dict[str, Any] = {} if _KEEPS else {"database": None}
settings.register_profile("midstream", settings(deadline=None, **_KEPT))
settings.load_profile("midstream")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a failed test's processes have said and told, which is gone a moment later."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        report.sections.append(("what the test's processes said and told", lab.story()))
    return report


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


@pytest.fixture(autouse=True, scope="session")
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep out what the user of this machine has told midstream, or has had measured of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True)
def dispositions() -> Iterator[None]:
    """What signals do to this process: a command that ran in it and has failed ignores them.

    The next test, and all that it starts, would, too.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def kvm() -> None:
    """A machine on which a guest can be a virtual machine; skips others, with the reason."""
    # Imported late: most tests do without what it takes.
    from tests.machines import skip_without  # noqa: PLC0415

    skip_without("kvm")


@pytest.fixture
def native() -> None:
    """A machine that runs the guest's machine code; skips others, with the reason."""
    from tests.machines import skip_without  # noqa: PLC0415

    skip_without("native")


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
