"""The platforms that tests share: one that nobody harms, and one whose processes are killed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import fleet
from examples import minilm
from tests.e2e import platform as running
from tests.e2e.platform import CHAT, TINYCHAT, RunningPlatform
from tests.wire.otlp import Collector

EMBED = "examples/minilm"
PATIENCE_S = 300
"""Platforms start one after another, and the first test of a lane waits for the others' too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PATIENCE_S))


@pytest.fixture(scope="session", autouse=True)
def own_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests pick themselves lies where no `nearfield up` and no other worker picks.

    They write it down, and it is bound only later: another platform could take it in between, and did.
    """
    worker = re.fullmatch(r"w(\d+)", tmp_path_factory.getbasetemp().name)
    first = 10_000 + 1_000 * (int(worker[1]) % 10 if worker else 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "LASTING", range(first, first + 1_000))
        yield


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """What `platform` sends traces to."""
    with Collector() as made:
        yield made


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[RunningPlatform]:
    """Three regions, both example models pushed and live. Of requests, those that ask for it are recorded."""
    state = tmp_path_factory.mktemp("platform") / "state"
    with running.start(state, "--traces", collector.url, "--trace-share", "0") as up:
        up.typed("push", str(TINYCHAT), CHAT)
        up.nearfield("push", str(minilm.model_folder()), EMBED)
        yield up


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Two regions, 90 ms apart (simulated): what is killed here disturbs no test of `platform`."""
    state = tmp_path_factory.mktemp("fragile") / "state"
    with running.start(state, "--regions", "iad,fra", "--profile", "us-eu-jp") as up:
        up.nearfield("push", str(TINYCHAT), CHAT)
        yield up


@pytest.fixture
def tiny_copy(tmp_path: Path) -> Path:
    """A copy of the chat model's folder that a test may spoil."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(TINYCHAT, folder)
    return folder
