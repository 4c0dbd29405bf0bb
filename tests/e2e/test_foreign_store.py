"""`store = "http://..."`: the platform on an S3 of somebody else, which knows neither our keys nor our feed."""

import asyncio
import datetime as dt
import re
import threading
from contextlib import contextmanager

from deploy import fleet, pki
from edge.s3 import S3Door
from tests.e2e.platform import CHAT, TINYCHAT, start, wait_live
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


def on(url, credentials, state):
    """The TOML that `up` writes, edited as its user would: another store, its credentials, none of ours."""
    path = fleet.write(
        fleet.FleetPlan(state, regions=("iad",)), pki.ensure(state / "tls", dt.datetime.now(dt.UTC))
    )
    text = re.sub(
        r'store = "http:.*"', f'store = "{url}"\nstore_credentials = "{credentials}"', path.read_text()
    )
    text = re.sub(r"\[stores\.iad\]\n(.+\n)+", "", text)
    path.write_text(re.sub(r's3 = ".*"\n', "", text))


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
                answer = up.openai().chat.completions.create(
                    model=CHAT, messages=[{"role": "user", "content": QUESTION}], temperature=0
                )
                assert "Paris" in answer.choices[0].message.content
                assert "store iad" in up.nearfield("doctor", check=False).stdout
    finally:
        store.stop()
