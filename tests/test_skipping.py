"""A test that skips says why, and one that needs huge pages leaves none behind."""

from pathlib import Path

import pytest

from tests.conftest import pytest_pyfunc_call
from tests.huge_pages import allowed, huge_pages


def test_a_skip_inside_a_nursery_has_its_reason() -> None:
    """What stood in the way is told, not just that something did."""
    nurseries = BaseExceptionGroup("inner", [pytest.skip.Exception("no such memory here")])
    hollow = pytest.skip.Exception()
    hollow.__context__ = BaseExceptionGroup("outer", [nurseries])
    call = pytest_pyfunc_call()
    next(call)
    with pytest.raises(pytest.skip.Exception, match="no such memory here"):
        call.throw(hollow)


def test_an_allowance_is_taken_back(tmp_path: Path) -> None:
    """Whoever else raised it meanwhile keeps what is theirs."""
    allowance = tmp_path / "pages"
    allowance.write_text("5\n", encoding="ascii")
    with allowed(100, allowance):
        assert int(allowance.read_text(encoding="ascii")) == 105
        with allowed(10, allowance):
            assert int(allowance.read_text(encoding="ascii")) == 115
        assert int(allowance.read_text(encoding="ascii")) == 105
    assert int(allowance.read_text(encoding="ascii")) == 5


def test_more_huge_pages_than_there_can_be_skip_a_test() -> None:
    """How many were needed, and how many there were, is the reason; the test does not go on."""
    refused = pytest.raises(pytest.skip.Exception, match=r"needs 16777216 free huge|has no huge")
    with refused, huge_pages(1 << 24):
        pytest.fail("it goes on without them")
