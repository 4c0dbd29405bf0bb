"""`store = "http://..."`: the platform on any S3. Somebody else's knows neither our keys nor our feed."""

import asyncio
import datetime as dt
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import openai
import pytest

from deploy import fleet
from deploy.doctor.examine import examine
from deploy.trust import pki, secrets
from edge.s3 import S3Door
from tests.e2e.platform import ROOT, TINYCHAT, start, wait_for, wait_live
from tests.evidence import IS_WHOLE
from tests.storage.rclone import needs_rclone, running_rclone
from tests.storage.swift import needs_swift, why_not
from tests.storage.test_crash import StoreProcess
from tests.zygote import share
from wire.address import split_address
from wire.serve import Limits, Server

NO_FEED = b'<?xml version="1.0"?><ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>'
MODEL = "acme/anywhere"
QUESTION = "What is the capital of France?"


@contextmanager
def without_feed(address):
    """The store at `address` as any other S3 looks: asked for our feed, it lists its buckets. Yields its URL."""
    loop, urls, done = asyncio.new_event_loop(), [], threading.Event()
    stop = asyncio.Event()

    async def serve():
        door = S3Door(*split_address(address))

        async def handle(exchange):
            if "nearfield-changes" in exchange.head.query:
                await exchange.respond(200, (("content-type", "application/xml"),), NO_FEED)
            else:
                await door.serve(exchange)

        server = await Server.start(handle, "127.0.0.1", 0, limits=Limits(encoded_paths=True))
        urls.append(f"http://127.0.0.1:{server.port}")
        done.set()
        await stop.wait()
        await server.close()
        await door.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert done.wait(60)
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def on(url, credentials, state):
    """The TOML that `up` writes, edited as its user would: another store, its credentials, none of ours."""
    path = fleet.write(
        fleet.FleetPlan(state, regions=("iad",), usual_ports=()),
        pki.ensure(state / "tls", dt.datetime.now(dt.UTC)),
    )
    theirs = f'store = "{url}"\nstore_credentials = "{credentials}"'
    text = re.sub(r'store = "http:.*"', theirs, path.read_text(), count=1)
    text = re.sub(r"\[stores\.iad\]\n(.+\n)+", "", text)
    path.write_text(re.sub(r's3 = ".*"\n', "", text))


def written(theirs, folder):
    """Their one credential, in a file as AWS tools have it."""
    path = folder / "their-credentials"
    keys = f"[default]\naws_access_key_id = {theirs.access_key}\naws_secret_access_key = {theirs.secret}\n"
    secrets.write_private(path, keys.encode())
    return path


def answer_of(up):
    """What the region itself says: where there are two, the other one answers nothing for it."""
    answer = up.openai("iad").chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    return answer.choices[0].message.content


def answer_or_none(up):
    try:
        return answer_of(up)
    except openai.APIStatusError:  # the edge says that the region is not there
        return None


@contextmanager
def embedded(request):
    yield request.getfixturevalue("fragile")


@contextmanager
def somebody_elses(request):
    folder = request.getfixturevalue("tmp_path")
    store = StoreProcess(folder / "theirs")
    try:
        with without_feed(store.endpoint.netloc) as url:
            on(url, folder / "theirs" / "credentials", folder / "state")
            with start(folder / "state") as up:
                yield up
    finally:
        store.stop()


@contextmanager
def openstack_swift(request):
    """It has no If-Match on PUT either, and tells racing creators that each was the first."""
    folder, theirs = request.getfixturevalue("tmp_path"), request.getfixturevalue("swift")
    on(theirs.url, written(theirs, folder), folder / "state")
    with start(folder / "state") as up:
        yield up


# A platform of its own takes half a minute of both cores: where Swift is, which lacks most, the others are evidence.
LESS = pytest.mark.skipif(
    not (IS_WHOLE or why_not()), reason="Swift is here, and lacks more; make evidence asks all stores"
)
STORES = (
    pytest.param(embedded, marks=LESS),
    pytest.param(somebody_elses, marks=LESS),
    pytest.param(openstack_swift, marks=needs_swift),
)
SAID = {
    embedded: "ranges and copies hold",
    somebody_elses: "listed every second",
    openstack_swift: "If-Match on PUT does not hold",
}


@pytest.mark.timeout(300)  # a second system is started, and a model is pushed twice
@pytest.mark.parametrize("store", STORES)
def test_a_model_is_pushed_overwritten_and_removed_on_any_store(store, tmp_path, request):
    """The region is killed on the way, and goes on from what stands in its store."""
    folder = tmp_path / "model"
    shutil.copytree(TINYCHAT, folder)
    with store(request) as up:
        up.nearfield("push", str(folder), MODEL)
        first = wait_live(up, MODEL)
        assert "Paris" in answer_of(up)
        assert SAID[store] in " ".join(up.nearfield("doctor", check=False).stdout.split())

        (folder / "generation_config.json").write_text('{"max_new_tokens": 7}')
        up.nearfield("push", str(folder), MODEL)
        second = wait_live(up, MODEL)
        assert second != first

        os.kill(up.role_pids("region-iad")["region-iad"], signal.SIGKILL)
        assert "Paris" in wait_for(lambda: answer_or_none(up), 60, "an answer after the kill", poll_s=0.3)
        wait_live(
            up, MODEL, revision=second
        )  # by way of the first, where its last step was not yet written down
        up.nearfield("rm", MODEL, "--yes")
        assert up.row("iad", MODEL) is None


@needs_rclone
def test_a_platform_on_an_s3_that_ignores_conditions_does_not_start_and_says_why(tmp_path):
    folder, state = tmp_path / "files", tmp_path / "state"
    folder.mkdir()
    with running_rclone(folder) as theirs:
        on(theirs.url, written(theirs, tmp_path), state)
        share(state)
        command = [sys.executable, "-m", "deploy", "up", "--state", str(state)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=ROOT)
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode != 0
        assert "the store of region iad cannot hold models" in said
        assert "If-None-Match: * replaced an object that was there" in said

        found = {each.name: each for each in examine(state)}["store iad"]
        assert not found.well
        assert "If-None-Match: *" in found.seen
        assert theirs.url in found.fix
