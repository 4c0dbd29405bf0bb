"""The S3 door: what was signed arrives as it was signed, and bodies are never held."""

import asyncio
from types import SimpleNamespace

import pytest

from storage.client.sdk import Endpoint, sign
from tests.storage.far import Pair
from tests.storage.stores import ROOT_KEY, TENANT
from tests.wire.test_serve import serving
from wire.http.limits import Limits

LIMITS = Limits(target_bytes=8192, encoded_paths=True)


@pytest.fixture
async def store():
    """A scripted store: `store.script`, `store.seen`."""

    store = SimpleNamespace(seen=[], script=None)

    async def handler(exchange):
        store.seen.append(exchange.head)
        await store.script(exchange)

    async with serving(handler, limits=LIMITS) as server:
        store.port, store.server = server.port, server
        yield store


@pytest.fixture
async def door(world, store):
    edge = await world(names=("iad",), s3_upstream=f"127.0.0.1:{store.port}")
    return edge.pools["s3"]


async def echo(exchange):
    body = await exchange.read_body(2**26)
    await exchange.respond(
        200, (("etag", '"x"'), ("x-amz-request-id", "1"), ("server", "store/1")), body[::-1]
    )


async def test_target_host_and_headers_are_exact(door, store):
    store.script = echo
    target = "/models/acme%2Fm/a%20b/%E2%82%AC//../c%00?list-type=2&prefix=%2F&X-Amz-Signature=abc%3D"
    sent = (
        ("host", "s3.example:9000"),
        ("authorization", "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-amz-date, Signature=c"),
        ("x-amz-date", "20260101T000000Z"),
        ("x-amz-meta-a_b", "c  d"),
        ("accept-encoding", "identity"),
        ("content-md5", "abc=="),
    )
    answer = await door.request("PUT", target, sent, b"hello")

    assert (answer.head.status, await answer.read()) == (200, b"olleh")
    assert dict(answer.head.headers).keys() == {"etag", "x-amz-request-id", "content-length", "date"}
    [head] = store.seen
    assert (head.method, head.target) == ("PUT", target)
    assert head.headers == (*sent, ("content-length", "5"))


async def test_what_only_a_hop_may_say_does_not_pass(door, store):
    store.script = echo
    spoofed = ("x-nearfield-tenant", "x-forwarded-for", "x-forwarded-host", "x-tenant-id")
    hop = (("connection", "close, x-once"), ("x-once", "1"), ("te", "trailers"), ("keep-alive", "timeout=5"))
    answer = await door.request("GET", "/b", (*((name, "evil") for name in spoofed), *hop, ("x-kept", "1")))
    await answer.read()

    assert {name for name, _ in store.seen[0].headers} == {"host", "x-kept"}


async def test_head_ranges_and_statuses_pass(door, store):
    async def script(exchange):
        if exchange.head.method == "HEAD":
            await exchange.start(200, (("etag", '"e"'),), length=12345)
            await exchange.finish()
        elif exchange.head.get("if-none-match"):
            await exchange.respond(304, (("etag", '"e"'),))
        else:
            await exchange.respond(206, (("content-range", "bytes 1-3/9"),), b"abc")

    store.script = script
    head = await door.request("HEAD", "/b/k")
    assert (head.head.status, head.head.content_length, await head.read()) == (200, 12345, b"")
    same = await door.request("GET", "/b/k", (("if-none-match", '"e"'),))
    assert (same.head.status, await same.read()) == (304, b"")
    part = await door.request("GET", "/b/k", (("range", "bytes=1-3"),))
    assert (part.head.status, part.head.get("content-range"), await part.read()) == (
        206,
        "bytes 1-3/9",
        b"abc",
    )


async def test_bodies_stream_both_ways(door, store):
    first = asyncio.Event()

    async def script(exchange):
        size = 0
        async for piece in exchange.body():
            size += len(piece)
            first.set()
        await exchange.start(200, (), length=32 * 2**20)
        for _ in range(32):
            await exchange.write(b"y" * 2**20)
        await exchange.finish()
        assert size == 32 * 2**20

    async def body():
        yield b"x" * 2**20
        await asyncio.wait_for(first.wait(), 30)  # the store has bytes before the client sent all
        for _ in range(31):
            yield b"x" * 2**20

    store.script = script
    answer = await door.request("PUT", "/b/k", body=body(), length=32 * 2**20)
    assert len(await answer.read(2**30)) == 32 * 2**20
    assert store.seen[0].content_length == 32 * 2**20


async def test_chunked_bodies_stay_chunked(door, store):
    async def body():
        yield b"ab"
        yield b"c"

    store.script = echo
    answer = await door.request("PUT", "/b/k", body=body())
    assert await answer.read() == b"cba"
    assert store.seen[0].chunked


async def test_an_empty_put_has_length_zero(door, store):
    store.script = echo
    answer = await door.request("PUT", "/b/k", body=b"")
    await answer.read()

    assert store.seen[0].content_length == 0


async def test_the_hundred_waits_for_the_store(door, store):
    wanted = asyncio.Event()
    pulled = []

    async def script(exchange):
        if exchange.head.path == "/b/no":
            return await exchange.respond(403, (), b"<Error/>")
        await asyncio.sleep(0.05)
        assert not pulled
        wanted.set()
        return await echo(exchange)

    async def body():
        assert wanted.is_set()
        pulled.append(1)
        yield b"abc"

    store.script = script
    answer = await door.request("PUT", "/b/k", body=body(), length=3, expect_continue=True)
    assert await answer.read() == b"cba"
    pulled.clear()
    refused = await door.request("PUT", "/b/no", body=body(), length=3, expect_continue=True)
    assert (refused.head.status, await refused.read(), pulled) == (403, b"<Error/>", [])


async def test_a_dead_store_is_a_503_that_clients_try_again(door, store):
    await store.server.close()
    answer = await door.request("GET", "/b/k")
    body = await answer.read()

    assert (answer.head.status, answer.head.get("content-type")) == (503, "application/xml")
    assert b"<Code>ServiceUnavailable</Code>" in body


async def test_a_store_that_breaks_off_cuts_the_client(door, store):
    from wire.dial import DialError

    async def script(exchange):
        await exchange.start(200, (), length=100)
        await exchange.write(b"abc")
        await asyncio.sleep(0.02)
        exchange.abort()

    store.script = script
    answer = await door.request("GET", "/b/k")
    with pytest.raises(DialError) as error:
        await answer.read()
    assert error.value.phase == "body"


async def test_behind_the_door_may_stand_a_store_far_from_the_buckets_home(world):
    """TLS, the door, a far store, the home: what was signed for the door holds at the end of the way."""
    made = await asyncio.to_thread(Pair)
    try:
        edge = await world(names=("iad",), s3_upstream=f"127.0.0.1:{made.far_store.port}")
        door = edge.pools["s3"]
        at = Endpoint("https://s3.example:9000", TENANT.id, TENANT.secret(ROOT_KEY))
        data = bytes(range(256)) * 8192
        signed = sign(at, "PUT", "/models/acme/k", "")
        put = await door.request("PUT", "/models/acme/k", signed, data)
        assert (put.head.status, await put.read()) == (200, b"")
        for _ in range(2):
            got = await door.request("GET", "/models/acme/k", sign(at, "GET", "/models/acme/k", ""))
            assert (got.head.status, await got.read()) == (200, data)

        heads = [head for head in made.link.seen if head.method == "PUT"]
        assert [head.get("host") for head in heads] == ["s3.example:9000"]
        assert made.link.body_bytes["/models/acme/k"] == len(data)
    finally:
        await asyncio.to_thread(made.close)


async def test_a_client_that_leaves_cancels_the_store(door, store):
    cancelled = asyncio.Event()

    async def script(exchange):
        try:
            await exchange.start(200, ())
            await exchange.write(b"abc")
            await asyncio.sleep(100)
        finally:
            cancelled.set()

    store.script = script
    async with await door.request("GET", "/b/k") as answer:
        await answer.next()
    await asyncio.wait_for(cancelled.wait(), 30)


@pytest.mark.parametrize(
    ("listener", "said"), [("s3", b"<Code>BadRequest</Code>"), ("", b'"code": "bad_request"')]
)
async def test_what_no_handler_sees_is_said_in_the_listeners_own_words(world, store, listener, said):
    """S3 clients read XML alone."""
    edge = await world(names=("iad",), s3_upstream=f"127.0.0.1:{store.port}")
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.pools[listener].port, ssl=edge.tls)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 400")
    assert said in answer
