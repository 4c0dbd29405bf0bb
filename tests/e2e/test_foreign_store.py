"""`store = "http://..."`: the platform on an S3 of somebody else, which knows neither our keys nor our feed."""

import asyncio
import datetime as dt
import re
import shutil
import threading
from contextlib import contextmanager

from deploy import fleet, pki, secrets
from edge.s3 import S3Door
from tests.e2e.platform import CHAT, TINYCHAT, start, wait_live
from tests.storage.swift import needs_swift, running_swift
from tests.storage.test_crash import StoreProcess
from wire.dial import split_address
from wire.serve import Limits, Server

NO_FEED = b'<?xml version="1.0"?><ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>'
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
        assert done.wait(10)
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def on(url, credentials, state, regions=("iad",)):
    """The TOML that `up` writes, edited as its user would: the home has another store, its credentials, none of ours."""
    path = fleet.write(
        fleet.FleetPlan(state, regions=regions), pki.ensure(state / "tls", dt.datetime.now(dt.UTC))
    )
    theirs = f'store = "{url}"\nstore_credentials = "{credentials}"'
    text = re.sub(r'store = "http:.*"', theirs, path.read_text(), count=1)
    text = re.sub(r"\[stores\.iad\]\n(.+\n)+", "", text)
    path.write_text(re.sub(r's3 = ".*"\n', "", text))


def answer_of(up, region=None):
    answer = up.openai(region).chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    return answer.choices[0].message.content


def test_a_model_is_pushed_and_served_on_somebody_elses_s3(tmp_path):
    store = StoreProcess(tmp_path / "theirs")
    try:
        with without_feed(store.endpoint.netloc) as url:
            on(url, tmp_path / "theirs" / "credentials", tmp_path / "state")
            with start(tmp_path / "state") as up:
                assert up.credentials.s3_url == url
                assert up.role_pids().keys() == {"node-iad-0", "region-iad", "edge-local"}
                up.nearfield("push", str(TINYCHAT), CHAT)
                wait_live(up, CHAT)
                assert "Paris" in answer_of(up)
                assert "store iad" in up.nearfield("doctor", check=False).stdout
    finally:
        store.stop()


@needs_swift
def test_a_model_is_pushed_overwritten_and_removed_on_openstack_swift(tmp_path):
    """The home on Swift, which has no If-Match on PUT and no feed, another region on the embedded store."""
    state, folder = tmp_path / "state", tmp_path / "model"
    shutil.copytree(TINYCHAT, folder)
    with running_swift(tmp_path / "swift") as theirs:
        keys = f"[default]\naws_access_key_id = {theirs.access_key}\naws_secret_access_key = {theirs.secret}\n"
        secrets.write_private(tmp_path / "swift-credentials", keys.encode())
        on(theirs.url, tmp_path / "swift-credentials", state, ("iad", "fra"))
        with start(state) as up:
            up.nearfield("push", str(folder), CHAT)
            first = wait_live(up, CHAT)
            assert "Paris" in answer_of(up, "iad")
            assert "Paris" in answer_of(up, "fra")
            words = up.nearfield("doctor", check=False).stdout
            assert "numbered objects" in " ".join(words.split())

            (folder / "generation_config.json").write_text('{"max_new_tokens": 7}')
            up.nearfield("push", str(folder), CHAT)
            second = wait_live(up, CHAT)
            assert second != first
        with start(state) as up:
            assert wait_live(up, CHAT) == second
            assert "Paris" in answer_of(up, "iad")
            up.nearfield("rm", CHAT, "--yes")
            assert up.row("iad", CHAT) is None
