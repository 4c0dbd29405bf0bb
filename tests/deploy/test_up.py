"""One `up` a folder: the lock, who holds it, and a wipe that never takes a stranger's files."""

import asyncio
import datetime as dt
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import fleet, listening, lock, up
from deploy.config.read import load
from deploy.faults import NoRoom, PortTaken, StateInUse
from deploy.trust import pki


def test_a_folder_is_held_by_one(tmp_path):
    """A second `up` on the same folder is refused and told who has it."""
    with lock.hold(tmp_path), pytest.raises(StateInUse, match=str(os.getpid())):
        lock.hold(tmp_path)


def test_the_lock_goes_with_its_process(tmp_path):
    """After kill -9 there is nothing to clean up."""
    code = """
import pathlib, sys
import deploy.lock as u
held = u.hold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert lock.holder(tmp_path) == process.pid
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()

    assert lock.holder(tmp_path) is None
    lock.hold(tmp_path).close()


def test_a_wipe_takes_only_what_up_made(tmp_path):
    """`--fresh` on a folder of the user's own does nothing to it."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    lock.wipe(mine)
    assert (mine / "thesis.tex").exists()

    ours = tmp_path / "ours"
    lock.hold(ours).close()
    lock.wipe(ours)
    assert not ours.exists()


def test_a_wipe_of_a_running_platform_is_refused(tmp_path):
    """Nobody's objects are deleted under a running store."""
    with lock.hold(tmp_path), pytest.raises(StateInUse, match="nearfield stop"):
        lock.wipe(tmp_path)


PORTS = {
    "edges.local.listen": lambda config: config.edges["local"].listen,
    "edges.local.admin": lambda config: config.edges["local"].admin,
    "stores.iad.listen": lambda config: config.stores["iad"].listen,
    "regions.iad.gateway": lambda config: config.regions["iad"].gateway,
}


@pytest.mark.parametrize("key", PORTS)
def test_a_taken_port_is_named_with_its_key_and_who_has_it(tmp_path, key):
    """Another program on a port of the fleet: which, and how to get it back, before anything starts."""
    plan = fleet.FleetPlan(tmp_path, regions=("iad",))
    path = fleet.write(plan, pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC)))
    host, port = PORTS[key](load(path)).split(":")
    with socket.socket() as stranger:
        stranger.bind((host, int(port)))
        stranger.listen()

        with pytest.raises(
            PortTaken, match=rf"{port} \(`{key}`\) is taken by process {os.getpid()} "
        ) as caught:
            asyncio.run(up.Platform(plan, lambda _: None).start())
    assert caught.value.next_step == f"kill {os.getpid()}   # or change `{key}` in {path}"


def test_a_platform_on_a_port_of_ours_is_known_by_its_folder():
    """The roles of a platform end their command lines with its file, and spaces where a longer line was before."""
    words = ("python", "-m", "deploy.roles.process", "edge", "local", "/srv/other/nearfield.toml")

    assert listening.Listener(7, words).state == Path("/srv/other")
    assert listening.Listener(7, ("nginx", "-c", "/etc/nginx.conf")).state is None


def test_where_nobody_can_be_seen_or_who_listened_has_ended_nobody_is_named(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listening.on(port).pid == os.getpid()

        def ended(pid):
            raise FileNotFoundError(pid)

        monkeypatch.setattr(listening, "_listener", ended)
        assert listening.on(port) is None
        monkeypatch.setattr(listening, "_inodes", lambda _: iter(()))  # no /proc
        monkeypatch.setattr(listening, "_processes", lambda: pytest.fail("there is nothing to look for"))
        assert listening.on(port) is None


def test_a_full_disk_is_told_before_anything_starts(tmp_path, monkeypatch):
    """A role on a full disk can write no log that says why it ended."""
    monkeypatch.setattr(up, "LEAST_FREE_BYTES", 1 << 62)
    plan = fleet.FleetPlan(tmp_path / "not" / "yet", regions=("iad",))

    with pytest.raises(NoRoom, match="MB are free") as caught:
        asyncio.run(up.Platform(plan, lambda _: None).start())
    assert "df -h" in caught.value.next_step
    assert not (tmp_path / "not").exists()


def test_a_store_that_is_far_away(tmp_path):
    """The report's counterfactual: region and node reach their own store over a simulated link, and map nothing."""
    plan = fleet.FleetPlan(tmp_path, ("iad",), store_rtt_ms=90.0)
    config = load(fleet.write(plan, pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))))
    (link,) = config.wan.values()

    assert (link.rtt_ms, link.bytes_per_s) == (90.0, fleet.WAN_BYTES_PER_S)
    assert link.connect == config.stores["iad"].listen
    assert config.regions["iad"].store == f"http://{link.listen}"
    assert not config.nodes["iad-0"].handoff
