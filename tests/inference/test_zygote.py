"""One zygote a host: shared by the nodes that name its folder, outlived by their shells, gone with the last of them."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from inference.link import LinkError, frame_bytes
from inference.workers.shell import zygote as finding
from inference.workers.shell.link import ShellBusy, ShellError, ShellLink
from inference.workers.shell.standing import StandingShell
from inference.workers.shell.zygote import ZygoteError, build_id, has_ended, launch, log_path, socket_path
from inference.zygote import UNUSED, _wishes, listen

LIGHT = "import sys, inference.zygote as z; z.prepare = lambda: 1.5; z.LINGER_S = {linger}; z.main()"
"""A zygote that imports nothing."""
FULL_ONCE = """
import os, sys, inference.zygote as z
def no(fork=os.fork):
    os.fork = fork
    raise BlockingIOError(11, "no process")
os.fork = no
z.prepare = lambda: 1.5
z.main()
"""
"""One whose host has no process left when it is asked first."""
NODE = """
import asyncio, sys
from pathlib import Path
from inference.workers.shell import zygote
from inference.workers.shell.link import ShellLink
async def main():
    zygote.COMMAND = ("-c", sys.argv[2])
    link = await ShellLink.start(Path(sys.argv[1]))
    print(link.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def light(monkeypatch):
    def use(code=LIGHT, linger=60.0):
        monkeypatch.setattr(finding, "COMMAND", ("-c", code.replace("{linger}", str(linger))))

    use()
    return use


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def stderr_of(pid):
    return Path(f"/proc/{pid}/fd/2").readlink()


def environment_of(pid):
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the kernel tells nobody else's exit
            await asyncio.sleep(0.01)


def has_gone(pid):
    """Ended, and reaped where it was started from here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_nodes_that_name_one_folder_share_one(tmp_path):
    links = await asyncio.gather(*(ShellLink.start(tmp_path) for _ in range(3)))
    parents = {parent_of(link.pid) for link in links}
    assert len({link.pid for link in links}) == 3
    assert len(parents) == 1
    assert {link.import_ms for link in links} == {1.5}
    assert stderr_of(links[0].pid) == stderr_of("self"), "its node's log"
    for link in links:
        await link.close()
    await until(lambda: has_gone(next(iter(parents))))
    assert not socket_path(tmp_path).exists()


async def test_nodes_of_two_folders_do_not(tmp_path):
    links = [await ShellLink.start(tmp_path / name) for name in "ab"]
    assert len({parent_of(link.pid) for link in links}) == 2
    for link in links:
        await link.close()


async def test_shells_outlive_it_and_the_next_node_starts_another(tmp_path):
    first = await ShellLink.start(tmp_path)
    killed = parent_of(first.pid)
    os.kill(killed, signal.SIGKILL)
    await until(lambda: has_gone(killed))
    second = await ShellLink.start(tmp_path)
    assert not first.gone.done()
    assert parent_of(second.pid) not in {killed, parent_of(first.pid)}
    for link in (first, second):
        await link.close()


async def test_a_node_that_was_killed_finds_it_again(tmp_path, light):
    code = LIGHT.replace("{linger}", "60.0")
    words = (sys.executable, "-c", NODE, str(tmp_path), code)
    node = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert node.stdout is not None
    shell = int(await node.stdout.readline())
    zygote = parent_of(shell)
    node.kill()
    await node.wait()
    await until(lambda: has_gone(shell))
    link = await ShellLink.start(tmp_path)
    assert parent_of(link.pid) == zygote
    await link.close()


async def test_a_frozen_shell_does_not_outlive_its_node(tmp_path, light):
    """It hears nothing, and its engines hold what they hold: the zygote knows the node's process too."""
    quick = LIGHT.replace("z.main()", "z.GONE_S = 0.5; z.LOOK_S = 0.1; z.main()")
    code = quick.replace("{linger}", "60.0")
    node = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", NODE, str(tmp_path), code], stdout=subprocess.PIPE
    )
    frozen = int(node.stdout.readline())
    light(quick)
    link = await ShellLink.start(tmp_path)
    assert parent_of(link.pid) == parent_of(frozen)
    os.kill(frozen, signal.SIGSTOP)
    await asyncio.sleep(1.0)
    assert not has_gone(frozen), "its node lives"
    node.kill()
    node.wait()
    await until(lambda: has_gone(frozen))
    assert not has_gone(link.pid), "another node's goes on"
    await link.close()
    node.stdout.close()


async def test_one_that_nobody_comes_back_to_ends(tmp_path, light):
    light(linger=0.2)
    link = await ShellLink.start(tmp_path)
    zygote = parent_of(link.pid)
    link._socket.shutdown(socket.SHUT_RDWR)  # as the kernel does for a node that was killed
    await until(lambda: has_gone(zygote))
    await link.close()


async def test_with_an_owner_it_stays_until_that_one_ends(tmp_path, light):
    light(linger=0.0)
    owner = await asyncio.create_subprocess_exec("sleep", "60")
    pid = launch(socket_path(tmp_path), owner=owner.pid)
    assert pid is not None
    link = await ShellLink.start(tmp_path)
    await link.close()
    again = await ShellLink.start(tmp_path)
    assert parent_of(again.pid) == pid
    owner.kill()
    await owner.wait()
    await until(lambda: has_ended(pid))
    await again.close()


async def test_a_shell_that_hangs_is_ended_and_the_next_one_answers(tmp_path, monkeypatch):
    """Else no start of its node would ever end, and nobody would know why. Who waits for it hears it."""
    monkeypatch.setattr("inference.workers.shell.link.ANSWER_S", 0.5)
    shell = StandingShell(partial(ShellLink.start, tmp_path))
    await until(lambda: shell.is_up)
    hung = shell.pid
    os.kill(hung, signal.SIGSTOP)
    with pytest.raises(ShellError, match=r"the shell hangs and is replaced|the shell is gone"):
        await asyncio.wait_for(shell.fork({}, ()), 20)
    await until(lambda: shell.is_up and shell.pid != hung)
    with pytest.raises(ShellError, match="unknown operation"):  # it answers
        await asyncio.wait_for(shell.fork({}, ()), 20)
    await shell.close()

    assert has_gone(hung)


async def test_a_frozen_shell_is_seen_by_what_it_does_not_do(tmp_path, monkeypatch):
    """Long before the time that a busy one may take for an answer."""
    monkeypatch.setattr("inference.workers.shell.link.FROZEN_S", 0.5)
    shell = StandingShell(partial(ShellLink.start, tmp_path))
    await until(lambda: shell.is_up)
    os.kill(frozen := shell.pid, signal.SIGSTOP)
    began = asyncio.get_running_loop().time()
    with pytest.raises(ShellError, match=r"the shell hangs and is replaced|the shell is gone"):
        await asyncio.wait_for(shell.fork({}, ()), 20)
    assert asyncio.get_running_loop().time() - began < 15
    await until(lambda: shell.is_up and shell.pid != frozen)
    await shell.close()


@pytest.mark.parametrize("code", ["raise SystemExit(3)", LIGHT.replace("lambda: 1.5", "lambda: 1 / 0")])
async def test_one_that_does_not_start_is_an_error_that_names_its_log(tmp_path, light, code):
    light(code)
    with pytest.raises(ShellError, match="zygote ended before") as fault:
        await ShellLink.start(tmp_path)
    assert str(log_path(socket_path(tmp_path))) in str(fault.value)


async def test_one_that_does_not_answer_in_time_is_an_error(tmp_path, light):
    light(LIGHT.replace("lambda: 1.5", "lambda: __import__('time').sleep(60)"))
    with pytest.raises(ShellError, match="was not ready"):
        await ShellLink.start(tmp_path, 0.5)
    os.kill(finding._started[-1], signal.SIGKILL)


async def test_a_fork_that_fails_is_refused_and_the_next_node_gets_a_shell(tmp_path, light):
    """The host has no process left for a moment: an import of seconds is not thrown away over that."""
    light(FULL_ONCE)
    with pytest.raises(ShellBusy, match="no shell can be forked now: no process"):
        await ShellLink.start(tmp_path)
    pid = finding._started[-1]
    link = await ShellLink.start(tmp_path)
    assert parent_of(link.pid) == pid
    await link.close()


async def test_who_says_nonsense_gets_no_shell_and_harms_nobody(tmp_path):
    good = await ShellLink.start(tmp_path)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(socket_path(tmp_path)))
        stranger.sendall(frame_bytes({"op": "dance"}))
        stranger.settimeout(30)
        assert stranger.recv(1) == b""
    other = await ShellLink.start(tmp_path)
    assert parent_of(other.pid) == parent_of(good.pid)
    for link in (good, other):
        await link.close()


@pytest.mark.parametrize("change", [{"device": 1}, {"spares": True}, {"spares": "2"}, {"environment": []}])
def test_wishes_are_checked(change):
    with pytest.raises(LinkError):
        _wishes({"device": "cpu", "spares": 0, "environment": {}} | change)


def test_what_a_node_sees_of_the_devices_is_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    told = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "LD_PRELOAD": "/tmp/evil.so"}
    assert _wishes({"device": "cuda:1", "spares": 2, "environment": told}) == ("cuda:1", 2)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert os.environ.pop("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    assert "evil" not in os.environ.get("LD_PRELOAD", "")


async def test_it_sees_no_choice_of_devices_itself(tmp_path, monkeypatch):
    """Torch counts slices named MIG-... by asking CUDA, after which nothing that is forked can use it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-d9a47cfb-d1f2-d08c-b40e-0812b597ae69")
    link = await ShellLink.start(tmp_path)
    try:
        seen = environment_of(parent_of(link.pid))
        assert not [each for each in seen if each.startswith(b"CUDA_VISIBLE_DEVICES=")]
        assert any(each.startswith(b"PATH=") for each in seen)
    finally:
        await link.close()


def test_its_socket_is_ours_alone(tmp_path):
    with listen(tmp_path / "s"):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


def test_a_deep_folder_gets_a_short_path_that_is_the_same_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    deep = tmp_path / ("deep" * 30)
    path = socket_path(deep)
    assert path == socket_path(deep)
    assert path != socket_path(tmp_path / ("deeq" * 30))
    assert len(path.name) + len("/tmp/nf-4294967295-0123456789abcdef/") < 108
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.parent.chmod(0o755)
    with pytest.raises(ZygoteError, match="not ours alone"):
        socket_path(deep)


def test_another_build_never_meets_an_old_one(tmp_path, monkeypatch):
    module = tmp_path / "inference" / "shell.py"
    module.parent.mkdir()
    seen = set()
    monkeypatch.setattr(finding, "PACKAGE_ROOT", str(tmp_path))
    for text in ("one", "another"):
        module.write_text(text)
        seen.add(build_id.__wrapped__())
    assert build_id.__wrapped__() in seen
    assert len(seen) == 2


TRANSFORMERS = """
from importlib.util import find_spec
from inference.zygote import UNUSED
found = [name for name in UNUSED if find_spec(name)]
assert not found, found
try:
    import sklearn.metrics
except ImportError:
    pass
"""
PREPARED = """
import inference.zygote as z
z.ARCHITECTURES = z.OURS = ()
z.prepare()
assert z.num_threads() == 1
"""


def test_what_no_model_needs_is_as_if_it_were_not_installed(tmp_path):
    """It may bring a thread (Arrow's allocator does), with which there is no safe fork. The libraries are stand-ins."""
    for name in UNUSED:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this was imported')")
    (tmp_path / "torch.py").write_text("set_num_threads = print")
    for name, text in (
        ("__init__", TRANSFORMERS),
        ("conversion_mapping", "get_checkpoint_conversion_mapping = print"),
        ("modeling_utils", "LOSS_MAPPING = {}"),
        ("utils/logging", "disable_progress_bar = print"),
    ):
        path = tmp_path / "transformers" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{finding.PACKAGE_ROOT}"}
    done = subprocess.run([sys.executable, "-c", PREPARED], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ({}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.check=3"},
            {"GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.hugetlb=1"},
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, {}),
    ],
)
def test_its_heap_is_in_huge_pages_unless_somebody_said_otherwise(own, given):
    assert finding.huge_heap(own) == given


async def test_a_zygote_is_told_so_when_it_begins(tmp_path, monkeypatch):
    monkeypatch.delenv(finding.TUNABLES, raising=False)
    pid = launch(socket_path(tmp_path), os.getpid())
    try:
        # It is another's, or empty, while the kernel still lays it out.
        await until(lambda: b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in environment_of(pid))
    finally:
        os.kill(pid, signal.SIGKILL)
        await until(lambda: has_ended(pid))
