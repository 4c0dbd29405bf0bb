"""`nearfield doctor`: each finding is of what is there, and what is not well has its fix."""

import datetime as dt
import http.server
import socket
import threading
from dataclasses import replace

import pytest

from deploy import fleet
from deploy.config.read import load
from deploy.doctor import fleet as of_fleet
from deploy.doctor import machine
from deploy.lock import hold
from deploy.trust import pki
from storage.client.answers import StoreError, Unreachable


@pytest.fixture
def config(tmp_path):
    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    return load(fleet.write(fleet.FleetPlan(tmp_path, regions=("iad",), usual_ports=()), authority))


def test_a_port_that_somebody_else_has_is_named_by_its_key(config, tmp_path):
    (free,) = of_fleet.ports(config, tmp_path)
    host, _, port = config.stores["iad"].listen.rpartition(":")
    with socket.create_server((host, int(port))):
        (taken,) = of_fleet.ports(config, tmp_path)

    assert free.well
    assert not taken.well
    assert f"stores.iad.listen = {config.stores['iad'].listen}" in taken.seen
    assert "ss -ltnp" in taken.fix


def test_a_name_that_does_not_resolve_is_named(config, tmp_path):
    region = replace(config.regions["iad"], store="http://no-such-host.invalid:1")
    (well,) = of_fleet.names(config, tmp_path)
    (lost,) = of_fleet.names(replace(config, regions={"iad": region}), tmp_path)

    assert well.well
    assert (lost.well, "no-such-host.invalid" in lost.seen) == (False, True)


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (StoreError("InsufficientStorage", "The store's disk is full.", 507), "nearfield rm"),
        (Unreachable("Unreachable", "refused"), "must be up"),
    ],
)
def test_a_store_that_takes_nothing_is_helped_by_what_it_said(config, tmp_path, monkeypatch, error, step):
    async def probed(_):
        raise error

    monkeypatch.setattr(of_fleet, "_probed", probed)
    (found,) = of_fleet.stores(config, tmp_path)

    assert not found.well
    assert step in found.fix


@pytest.mark.parametrize(("off_s", "well"), [(0, True), (3600, False), (-3600, False)])
def test_a_clock_is_compared_with_the_stores(off_s, well):
    """By the Date of its answer; a store that sends none or is away says nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def date_time_string(self, _timestamp=None):
            at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=off_s)
            return at.strftime("%a, %d %b %Y %H:%M:%S GMT")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (found,) = of_fleet._skew("iad", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()

    assert found.well == well
    assert "server" in found.fix
    assert list(of_fleet._skew("iad", "http://127.0.0.1:9")) == []


@pytest.mark.parametrize(("part_s", "took_s"), [(0.0, 0.0), (0.99, 0.0), (0.99, 0.4), (0.5, 0.9)])
def test_a_clock_like_ours_is_none_that_is_behind(monkeypatch, part_s, took_s):
    """A Date says whole seconds, of a time before it was read."""
    monkeypatch.setattr(of_fleet, "_date", lambda _: 1000.0)
    monkeypatch.setattr(of_fleet.time, "time", lambda: 1000.0 + part_s + took_s)
    (found,) = of_fleet._skew("iad", "http://store")

    assert found.seen == "agrees with ours"


def test_a_node_that_names_a_gpu_needs_it(config, tmp_path, monkeypatch):
    node = replace(config.nodes["iad-0"], device="cuda:1")
    wanting = replace(config, nodes={"iad-0": node})
    monkeypatch.setattr(of_fleet, "gpus", lambda: ["NVIDIA L40S"])
    (lost,) = of_fleet.devices(wanting, tmp_path)
    monkeypatch.setattr(of_fleet, "gpus", lambda: ["NVIDIA L40S"] * 2)
    (found,) = of_fleet.devices(wanting, tmp_path)

    assert list(of_fleet.devices(config, tmp_path)) == [], "the CPU needs none"
    assert (lost.well, found.well) == (False, True)
    assert "nodes.iad-0.device = cuda:1" in lost.seen


def test_a_gpu_beside_a_torch_that_cannot_use_it_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ["NVIDIA L40S, 46068 MiB, 570.1"])
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda _name: "2.13.0+cpu")
    (found,) = machine.gpu(tmp_path)

    assert not found.well
    assert "TORCH_INDEX" in found.fix


def test_a_file_that_no_role_would_take_is_a_finding(config, tmp_path):
    config.path.write_text(config.path.read_text().replace("[platform]", "[platfrom]"))
    (found,) = of_fleet.configuration(tmp_path)

    assert not found.well
    assert "Did you mean `platform`?" in found.seen


def test_a_disk_that_cannot_be_written_is_a_finding(tmp_path, monkeypatch):
    def full(_folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine, "_disk_speed", full)
    found = {each.name: each for each in machine.disk(tmp_path / "not" / "yet")}

    assert not found["disk speed"].well
    assert "No space left" in found["disk speed"].seen


def test_a_node_that_is_stopped_still_listens_and_is_named(config, tmp_path, monkeypatch):
    """The kernel takes its connections; the ports look well."""
    monkeypatch.setattr(of_fleet, "ASK_S", 0.2)
    with hold(tmp_path), socket.create_server(("127.0.0.1", 0)) as stopped:
        address = f"127.0.0.1:{stopped.getsockname()[1]}"
        (name, entry), *_ = config.nodes.items()
        one = replace(config, nodes={name: replace(entry, listen=address)})
        (found,) = of_fleet.nodes(one, tmp_path)
    assert not found.well
    assert f"not able to start workers: {name}" in found.seen
    assert not list(of_fleet.nodes(config, tmp_path)), "of a platform that does not run, nothing is asked"
