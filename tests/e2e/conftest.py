"""One platform for the tests that share it: three regions, both example models pushed and live."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import minilm
from tests.e2e import platform as running
from tests.e2e.platform import CHAT, TINYCHAT, RunningPlatform

EMBED = "examples/minilm"


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    state = tmp_path_factory.mktemp("platform") / "state"
    with running.start(state) as up:
        up.nearfield("push", str(TINYCHAT), CHAT)
        up.nearfield("push", str(minilm.model_folder()), EMBED)
        yield up


@pytest.fixture
def tiny_copy(tmp_path: Path) -> Path:
    """A copy of the chat model's folder that a test may spoil."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(TINYCHAT, folder)
    return folder
