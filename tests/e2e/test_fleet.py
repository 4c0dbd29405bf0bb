"""The roles as separate machines would run them: own folders, own secrets, known by address alone."""

import datetime as dt
import json
import shutil
import subprocess
import sys
from pathlib import Path

from deploy import fleet, pki, up
from deploy.config import load
from tests.e2e.platform import (
    CHAT,
    ROOT,
    TINYCHAT,
    RunningPlatform,
    hears_every_region,
    questions,
    wait_for,
    wait_live,
)
from tests.zygote import share

HOSTS = {
    "store-host": (("store", "iad"),),
    "node-host": (("node", "iad-0"),),
    "region-host": (("region", "iad"),),
    "edge-host": (("edge", "local"),),
}


def _host(folder: Path, name: str, original: Path) -> Path:
    """One machine of the fleet: the shared TOML, and only the secrets that its role needs."""
    home = folder / name
    (home / "secrets").mkdir(parents=True)
    shutil.copy(original, home / "nearfield.toml")
    shutil.copy(original.parent / "secrets" / "root.key", home / "secrets")
    if name == "region-host":
        shutil.copy(original.parent / "secrets" / "region-iad.key", home / "secrets")
    if name == "edge-host":
        shutil.copytree(original.parent / "tls", home / "tls")
    return home / "nearfield.toml"


def _start(config: Path, role: str, name: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "deploy", "run", role, name, "--config", str(config)]
    with (config.parent / f"{role}.log").open("w") as log:
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)


def test_roles_on_machines_of_their_own_make_one_platform(tmp_path):
    """Four hosts with nothing in common but the TOML: a push through the edge is answered there."""
    import asyncio

    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    original = fleet.write(fleet.FleetPlan(tmp_path, regions=("iad",), usual_ports=()), authority)
    processes = []
    try:
        for host, roles in HOSTS.items():
            config = _host(tmp_path / "hosts", host, original)
            share(config.parent)
            processes += [_start(config, *role) for role in roles]
            for process in processes[-len(roles) :]:
                line = json.loads(process.stdout.readline())
                assert line["ready"] is True
            if host == "store-host":
                credentials = asyncio.run(up.bootstrap(load(original), tmp_path))
        platform = RunningPlatform(tmp_path, processes[-1])
        wait_for(lambda: hears_every_region(platform), 30, "the edge hears the region")
        platform.nearfield("push", str(TINYCHAT), CHAT)
        wait_live(platform, CHAT)
        entry = questions()[0]
        raw = platform.openai().chat.completions.with_raw_response.create(
            model=CHAT,
            messages=[{"role": "user", "content": entry["question"]}],
            temperature=0,
            max_tokens=64,
        )
        assert raw.parse().choices[0].message.content.strip() == entry["answer"]
        assert credentials.api_key
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
            process.stdout.close()
