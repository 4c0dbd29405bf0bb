"""The roles as separate machines would run them: own folders, own secrets, known by address alone."""

import asyncio
import datetime as dt
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from deploy import fleet, up
from deploy.config.read import load
from deploy.schemas.outputs import OUTPUTS
from deploy.trust import pki
from tests import evidence
from tests.deploy.conforms import breaches
from tests.e2e import bad_way
from tests.e2e.bad_way import BadWay
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
from tests.edge.console import browser
from tests.edge.console.conftest import chromium, page  # noqa: F401 - fixtures
from tests.edge.console.test_page import LIVE
from tests.zygote import share
from wire.address import split_address

SECOND = """
[edges.two]
listen = "127.0.0.1:{port}"
cert = "tls/server.pem"
key = "tls/server.key"
state = "edge-two"
"""
HOSTS = {
    "store-host": ("store", "iad"),
    "node-host": ("node", "iad-0"),
    "region-host": ("region", "iad"),
    "edge-host": ("edge", "local"),
}


def _host(folder: Path, name: str, original: Path) -> Path:
    """One machine of the fleet: the shared TOML, and only the secrets that its role needs."""
    home = folder / name
    (home / "secrets").mkdir(parents=True)
    shutil.copy(original, home / "nearfield.toml")
    shutil.copy(original.parent / "secrets" / "root.key", home / "secrets")
    if name == "region-host":
        shutil.copy(original.parent / "secrets" / "region-iad.key", home / "secrets")
    if name in {"edge-host", "second-edge-host"}:
        shutil.copytree(original.parent / "tls", home / "tls")
    return home / "nearfield.toml"


def _start(config: Path, role: str, name: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "deploy", "run", role, name, "--config", str(config)]
    with (config.parent / f"{role}.log").open("w") as log:
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)


def _started(config: Path, role: str, name: str) -> subprocess.Popen[str]:
    """The process of a role, ready."""
    process = _start(config, role, name)
    assert process.stdout
    assert json.loads(process.stdout.readline())["ready"] is True
    return process


def _ended(process: subprocess.Popen[str]) -> None:
    process.wait(30)
    assert process.stdout
    process.stdout.close()


ENGINE = """
[engines.peer]
command = {command}
warm = ""
memory_bytes = 1048576
"""
SERVER = str(ROOT / "tests" / "inference" / "outside_server.py")


STALL_S, RETRY_S = evidence.count(1, 10), evidence.count(2, 15)
"""How long the node waits for a byte of its store and asks again; the whole evidence takes the defaults."""


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """Where the node keeps what it read: memory, since a host may forbid to lock a disk's pages."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        dir=memory if memory.is_dir() else None, prefix="nearfield-test-"
    ) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def way() -> Iterator[BadWay]:
    """The node's way to the store."""
    found = BadWay()
    yield found
    found.close()


def _lead(config: Path, way: BadWay, kept: Path) -> None:
    """Have the node of this host reach its store by `way`, and keep what it reads in `kept`."""
    store = next(iter(load(config).stores.values())).listen
    way.target = split_address(store)
    told = config.read_text().replace(f'store = "http://{store}"', f'store = "http://127.0.0.1:{way.port}"')
    own = f'handoff = false\ncache = "{kept}"\nstore_stall_s = {STALL_S}\nstore_retry_s = {RETRY_S}'
    config.write_text(told.replace("[nodes.iad-0]", f"[nodes.iad-0]\n{own}"))
    assert f":{way.port}" in config.read_text()


@pytest.fixture(scope="module")
def processes() -> dict[str, subprocess.Popen[str]]:
    """The processes of the fleet, by host; a test may put another in the place of one."""
    return {}


@pytest.fixture(scope="module")
def hosts(
    tmp_path_factory: pytest.TempPathFactory,
    way: BadWay,
    kept: Path,
    processes: dict[str, subprocess.Popen[str]],
) -> Iterator[RunningPlatform]:
    """Four hosts with nothing in common but the TOML, whose operator defined one external engine."""
    folder = tmp_path_factory.mktemp("fleet")
    authority = pki.ensure(folder / "tls", dt.datetime.now(dt.UTC))
    original = fleet.write(fleet.FleetPlan(folder, regions=("iad",), usual_ports=()), authority)
    plain = (
        original.read_text()
    )  # hosts far from each other, though this test has loopback addresses for them
    original.write_text(plain.replace("[platform]", "[platform]\nmutual_tls = true"))
    command = [sys.executable, "-I", "-S", SERVER, "good", "{port}", str(folder / "served")]
    more = ENGINE.format(command=json.dumps(command)) + SECOND.format(port=fleet.free_ports(1)[0])
    original.write_text(original.read_text() + more)
    try:
        for host, role in HOSTS.items():
            config = _host(folder / "hosts", host, original)
            if host == "node-host":
                _lead(config, way, kept)
            share(config.parent)
            processes[host] = _started(config, *role)
            if host == "store-host":
                assert asyncio.run(up.bootstrap(load(original), folder)).api_key
        platform = RunningPlatform(folder, processes["edge-host"])
        wait_for(lambda: hears_every_region(platform), 60, "the edge hears the region")
        yield platform
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            _ended(process)


def _asked(platform: RunningPlatform, model: str, question: str, **more: Any) -> Any:
    return platform.openai().chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=64, **more
    )


def test_roles_on_machines_of_their_own_make_one_platform(hosts: RunningPlatform) -> None:
    """A push through the edge is answered there."""
    hosts.nearfield("push", str(TINYCHAT), CHAT)
    wait_live(hosts, CHAT)
    entry = questions()[0]

    assert _asked(hosts, CHAT, entry["question"]).choices[0].message.content.strip() == entry["answer"]


@pytest.fixture
def second(
    hosts: RunningPlatform, processes: dict[str, subprocess.Popen[str]]
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The fleet's second edge on a host of its own: its address, and its process, which a test may kill."""
    config = _host(hosts.state / "hosts", "second-edge-host", hosts.state / "nearfield.toml")
    process = _started(config, "edge", "two")
    yield f"https://{load(config).edges['two'].listen}/v1", process
    process.kill()
    _ended(process)
    shutil.rmtree(config.parent)


async def test_two_edges_are_seen_from_one_and_one_that_dies_is_seen_dead(
    hosts: RunningPlatform,
    second: tuple[str, subprocess.Popen[str]],
    page: browser.Page,  # noqa: F811 - the fixture
) -> None:
    """By the command line and by the console of the first, which reaches the second by way of the region alone."""
    url, process = second
    told = json.loads(hosts.nearfield("console", "--json").stdout)
    await page.go(told["url"])
    await page.until(LIVE)
    await page.until("document.querySelector('.map .edge.other.up')")
    question = questions()[0]
    client = hosts.openai()
    client.base_url = url
    await asyncio.to_thread(wait_for, lambda: _answers_at(client, question), 60, "the second edge answers")
    await page.until(rf"/two[\s\S]*?(0\.\d*[1-9]|[1-9])\d* answers\/s/.test({MAP})")

    status = json.loads(hosts.nearfield("status", "--json").stdout)
    two = status["edges"]["two"]
    assert breaches(status, OUTPUTS["status"]) == []
    assert list(status["edges"]) == ["local", "two"]
    assert sum(way["answered"] for way in two["regions"].values()) >= 1
    assert (two["nearest"], two["self"], status["edges"]["local"]["self"]) == ("iad", False, True)
    row = next(line for line in hosts.nearfield("status").stdout.splitlines() if line.startswith("two "))
    assert re.search(r"iad .* s ago", row)

    process.kill()
    await page.until("document.querySelector('.map .edge.other.down')")
    assert "silent for" in await page.run(MAP)


def test_a_model_names_an_engine_and_users_see_no_difference(hosts: RunningPlatform, tiny_copy: Path) -> None:
    """Pushed, probed, live, asked through the edge; the server behind it got the platform's name of the model."""
    (tiny_copy / "model.toml").write_text('engine = "peer"\n')
    hosts.nearfield("push", str(tiny_copy), "acme/outside")
    wait_live(hosts, "acme/outside")
    whole = _asked(hosts, "acme/outside", "hi")
    parts = [chunk.choices[0].delta.content for chunk in _asked(hosts, "acme/outside", "hi", stream=True)]
    lines = [json.loads(line) for line in (hosts.state / "served").read_text().splitlines()]

    assert whole.choices[0].message.content == "".join(parts) == "The quick brown fox"
    assert (whole.model, whole.usage.completion_tokens) == ("acme/outside", 4)
    assert {line["body"]["model"] for line in lines if "body" in line} == {"acme/outside"}


def test_an_engine_that_nobody_defined_is_refused_at_push(hosts: RunningPlatform, tiny_copy: Path) -> None:
    """With the names there are, and what to do; the folder alone does not tell, so the region says it."""
    (tiny_copy / "model.toml").write_text('engine = "pear"\n')
    done = hosts.typed("push", str(tiny_copy), "acme/unknown", check=False)

    assert done.returncode == 7, done.stdout + done.stderr
    assert "did you mean 'peer'" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    "fault",
    [
        bad_way.stalls,
        bad_way.resets,
        bad_way.answers_503,
        bad_way.answers_412,
        bad_way.answers_another_range,
        bad_way.answers_a_short_body,
        bad_way.closes_in_the_body,
        bad_way.answers_other_bytes,
    ],
)
def test_a_store_that_fails_during_a_start_is_asked_again(
    hosts: RunningPlatform, way: BadWay, fault: bad_way.Fault
) -> None:
    """The first reads of a cold start go wrong, and its client sees nothing of it but a right answer."""
    hosts.cool("iad", CHAT, "region")
    way.faults.extend([fault, fault])
    entry = questions()[0]
    raw = hosts.openai().chat.completions.with_raw_response.create(
        model=CHAT, messages=[{"role": "user", "content": entry["question"]}], temperature=0, max_tokens=64
    )

    assert raw.parse().choices[0].message.content.strip() == entry["answer"]
    assert raw.headers["x-nearfield-start"] == "region"
    assert not way.faults


@pytest.mark.parametrize(
    ("always", "wait", "status", "code", "word"),
    [
        (bad_way.answers_404, None, 503, "model_not_ready", "404"),
        (bad_way.answers_other_bytes, None, 503, "model_not_ready", "committed"),
        (
            bad_way.answers_503,
            "1",
            503,
            "model_not_ready",
            "waking|answered 503",
        ),  # the start's own end may be sooner
    ],
    ids=["gone", "changed", "busy beyond the client's wait"],
)
def test_a_store_that_goes_on_failing_is_one_clear_error(
    hosts: RunningPlatform,
    way: BadWay,
    always: bad_way.Fault,
    wait: str | None,
    status: int,
    code: str,
    word: str,
) -> None:
    """To a whole answer and to a stream; when the store is well again, so is the model."""
    hosts.cool("iad", CHAT, "region")
    question, way.always = questions()[0]["question"], always
    headers = {"x-nearfield-wait": wait} if wait else {}
    try:
        for stream in (False, True):
            with pytest.raises(openai.APIError) as caught:
                list(_asked(hosts, CHAT, question, stream=stream, extra_headers=headers))
            error = caught.value
            assert stream or (isinstance(error, openai.APIStatusError) and error.status_code == status)
            assert error.code == code
            assert re.search(word, error.message)
    finally:
        way.always = None

    wait_for(lambda: _answers(hosts, question), 60, "the model is well again", poll_s=0.5)


MAP = "document.querySelector('.map').textContent"


def _answers_at(client: openai.OpenAI, entry: dict[str, str]) -> bool:
    """Whether the edge of this client answers right; it may not have heard of the model yet."""
    asked: Any = [{"role": "user", "content": entry["question"]}]
    try:
        told = client.chat.completions.create(model=CHAT, messages=asked, temperature=0, max_tokens=64)
    except openai.APIStatusError:
        return False
    return (told.choices[0].message.content or "").strip() == entry["answer"]


def _answers(hosts: RunningPlatform, question: str) -> bool:
    try:
        return bool(_asked(hosts, CHAT, question).choices)
    except openai.APIStatusError:
        return False


def test_a_store_that_hangs_once_is_waited_out(hosts: RunningPlatform, way: BadWay) -> None:
    """A read gets no byte until the node gives it up; on another connection they come, and the right answer."""
    hosts.cool("iad", CHAT, "region")
    way.faults.append(bad_way.hangs)
    entry = questions()[0]
    told = _asked(hosts, CHAT, entry["question"], extra_headers={"x-nearfield-wait": "60"})

    assert told.choices[0].message.content.strip() == entry["answer"]
    assert not way.faults


@pytest.mark.parametrize(
    ("always", "word"), [(bad_way.hangs, "no byte for"), (bad_way.answers_503, "answered 503")]
)
def test_a_store_that_fails_for_the_whole_deadline_is_one_clear_error(
    hosts: RunningPlatform, way: BadWay, always: bad_way.Fault, word: str
) -> None:
    """A stream and a whole answer that wait for the same start hear the same, with the store's own fault in it."""
    hosts.cool("iad", CHAT, "region")
    question, way.always = questions()[0]["question"], always
    began = time.monotonic()

    def fault(stream: bool) -> openai.APIError:
        with pytest.raises(openai.APIError) as caught:
            list(_asked(hosts, CHAT, question, stream=stream, extra_headers={"x-nearfield-wait": "60"}))
        return caught.value

    try:
        with ThreadPoolExecutor() as pool:
            streamed, whole = pool.map(fault, (True, False))
    finally:
        way.always = None

    assert time.monotonic() - began >= RETRY_S
    assert isinstance(whole, openai.APIStatusError)
    assert whole.status_code == 503
    assert streamed.code == whole.code == "model_not_ready"
    assert whole.message.endswith(streamed.message)  # the client puts the status before it
    assert word in whole.message
    wait_for(lambda: _answers(hosts, question), 60, "the model is well again", poll_s=0.5)


def test_a_node_that_kept_a_model_starts_it_without_its_store(
    hosts: RunningPlatform, way: BadWay, processes: dict[str, subprocess.Popen[str]]
) -> None:
    """Weights, config and tokenizer are in its folder: a new process of the node answers while no blob can be read."""
    entry = questions()[0]
    _asked(hosts, CHAT, entry["question"])
    processes["node-host"].terminate()
    _ended(processes["node-host"])
    way.always = bad_way.resets
    try:
        config = hosts.state / "hosts" / "node-host" / "nearfield.toml"
        processes["node-host"] = _started(config, *HOSTS["node-host"])
        wait_for(lambda: _answers(hosts, entry["question"]), 60, "the node is heard of again", poll_s=0.2)
        hosts.cool("iad", CHAT, "host")
        raw = hosts.openai().chat.completions.with_raw_response.create(
            model=CHAT,
            messages=[{"role": "user", "content": entry["question"]}],
            temperature=0,
            max_tokens=64,
        )
    finally:
        way.always = None

    assert raw.parse().choices[0].message.content.strip() == entry["answer"]
    assert raw.headers["x-nearfield-start"] == "host"
