"""Which tests share a process when there are several (`--workers`): those of a file, and those that share a system.

The lanes of end-to-end tests begin first, since they are the longest and wait much: one has the files that share one
platform, one those that kill parts of another, and the rest start platforms of their own. The files that fork engines
from one shell are a lane too.

What collection makes lives until the end: a million objects with torch, which the collector would walk again and
again. It rests until all are made, and never looks at them after.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from inference.zygote import ENVIRONMENT
from tests import workers, zygote
from tests.evidence import count

if not os.path.exists("/dev/nvidiactl"):  # noqa: PTH110 - no GPU: Triton, if torch brings it, can only interpret
    os.environ.setdefault("TRITON_INTERPRET", "1")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from storage.client.sdk import Endpoint

# before torch: tests compute as an engine does, and collecting them leaves no thread that a fork would lose
os.environ.update(ENVIRONMENT)
settings.register_profile(
    "tests", max_examples=count(40, 100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")  # a busy machine is slow, not wrong
gc.disable()  # until `pytest_collection_finish`

GC_THRESHOLD = (20_000, 20, 20)
"""Tests drop much, and little of it in cycles: at Python's 700 the collector takes a twentieth of their time."""

E2E = "tests/e2e/"
SHARING = {
    "shares a platform": tuple(
        f"{E2E}test_{name}.py"
        for name in (
            *("pages", "how_tos", "api", "cold", "keys", "push", "rules", "serve"),
            *("command_line", "terminal", "previews", "traces", "telemetry", "dashboard"),
        )
    ),
    "harms a platform": (
        f"{E2E}test_usage.py",
        f"{E2E}test_distance.py",
        f"{E2E}test_console.py",
        f"{E2E}test_kill.py",
        f"{E2E}test_foreign_store.py::test_a_model_is_pushed_overwritten_and_removed_on_any_store[embedded]",
    ),
    "asks Swift": (f"{E2E}test_foreign_store.py", "tests/regions/test_registers_swift.py"),
    "reads our files": ("tests/test_imports.py", "tests/test_walls.py", "tests/storage/test_walls.py"),
    "forks from one shell": tuple(
        f"tests/inference/test_{name}.py" for name in ("node_handoff", "node_real", "poison", "shell_fork")
    ),
}
"""By the beginnings of their names, in the order in which they run."""


PLACES = {
    beginning: (name, place)
    for name, beginnings in SHARING.items()
    for place, beginning in enumerate(beginnings)
}


def placed(nodeid: str) -> tuple[str, int]:
    """The lane of a test, and its file's place in it; the longest beginning counts."""
    found = max((each for each in PLACES if nodeid.startswith(each)), key=len, default=None)
    return PLACES[found] if found else (nodeid.partition("::")[0], 0)


def lane(nodeid: str) -> str:
    """The name of what runs in one process, one test after another."""
    return placed(nodeid)[0]


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """One OpenStack Swift for all that ask it: it takes seconds to start, and as long to import."""
    from tests.storage.swift import running_swift

    with running_swift(tmp_path_factory.mktemp("swift")) as endpoint:
        yield endpoint


def pytest_addoption(parser: pytest.Parser) -> None:
    workers.add_option(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    return workers.run(session, lane)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = [*SHARING]
    lengths = Counter(item.path for item in items)

    def order(item: pytest.Item) -> tuple[bool, int, int, Path, int, Path]:
        """A room's longest files first: the short ones fill what is left of the time at its end."""
        name, place = placed(item.nodeid)
        where = first.index(name) if name in first else len(first)
        return (
            *(not item.nodeid.startswith(E2E), where, place),
            *(item.path.parent, -lengths[item.path], item.path),
        )

    items.sort(key=order)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    gc.enable()


def pytest_sessionfinish() -> None:
    if os.getpid() == zygote.MAIN:
        zygote.clean()
