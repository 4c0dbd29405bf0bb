"""Which tests share a process when pytest-xdist has several: a file stays together, and whole platforms take two lanes.

A platform is seven processes that load torch. One lane has the tests that share one platform, the other those that
start (and kill) platforms of their own, one after another; both begin first, since they are the longest and wait
much, and the other files run beside them.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

E2E = Path(__file__).parent / "e2e"
SHARING = "platform"  # the fixture of the one that is shared


def lane(item: pytest.Item, sharing: set[Path]) -> str:
    """The name of the process that runs `item`, together with all others of that name."""
    if item.path.parent != E2E:
        return str(item.path)
    return "shares a platform" if item.path in sharing else "starts platforms"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    sharing = {item.path for item in items if SHARING in fixtures(item)}
    lanes = {item: lane(item, sharing) for item in items}
    for item, name in lanes.items():
        item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: (item.path.parent != E2E, item.path.parent == E2E and lanes[item]))


def fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())
