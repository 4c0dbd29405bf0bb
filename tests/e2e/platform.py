"""A real platform for the tests: `nearfield up` in a process of its own, everything in one scratch folder."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx2
import openai
from botocore.config import Config as BotoConfig
from typer.testing import CliRunner

from deploy import cli
from deploy.client import ApiError, Client, Unreachable
from deploy.config.read import load
from deploy.trust import credentials as saved
from deploy.trust import secrets
from deploy.trust.credentials import Credentials
from tests.zygote import share

ROOT = Path(__file__).resolve().parents[2]
TINYCHAT = ROOT / "examples" / "tinychat" / "model"
QUESTIONS = ROOT / "examples" / "tinychat" / "questions.json"
START_S = 150.0
LIVE_S = 150.0
CHAT = "examples/tinychat"
BOUND = """
import sys
from deploy.roles.life import die_with_parent
die_with_parent(int(sys.argv.pop(1)))
from deploy.cli import main
main()
"""
"""`python -m deploy` that ends with who started it: what killed tests leave up slows all that run after."""


@dataclass
class RunningPlatform:
    """A platform that serves, and what tests ask of it."""

    state: Path
    process: subprocess.Popen[str]
    _s3: Any = field(default=None, init=False, repr=False)
    _admin: Client | None = field(default=None, init=False, repr=False)

    @property
    def credentials(self) -> Credentials:
        return saved.load(self.state)

    @property
    def admin(self) -> Client:
        """One for all, once there are credentials: each has a TLS context of its own."""
        if self._admin is None:
            self._admin = Client(self.credentials, admin=True)
        return self._admin

    def openai(self, region: str | None = None, **kwargs: Any) -> openai.OpenAI:
        """The official client with base_url, key and authority changed and nothing else."""
        c = self.credentials
        url = c.regions[region] if region else c.base_url
        options: dict[str, Any] = {"api_key": c.api_key, "max_retries": 0, "timeout": 60.0} | kwargs
        return openai.OpenAI(base_url=url, http_client=openai.DefaultHttpxClient(verify=tls(c.ca)), **options)

    def s3(self) -> Any:
        """boto3 with the printed settings; one client for all, as its models take a while to read."""
        if self._s3 is None:
            self._s3 = self._open_s3()
        return self._s3

    def _open_s3(self) -> Any:
        c = self.credentials
        return boto3.client(
            "s3",
            endpoint_url=c.s3_url,
            aws_access_key_id=c.s3_access_key,
            aws_secret_access_key=c.s3_secret_key,
            region_name="us-east-1",
            verify=c.ca,
            config=BotoConfig(retries={"max_attempts": 3, "mode": "standard"}),
        )

    def s3_at(self, url: str) -> Any:
        """boto3 on the private port of one region's store, with the user's own key."""
        c = self.credentials
        return boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=c.s3_access_key,
            aws_secret_access_key=c.s3_secret_key,
            region_name="us-east-1",
        )

    def status(self) -> dict[str, Any]:
        return dict(self.admin.get("/nearfield/status").body)

    def row(self, region: str, model: str) -> dict[str, Any] | None:
        body = self.status()["regions"][region]["body"] or {"models": {}}
        found = body["models"].get(model)
        return dict(found) if found else None

    def cool(self, region: str, model: str, to: str) -> dict[str, Any]:
        return dict(self.admin.post(f"/nearfield/regions/{region}/cool", {"model": model, "to": to}).body)

    def nearfield(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command, without the process around it, whose start costs more than most commands."""
        told = CliRunner().invoke(cli.app, [*words, "--state", str(self.state)])
        if told.exception and not isinstance(told.exception, SystemExit):
            raise told.exception
        done = subprocess.CompletedProcess(words, told.exit_code, told.stdout, told.stderr)
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def typed(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line, as a user types it."""
        done = subprocess.run(
            [sys.executable, "-m", "deploy", *words, "--state", str(self.state)],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            cwd=ROOT,
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def shell_pid(self, node: str) -> int:
        """The process that forks the engines of a node: no child of it, but of the zygote that nodes share."""
        config = load(self.state / "nearfield.toml")
        token = secrets.hop_token(secrets.root_key(config.secrets))
        url = f"http://{config.nodes[node].listen}/status"
        told = httpx2.get(url, headers={"authorization": f"Bearer {token}"}).json()
        return int(told["shell"]["pid"])

    def role_pids(self, *names: str) -> dict[str, int]:
        """Pids of role processes by log name, for example `region-fra`; of all when none is named."""
        found = {}
        for pid, command in children_commands(self.process.pid):
            words = command.split("\0")
            if "deploy.roles.process" in words:
                role, name = words[words.index("deploy.roles.process") + 1 :][:2]
                found[f"{role}-{name}"] = pid
        return {n: p for n, p in found.items() if not names or n in names}


def tls(ca: str) -> Any:
    import ssl

    return ssl.create_default_context(cafile=ca)


def children_commands(parent: int) -> list[tuple[int, str]]:
    """(pid, NUL-joined command line) of each direct child of `parent`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                if int(stat.rsplit(")", 1)[1].split()[1]) == parent:
                    found.append((int(entry.name), (entry / "cmdline").read_text()))
    return found


def descendants(parent: int) -> set[int]:
    """Every process below `parent` right now."""
    direct = [pid for pid, _ in children_commands(parent)]
    return set(direct).union(*(descendants(pid) for pid in direct)) if direct else set()


def wait_for(condition: Any, deadline_s: float, what: str, poll_s: float = 0.1) -> Any:
    """Poll until `condition()` is true; returns its value."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(poll_s)
    raise AssertionError(f"after {deadline_s} s still not: {what}")


def wait_live(platform: RunningPlatform, model: str, *regions: str, revision: str | None = None) -> str:
    """Wait until `model` is live; returns its revision."""

    def live() -> str | None:
        status = platform.status()["regions"]
        seen = [status[region] for region in regions or tuple(platform.credentials.regions)]
        if not all(s["body"] and s["breaker"] == "closed" and (s["heard_s"] or 9) < 3 for s in seen):
            return None
        rows = [s["body"]["models"].get(model) for s in seen]
        good = all(r and r["state"] == "live" and revision in (None, r["revision"]) for r in rows)
        return str(rows[0]["revision"]) if good else None

    return str(wait_for(live, LIVE_S, f"{model} live", poll_s=0.25))


@contextlib.contextmanager
def start(state: Path, *words: str) -> Iterator[RunningPlatform]:
    """`nearfield up` until the block ends; then it must stop by itself and leave no process."""
    turn = (Path(tempfile.gettempdir()) / "nearfield-tests.lock").open("w")
    fcntl.flock(turn, fcntl.LOCK_EX)  # two platforms that start at once could pick the same free port
    share(state)
    path = state.parent / f"{state.name}.log"
    path.unlink(missing_ok=True)
    log = path.open("a")  # it writes at the end, wherever we read
    process = subprocess.Popen(
        [sys.executable, "-c", BOUND, str(os.getpid()), "up", "--state", str(state), *words],
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    platform = RunningPlatform(state, process)
    try:
        wait_for(lambda: _up(platform, path), START_S, "platform up")
        turn.close()  # its ports are bound: another may look for free ones
        yield platform
    finally:
        below = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            log.close()
            turn.close()
    left = {pid for pid in below if Path(f"/proc/{pid}").exists()}
    wait_for(lambda: not {p for p in left if Path(f"/proc/{p}").exists()}, 10, f"processes gone: {left}")


def _up(platform: RunningPlatform, log: Path) -> bool:
    if platform.process.poll() is not None:
        raise AssertionError(f"`nearfield up` ended with {platform.process.returncode}:\n{log.read_text()}")
    return "Nearfield is up" in log.read_text() and hears_every_region(platform)


def hears_every_region(platform: RunningPlatform) -> bool:
    """Whether the edge answers, and has just heard each region say something."""
    try:
        seen = platform.status()["regions"].values()
    except (saved.NoPlatform, Unreachable, ApiError, OSError):
        return False
    return all(region["body"] is not None for region in seen)


def questions() -> list[dict[str, str]]:
    """The example model's verified questions."""
    return list(json.loads(QUESTIONS.read_text()))
