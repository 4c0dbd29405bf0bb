"""kill -9 anything, any time: acknowledged objects stay, requests are retried or end with one clean error."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.llama import model_folder
from tests.e2e import platform as running
from tests.e2e.platform import CHAT, TINYCHAT, RunningPlatform, descendants, questions, wait_for, wait_live
from wire.timing import parse_receipt

PROMPT = questions()[0]
CUT = "acme/cut"


def _ask(client: openai.OpenAI, **kwargs):
    return client.chat.completions.with_raw_response.create(
        model=CHAT,
        messages=[{"role": "user", "content": PROMPT["question"]}],
        temperature=0,
        max_tokens=64,
        **kwargs,
    )


def _kill(pid: int) -> None:
    for victim in (pid, *descendants(pid)):
        os.kill(victim, signal.SIGKILL)


def _wait_answers(platform: RunningPlatform, region: str) -> None:
    """Wait until a region that was killed answers by itself: its last row may look well for a while."""

    def answers() -> bool:
        try:
            return _ask(platform.openai(region)).parse().choices[0].finish_reason == "stop"
        except (openai.APIConnectionError, openai.APIStatusError):
            return False

    wait_for(answers, 60, f"an answer from {region}", poll_s=0.3)


def test_a_killed_region_is_replaced_by_another_and_the_answer_says_so(fragile: RunningPlatform):
    """Gateway and node of the region that serves are gone: the very next request is answered elsewhere."""
    client = fragile.openai()
    before = _ask(client).headers["x-nearfield-region"]
    pids = fragile.role_pids(f"region-{before}", f"node-{before}-0")
    os.kill(fragile.process.pid, signal.SIGSTOP)  # so that nothing is started again while we look
    try:
        for pid in pids.values():
            _kill(pid)
        raw = _ask(client)
    finally:
        os.kill(fragile.process.pid, signal.SIGCONT)

    assert raw.parse().choices[0].message.content.strip() == PROMPT["answer"]
    assert raw.headers["x-nearfield-region"] != before
    _wait_answers(fragile, before)


def test_a_killed_worker_is_replaced(fragile: RunningPlatform):
    """A node's engines, its shell and every child of its own die; the next request is answered."""
    node = fragile.role_pids("node-fra-0")["node-fra-0"]
    client = fragile.openai("fra")
    _ask(client)
    shell = fragile.shell_pid("fra-0")
    for victim in (*descendants(shell), shell, *descendants(node)):
        os.kill(victim, signal.SIGKILL)

    clean: list[tuple[int, bool]] = []

    def answered() -> bool:
        try:
            return _ask(client).parse().choices[0].message.content.strip() == PROMPT["answer"]
        except openai.InternalServerError as error:
            clean.append((error.status_code, bool(error.code)))
            return False

    wait_for(answered, 45, "an answer after the worker's death")
    assert set(clean) <= {(503, True), (502, True)}


def test_a_stream_whose_region_dies_ends_in_one_error_event(fragile: RunningPlatform):
    """Never a silent cut: after the first token a death is an explicit error, before it a replay."""
    client = fragile.openai("iad", timeout=30.0)
    stream = client.completions.create(
        model=CHAT, prompt="Hello", max_tokens=400, temperature=1.5, seed=3, stream=True, logit_bias={}
    )
    iterator = iter(stream)
    next(iterator)
    _kill(fragile.role_pids("node-iad-0")["node-iad-0"])

    finished = None
    try:
        for chunk in iterator:
            finished = chunk.choices[0].finish_reason if chunk.choices else finished
    except openai.APIError as error:
        finished = f"error: {error.message}"
    assert finished is not None
    _wait_answers(fragile, "iad")


@pytest.mark.parametrize("roles", [("node-{}-0",), ("region-{}", "node-{}-0")])
def test_a_greedy_stream_goes_on_in_another_region_when_its_own_dies(
    fragile: RunningPlatform, roles: tuple[str, ...]
):
    """Killed in the middle of the answer: not a token is lost or said twice, and it ends as if nothing had happened."""
    asked = {"model": CHAT, "prompt": "Hello", "max_tokens": 480, "temperature": 0, "ignore_eos": True}
    asked |= {"stream": True, "stream_options": {"include_usage": True}}
    whole, _, _ = _events(fragile, asked, ())
    events, receipts, region = _events(fragile, asked, roles)

    assert [_said(event) for event in events] == [_said(event) for event in whole]
    assert events[-1] == "[DONE]"
    assert len({json.loads(event)["id"] for event in events[:-1]}) == 1
    assert any(region in each for each in receipts[-1]["replayed"])
    _wait_answers(fragile, region)


def _events(
    platform: RunningPlatform, body: dict[str, Any], roles: tuple[str, ...]
) -> tuple[list[str], list[Any], str]:
    """The data of a stream's events, its receipts, and whose it was; after ten events these roles are killed."""
    client = platform.openai()
    headers = {"x-nearfield-resume": "true"}
    events, receipts = [], []
    with client.completions.with_streaming_response.create(
        **_typed(body), extra_headers=headers, timeout=120
    ) as raw:
        region = raw.headers["x-nearfield-region"]
        for line in raw.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
            elif (receipt := parse_receipt(line)) is not None and "hop" in receipt:
                receipts.append(receipt)
            if len(events) == 10 and line:
                for pid in (
                    platform.role_pids(*[role.format(region) for role in roles]).values() if roles else ()
                ):
                    _kill(pid)
    return events, receipts, region


def _typed(body: dict[str, Any]) -> dict[str, Any]:
    """What the official client has no name for goes beside."""
    own = {"ignore_eos": body["ignore_eos"]}
    return {key: value for key, value in body.items() if key not in own} | {"extra_body": own}


def _said(event: str) -> Any:
    """An event without what differs from answer to answer: two fields, and what of the prompt a worker still had."""
    if event == "[DONE]":
        return event
    said = {key: value for key, value in json.loads(event).items() if key not in {"id", "created"}}
    if said.get("usage"):
        del said["usage"]["prompt_tokens_details"]
    return said


def test_killed_stores_lose_no_acknowledged_object(fragile: RunningPlatform):
    """Objects acknowledged while the home store is killed again and again are all there, byte for byte."""
    acknowledged: dict[str, bytes] = {}
    done = threading.Event()

    def write() -> None:
        s3, number = fragile.s3(), 0
        while not done.is_set():
            key, body = f"scratch/object-{number}", os.urandom(20_000)
            try:
                s3.put_object(Bucket="models", Key=key, Body=body)
                acknowledged[key] = body
            except Exception:  # noqa: BLE001 - a killed store may fail a request in any way; only the 200s count
                time.sleep(0.05)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(3):
        wait_for(lambda: fragile.role_pids("store-iad"), 60, "the store's process")
        time.sleep(0.7)
        os.kill(fragile.role_pids("store-iad")["store-iad"], signal.SIGKILL)
        time.sleep(1.0)
    wait_for(lambda: len(acknowledged) > 30, 60, "some acknowledged writes")
    done.set()
    writer.join(60)

    s3 = fragile.s3()
    wait_for(lambda: fragile.role_pids("store-iad"), 60, "the store's process")
    time.sleep(1)
    for key, body in acknowledged.items():
        assert s3.get_object(Bucket="models", Key=key)["Body"].read() == body, key


def test_a_killed_edge_comes_back_and_serves(fragile: RunningPlatform):
    """The edge keeps its rows on disk: it routes as soon as it listens again."""
    os.kill(fragile.role_pids("edge-local")["edge-local"], signal.SIGKILL)

    def answered() -> bool:
        try:
            return _ask(fragile.openai()).parse().choices[0].message.content.strip() == PROMPT["answer"]
        except (openai.APIConnectionError, openai.APIStatusError):
            return False

    wait_for(answered, 60, "the edge back")


def test_a_restart_brings_back_every_model(tmp_path: Path):
    """Stop `up`, start it again on the same folder: the model answers without another push."""
    state = tmp_path / "state"
    with running.start(state, "--regions", "iad") as up:
        up.nearfield("push", str(TINYCHAT), CHAT)
        key = up.credentials.api_key
    with running.start(state) as up:
        wait_live(up, CHAT)
        assert up.credentials.api_key == key
        assert _ask(up.openai()).parse().choices[0].message.content.strip() == PROMPT["answer"]


def _a_moment_more(process: subprocess.Popen) -> bool:
    """Have a process go on for so short a time that it does not come to its end unseen; it stands still afterwards."""
    process.send_signal(signal.SIGCONT)
    time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    return True


def test_a_push_that_was_killed_goes_on_within_its_file(platform: RunningPlatform, tmp_path: Path):
    """SIGKILL when the first parts of the weights are there: the next push sends the others, and it goes live."""
    folder, s3 = model_folder(tmp_path, 1), platform.s3()
    words = ["push", str(folder), CUT, "--yes", "--json", "--state", str(platform.state)]

    def parts() -> int:
        """Bytes that are there of an unfinished upload."""
        found = s3.list_multipart_uploads(Bucket="models", Prefix=CUT).get("Uploads", ())
        rows = [s3.list_parts(Bucket="models", Key=up["Key"], UploadId=up["UploadId"]) for up in found]
        return sum(row["Size"] for each in rows for row in each.get("Parts", ()))

    first = subprocess.Popen([sys.executable, "-m", "deploy", *words], cwd=running.ROOT)
    try:
        wait_for(lambda: _a_moment_more(first) and parts(), 60, "a part of the weights", poll_s=0.0)
    finally:
        first.kill()
        first.wait()
    there = parts()
    pushed = json.loads(platform.typed(*words[:-2]).stdout)

    assert there > 0
    assert pushed["uploaded_bytes"] <= pushed["bytes"] - there
    assert sorted(pushed["live"]) == sorted(platform.credentials.regions)
    assert not parts()
    begun = s3.create_multipart_upload(Bucket="models", Key=f"{CUT}/model.safetensors")
    s3.upload_part(
        Bucket="models",
        Key=begun["Key"],
        UploadId=begun["UploadId"],
        PartNumber=1,
        Body=b"of a push that was cut",
    )
    removed = json.loads(platform.nearfield("rm", CUT, "--yes", "--json").stdout)
    assert removed["ended_uploads"] == 1
    assert not parts()
