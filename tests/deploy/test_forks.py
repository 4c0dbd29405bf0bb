"""Roles that are forked: whose children they are, what they have, and what is left when somebody kills somebody."""

import asyncio
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from deploy.config.read import load
from deploy.faults import ConfigError, RoleFailed
from deploy.forks.link import ForkLink
from deploy.forks.modules import MODULES
from deploy.forks.role import RoleProcess
from deploy.roles.runner import runner
from tests.e2e.platform import children_commands

WAIT_S = 60.0
PR_GET_CHILD_SUBREAPER = 37
TOML = """
[platform]
home = "iad"
secrets = "secrets"

[regions.iad]
gateway = "127.0.0.1:1"
store = "http://127.0.0.1:2"
nodes = []
public_key = "00"

[wan.link]
listen = "127.0.0.1:{port}"
connect = "127.0.0.1:1"
rtt_ms = 1.0
"""


@pytest.fixture
def config(tmp_path):
    """Of the one role that needs least."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "nearfield.toml"
    path.write_text(TOML.format(port=port))
    return path


@pytest.fixture
async def forks(tmp_path):
    link = ForkLink(tmp_path / "forks.log")
    yield link
    await link.close()


@pytest.fixture
async def role(forks, config):
    """One that is ready."""
    made = RoleProcess(forks, "wan", "links", config, config.with_name("wan.log"))
    await begin(made)
    yield made
    await made.stop(WAIT_S)


async def begin(role):
    await role.start()
    await role.wait_ready(WAIT_S)


def server_pid():
    (pid,) = (pid for pid, line in children_commands(os.getpid()) if "deploy.forks.server" in line)
    return pid


def told(pid, what):
    return Path(f"/proc/{pid}/{what}").read_text()


def stat(pid):
    """(state, parent, session) of a process."""
    words = told(pid, "stat").rpartition(")")[2].split()
    return words[0], int(words[1]), int(words[3])


def descriptors(pid):
    """How often a process has each file, socket and pipe open."""
    return Counter(path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir())


async def test_a_role_is_our_child_and_shows_as_a_command_of_its_own(role, config):
    """`ps` tells the roles apart, Ctrl-C in a terminal reaches none, and other orphans are not our children."""
    _, parent, session = stat(role.pid)
    words = told(role.pid, "cmdline").rstrip("\0").split("\0")
    adopts = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(adopts), 0, 0, 0)

    assert (parent, session) == (os.getpid(), role.pid)
    assert words == [sys.executable, "-m", "deploy.roles.process", "wan", "links", str(config)]
    assert told(role.pid, "comm") == "nf-wan\n"
    assert adopts.value == 0


async def test_a_role_has_nothing_of_the_server_but_its_environment(role):
    """The way to order roles is not open in one, nor what the server was handed for it: input is nothing."""
    server = server_pid()
    while descriptors(role.pid)[role.log] < 2:  # noqa: ASYNC110 - it has told us already
        await asyncio.sleep(0.01)
    own, links = descriptors(role.pid), [each for each in descriptors(server) if "socket:" in str(each)]

    assert len(links) == 1
    assert not set(links) & own.keys()
    assert own[Path("/dev/null")] >= 1
    assert own[role.log] == 2, "standard error, and what was the ready line's pipe"
    assert told(role.pid, "environ") == told(server, "environ")


async def test_a_killed_role_is_started_again(role):
    """Its end is told with the signal, and the same server forks the next."""
    first, server = role.pid, server_pid()
    os.kill(first, signal.SIGKILL)

    assert await role.wait_end() == -signal.SIGKILL
    assert role.pid is None
    await begin(role)
    assert role.pid not in {None, first}
    assert server_pid() == server


async def test_roles_outlive_the_server_and_the_next_start_has_another(role, forks, config):
    first, server = role.pid, server_pid()
    os.kill(server, signal.SIGKILL)
    other = RoleProcess(forks, "wan", "links", config.with_name("none.toml"), config.with_name("other.log"))
    await other.start()  # by another server
    status = await other.wait_end()

    assert status == 1, "it has no configuration"
    assert server_pid() != server
    assert role.pid == first
    assert stat(first)[:2] != ("Z", os.getpid())


async def test_a_server_that_cannot_start_says_why(config, monkeypatch, tmp_path):
    """Two tries, and then the end of its log."""
    (tmp_path / "uvloop.py").write_text("raise RuntimeError('no such luck')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    link = ForkLink(tmp_path / "forks.log")
    role = RoleProcess(link, "wan", "links", config, tmp_path / "wan.log")

    with pytest.raises(RoleFailed, match=r"(?s)the fork server ended with status 1\..*no such luck"):
        await role.start()
    await link.close()


async def test_what_a_role_says_last_is_shown(forks, config):
    """Its exit status and the end of its own log."""
    role = RoleProcess(forks, "edge", "nowhere", config, config.with_name("edge.log"))
    await role.start()

    with pytest.raises(
        RoleFailed, match=r"(?s)edge nowhere ended with status 1 before.*ConfigError.*edge\.log"
    ):
        await role.wait_ready(WAIT_S)


async def test_where_a_module_makes_a_thread_roles_are_started_afresh(config, monkeypatch, tmp_path):
    """A fork of a process with two threads may hang for ever; on a host with such a module all works, slowly."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading\n"
        "if 'deploy.forks.server' in sys.orig_argv:\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    link = ForkLink(tmp_path / "forks.log")
    role = RoleProcess(link, "wan", "links", config, tmp_path / "wan.log")
    await begin(role)

    assert stat(role.pid)[1] == os.getpid()
    assert told(role.pid, "comm") != "nf-wan\n", "that is what a fork is called"
    await role.stop(WAIT_S)
    await link.close()


UP = """
import asyncio, pathlib, sys
from deploy.forks.link import ForkLink
from deploy.forks.role import RoleProcess

async def up(config):
    link = ForkLink(config.with_name("forks.log"))
    role = RoleProcess(link, "wan", "links", config, config.with_name("wan.log"))
    await role.start()
    await role.wait_ready(60)
    print(role.pid, link.pid, flush=True)
    await role.wait_end()

asyncio.run(up(pathlib.Path(sys.argv[1])))
"""


def test_nothing_outlives_an_up_that_is_killed(config):
    """Neither the role nor the server: the kernel tells both."""
    up = subprocess.Popen([sys.executable, "-c", UP, str(config)], stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    left = [os.pidfd_open(int(word)) for word in up.stdout.readline().split()]
    assert len(left) == 2
    up.kill()
    up.wait()
    up.stdout.close()
    ends = [_ended(fd) for fd in left]
    for fd in left:
        os.close(fd)

    assert ends == [True, True]


def _ended(pidfd):
    return bool(select.select([pidfd], [], [], WAIT_S)[0])


ALL = """
import json, os, sys
from deploy.forks.modules import MODULES, load
from storage.client.aws import _sessions
for role in MODULES:
    load(role)
heard = sorted(_sessions.__dict__)
heavy = sorted({"torch", "transformers"} & sys.modules.keys())
missing = sorted({name for each in MODULES.values() for name in each} - sys.modules.keys())
print(json.dumps([len(os.listdir("/proc/self/task")), heavy, missing, "OPENBLAS_NUM_THREADS" in os.environ, heard]))
"""


def test_what_roles_need_is_all_there_and_makes_no_thread(monkeypatch):
    """Every module in the table exists; none of them, in any order of roles, starts a thread or loads torch.

    The SDK has read its description of S3, so that no region reads it.
    """
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    said = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True, check=True).stdout

    assert json.loads(said) == [1, [], [], False, ["asynchronous"]]


def test_every_role_is_in_the_table(config):
    """One that is not would be forked from a process that has loaded nothing for it."""
    with pytest.raises(ConfigError) as error:
        runner(load(config), "none", None)
    assert sorted(MODULES) == sorted(str(error.value).partition("Roles: ")[2].rstrip(".").split(", "))
