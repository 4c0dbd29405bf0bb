"""What every test shares: which tests may not run beside each other."""

import pytest


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook of this name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under xdist, keep tests that share a platform on one worker, and the ones that start their own on another."""
    for item in items:
        if "/e2e/" in str(item.path):
            shared = "platform" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("platform" if shared else "own-platform"))
