"""A browser for the tests of pages."""

from collections.abc import Iterator

import pytest

from tests.browser import Tab, find_browser, open_tab


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A tab of a browser that all tests of this module share."""
    browser = find_browser()
    if browser is None:
        pytest.skip("this machine has no Chromium")
    with open_tab(browser, tmp_path_factory.mktemp("profile")) as made:
        yield made
