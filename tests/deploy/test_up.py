"""One `up` a folder: the lock, who holds it, and a wipe that never takes a stranger's files."""

import asyncio
import datetime as dt
import os
import socket
import subprocess
import sys

import pytest

from deploy import fleet, pki, up
from deploy.config.read import load
from deploy.faults import ConfigError


def test_a_folder_is_held_by_one(tmp_path):
    """A second `up` on the same folder is refused and told who has it."""
    with up.hold(tmp_path), pytest.raises(up.StateInUse, match=str(os.getpid())):
        up.hold(tmp_path)


def test_the_lock_goes_with_its_process(tmp_path):
    """After kill -9 there is nothing to clean up."""
    code = """
import pathlib, sys
import deploy.up as u
held = u.hold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert up.holder(tmp_path) == process.pid
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()

    assert up.holder(tmp_path) is None
    up.hold(tmp_path).close()


def test_a_wipe_takes_only_what_up_made(tmp_path):
    """`--fresh` on a folder of the user's own does nothing to it."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    up.wipe(mine)
    assert (mine / "thesis.tex").exists()

    ours = tmp_path / "ours"
    up.hold(ours).close()
    up.wipe(ours)
    assert not ours.exists()


def test_a_wipe_of_a_running_platform_is_refused(tmp_path):
    """Nobody's objects are deleted under a running store."""
    with up.hold(tmp_path), pytest.raises(up.StateInUse, match="nearfield stop"):
        up.wipe(tmp_path)


def test_a_taken_port_is_named_with_its_key(tmp_path):
    """Another program on a port of the fleet: which key of which file to change, before anything starts."""
    plan = fleet.FleetPlan(tmp_path, regions=("iad",))
    path = fleet.write(plan, pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC)))
    host, port = load(path).regions["iad"].gateway.split(":")
    with socket.socket() as stranger:
        stranger.bind((host, int(port)))
        stranger.listen()

        with pytest.raises(ConfigError, match=r"regions\.iad\.gateway"):
            asyncio.run(up.Platform(plan, lambda _: None).start())


def test_a_store_that_is_far_away(tmp_path):
    """The report's counterfactual: region and node reach their own store over a simulated link, and map nothing."""
    plan = fleet.FleetPlan(tmp_path, ("iad",), store_rtt_ms=90.0)
    config = load(fleet.write(plan, pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))))
    (link,) = config.wan.values()

    assert (link.rtt_ms, link.bytes_per_s) == (90.0, fleet.WAN_BYTES_PER_S)
    assert link.connect == config.stores["iad"].listen
    assert config.regions["iad"].store == f"http://{link.listen}"
    assert not config.nodes["iad-0"].handoff
