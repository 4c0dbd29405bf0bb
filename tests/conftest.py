"""Which tests share a process when pytest-xdist has several: a file stays together, and what shares a system does too.

A platform is seven processes that load torch. One lane has the files that share one platform, the other those that
start (and kill) platforms of their own, one after another; both begin first, since they are the longest and wait
much, and the other files run beside them. The files that fork engines from one shell are a lane too: it takes
seconds of processor time to import torch and transformers.

What collection makes lives until the end: a million objects with torch, which the collector would walk again and
again. It rests until all are made, and never looks at them after.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

from tests import zygote

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer

gc.disable()  # until `pytest_collection_finish`

E2E = "tests/e2e/"
SHARING = {
    "shares a platform": tuple(f"{E2E}test_{name}.py" for name in ("api", "cold", "push", "serve")),
    "forks from one shell": tuple(
        f"tests/inference/test_{name}.py" for name in ("node_handoff", "node_real", "poison", "shell_fork")
    ),
}


def lane(nodeid: str) -> str:
    """The name of what runs in one process, in the order of collection."""
    path = nodeid.partition("::")[0]
    shared = next((name for name, paths in SHARING.items() if path in paths), path)
    return "starts platforms" if shared == path and path.startswith(E2E) else shared


class Lanes(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes | None:
    return Lanes(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(
        key=lambda item: (not item.nodeid.startswith(E2E), item.nodeid.startswith(E2E) and lane(item.nodeid))
    )


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    if os.getpid() == zygote.MAIN:
        zygote.clean()
