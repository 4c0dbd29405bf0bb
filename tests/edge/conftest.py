"""The edge runs on uvloop; both loops are tried on the ground floor."""

import contextlib
from pathlib import Path

import pytest
import uvloop

from tests.edge.world import World
from tests.wire.certs import make_certificate


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> tuple[Path, Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def world(tmp_path, certificate):
    """`await world(regions=..., ...)` starts fake regions and a real edge; all is stopped at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**options) -> World:
            made = World(tmp_path / "state", certificate, **options)
            stack.push_async_callback(made.stop)
            await made.start()
            return made

        yield start


@pytest.fixture
async def another(tmp_path, certificate):
    """`await another(world, name)` starts a second edge before the same regions; each knows of the other by name."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(first: World, name: str) -> World:
            made = World(tmp_path / name, certificate, names=(), name=name, others=frozenset({"test"}))
            made.regions = first.regions
            stack.push_async_callback(made.stop_edge)
            await made.start_edge()
            return made

        yield start
