"""One Chromium for all that look at the page; without one they say so, which `NEARFIELD_BROWSER=must` forbids."""

import os

import pytest

from tests.edge.console import browser


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    if browser.find() is None:
        assert os.environ.get("NEARFIELD_BROWSER") != "must", "Chromium must be here, and is not"
        pytest.skip("no Chromium here: apt-get install chromium")
    process = browser.Chromium(tmp_path_factory.mktemp("chromium"))
    yield process
    process.stop()


@pytest.fixture
async def page(chromium):
    """A tab of a browser that knows nothing yet; what its scripts complain of fails the test."""
    async with browser.visit(chromium) as tab:
        yield tab
        assert tab.problems() == []
