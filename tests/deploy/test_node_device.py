"""What a node computes on: the CPU unless the operator says otherwise, and mistakes are named with a way out."""

import asyncio
import datetime as dt
import tomllib

import pytest

from deploy import fleet
from deploy.config.read import parse
from deploy.faults import ConfigError
from deploy.roles import runner
from deploy.trust import pki


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    authority = pki.ensure(folder / "tls", dt.datetime.now(dt.UTC))
    path = fleet.write(fleet.FleetPlan(folder), authority)
    return path, path.read_text()


def told(text, lines):
    """The configuration with these lines in each node's table."""
    path, written = text
    return parse(tomllib.loads(written.replace("landing_pool_bytes", f"{lines}\nlanding_pool_bytes")), path)


def test_a_node_computes_on_the_cpu_without_spares(text):
    assert {(node.device, node.spares) for node in told(text, "").nodes.values()} == {("cpu", 0)}


@pytest.mark.parametrize(("lines", "spares"), [("", 1), ("num_spares = 0", 0), ("num_spares = 3", 3)])
def test_a_gpu_has_a_spare_unless_told(text, lines, spares):
    config = told(text, f'device = "cuda:1"\n{lines}')
    assert {(node.device, node.spares) for node in config.nodes.values()} == {("cuda:1", spares)}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('device = "gpu"', 'did you mean "cuda:0"'),
        ('device = "cuda:1000"', 'did you mean "cuda:0"'),
        ("device = 0", "must be a string"),
        ("num_spares = 1", 'set device = "cuda:0"'),
        ('device = "cuda:0"\nnum_spares = 9', "at most 8"),
        ('device = "cuda:0"\nnum_spares = -1', "0 or more"),
        ('devise = "cuda:0"', "Did you mean `device`?"),
    ],
)
def test_a_mistake_is_named_with_the_next_step(text, lines, words):
    with pytest.raises(ConfigError) as caught:
        told(text, lines)
    assert words in str(caught.value)


def test_the_node_is_started_with_what_is_written(text, monkeypatch):
    seen = []

    async def ran(settings, ready, stop):
        seen.append(settings)

    monkeypatch.setattr("inference.node.run", ran)
    config = told(text, 'device = "cuda:0"\nnum_spares = 2')
    asyncio.run(runner.runner(config, "node", next(iter(config.nodes)))(print, asyncio.Event()))
    assert [(settings.device, settings.num_spares) for settings in seen] == [("cuda:0", 2)]
