"""What Prometheus is told: every role that shows figures, and the key where it is on another machine."""

import datetime as dt
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from deploy import cli, fleet
from deploy.commands import scrape
from deploy.config.document import figures, listeners
from deploy.config.read import ConfigError, load
from deploy.trust import pki, secrets
from wire.address import split_address
from wire.scrape import is_loopback


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    authority = pki.ensure(folder / "tls", dt.datetime.now(dt.UTC))
    return fleet.write(fleet.FleetPlan(folder, regions=("iad", "fra")), authority)


@pytest.fixture
def far(path, tmp_path):
    """The same fleet, whose edge shows its figures to another machine."""
    shutil.copytree(path.parent / "secrets", tmp_path / "secrets")
    config = load(path)
    text = path.read_text().replace(
        f'metrics = "{config.edges["local"].metrics}"', 'metrics = "10.0.0.7:9464"'
    )
    (tmp_path / "nearfield.toml").write_text(text)
    return tmp_path / "nearfield.toml"


def test_up_gives_every_role_an_address_of_this_machine_alone(path):
    config = load(path)
    found = figures(config)

    assert set(found) == {
        "edges.local",
        *(f"{section}.{name}" for section in ("stores", "regions") for name in ("iad", "fra")),
        "nodes.iad-0",
        "nodes.fra-0",
    }
    assert all(is_loopback(split_address(address)[0]) for address in found.values())
    every = list(listeners(config).values())
    assert len(set(every)) == len(every), "no two listeners on one address"
    assert set(found.values()) <= set(every)


def test_what_is_printed_names_every_role(path):
    said = scrape.said(path, only_key=False)

    assert all(f'- targets: ["{address}"]' in said for address in figures(load(path)).values())
    assert "labels: {role: node, name: fra-0, region: fra}" in said
    assert "labels: {role: edge, name: local}" in said
    assert "authorization" not in said, "nobody needs a key on this machine"


def test_another_machine_is_read_with_the_key_and_the_key_is_in_no_file(far):
    said = scrape.said(far, only_key=False)
    key = CliRunner().invoke(cli.app, ["config", "scrape", "--config", str(far), "--key"]).stdout.strip()

    assert key == secrets.metrics_key(secrets.root_key(load(far).secrets))
    assert key not in said
    assert key != secrets.hop_token(secrets.root_key(load(far).secrets))
    assert f"credentials_file: {scrape.KEY_FILE}" in said
    assert said.index("nearfield-far") < said.index('["10.0.0.7:9464"]')


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_itself_reads_it(far):
    (far.parent / scrape.KEY_FILE).write_text("key")
    (far.parent / "prometheus.yml").write_text(scrape.said(far, only_key=False))
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=far.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("address", ["9464", "127.0.0.1", "127.0.0.1:no", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_named_with_its_key(path, address, tmp_path):
    config = load(path)
    text = path.read_text().replace(f'metrics = "{config.stores["iad"].metrics}"', f'metrics = "{address}"')
    (tmp_path / "nearfield.toml").write_text(text)

    with pytest.raises(ConfigError, match=r"stores\.iad\.metrics"):
        load(tmp_path / "nearfield.toml")
