"""The attacks on a running edge: what it refuses never arrives, and the rest arrives as it was meant."""

import asyncio
import json
import random

import h11

from tests.attack.http import mutate, requests
from tests.attack.http.payloads import payloads
from tests.attack.http.readers import NOT_BELIEVED, Read, Reading, by_gate, meant
from tests.edge.world import BODY, HOP, USER
from tests.evidence import count
from wire.http.limits import Limits

PAYLOADS = payloads()
NUM_PAYLOADS = count(40, len(PAYLOADS))
NUM_MUTATED = count(40, 10_000)
NUM_ASKS = count(40, 10_000)
ANSWER_S = 30.0  # a generous end of waiting: most answers take a millisecond
INFERENCE = Limits(slash_prefixes=("/v1/models/",))


async def answers(reader, methods, *, may_be_more=False) -> list[int]:
    """The status of the answer to each request, in their order, as h11 reads them; fewer once the edge will close."""
    statuses, rest = [], b""
    for method in methods:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        client.send(h11.EndOfMessage())
        if rest:  # no bytes would mean the end of the connection
            client.receive_data(rest)
        event = client.next_event()
        while not isinstance(event, h11.EndOfMessage):
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                if not data and client.their_state is h11.SEND_RESPONSE:
                    return statuses
                client.receive_data(data)
            elif isinstance(event, h11.Response):
                statuses.append(event.status_code)
            event = client.next_event()
        rest = client.trailing_data[0]
        if client.their_state is h11.MUST_CLOSE:
            return statuses
    return (
        statuses if may_be_more else [*statuses, *([-1] if rest else [])]
    )  # an answer that nobody asked for


async def attack(connection, stream: bytes, reading: Reading) -> list[int]:
    """Send the stream; the statuses of its answers, a refusal's too."""
    reader, writer = connection
    methods = [head.method for head in reading.heads[: reading.num_whole]]
    if reading.refusal is not None:
        methods.append(reading.heads[-1].method if reading.is_open else "GET")
    try:
        async with asyncio.timeout(ANSWER_S):
            writer.write(stream)
            # a request that is still open may have been answered: by a handler that needs no body for a no
            statuses = await answers(reader, methods, may_be_more=reading.is_open)
    finally:
        writer.close()
    return statuses


def check_statuses(reading: Reading, statuses: list[int]) -> None:
    """One answer each, and the gate's own refusal where it refuses."""
    assert len(statuses) == reading.num_whole + (reading.refusal is not None)
    if reading.refusal is not None:
        assert statuses[-1] == reading.refusal.status
    assert not [status for status in statuses if status >= 500 and status not in {501, 505}]


async def through_the_s3_door(rig, stream: bytes) -> None:
    reading = by_gate([stream])
    statuses = await attack(await rig.connect(), stream, reading)
    check_statuses(reading, statuses)
    await rig.sentinel()
    # uvicorn itself refuses some targets; what it takes is what was meant
    taken = [
        meant(read)
        for read, status in zip(reading.reads()[: reading.num_whole], statuses, strict=False)
        if status == 200
    ]
    arrived, rig.recorder.reads = rig.recorder.reads, []
    assert [meant(read) for read in arrived] == taken
    assert not [name for read in arrived for name, _ in read.headers if name.startswith(NOT_BELIEVED)]


async def test_payloads_arrive_as_meant_or_not_at_all(rig):
    for name in random.Random(1).sample(sorted(PAYLOADS), NUM_PAYLOADS):
        try:
            await through_the_s3_door(rig, PAYLOADS[name])
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{name}: {PAYLOADS[name]!r}") from error


async def test_mutated_requests_arrive_as_meant_or_not_at_all(rig):
    for seed in range(NUM_MUTATED):
        rng = random.Random(seed)
        stream = mutate.mutated(rng, requests.stream(rng), mutate.REQUESTS)
        try:
            await through_the_s3_door(rig, stream)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"case {seed}: {stream!r}") from error


def ask(rng: random.Random) -> bytes:
    """A request to a model, by length or in chunks, with headers that a region would believe of the edge."""
    spoofed = rng.sample(
        (
            *("X-Nearfield-Tenant: evil", "X-Nearfield-Waited: 1", "X-Forwarded-For: 1.2.3.4"),
            *("X-Tenant-Id: evil", "Cookie: a=b"),
        ),
        2,
    )
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: h", f"Authorization: Bearer {USER}", *spoofed]
    if rng.random() < 0.5:
        lines.append(f"Content-Length: {len(BODY)}")
        body = BODY
    else:
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, BODY[:10], len(BODY) - 10, BODY[10:])
    return "\r\n".join([*lines, "", ""]).encode() + body


HEADERS_OF_THE_EDGE = {
    "host",
    "authorization",
    "content-type",
    "accept",
    "x-request-id",
    "x-nearfield-tenant",
    "x-nearfield-key",
    "x-nearfield-attempt",
    "x-nearfield-ask",
    "x-nearfield-deadline-ms",
    "content-length",
}


async def test_what_reaches_a_region_is_of_our_own_writing(rig):
    """Whatever surrounds an ask, the region gets the body of one that the gate read, under the caller's own tenant."""
    region = rig.edge.regions["iad"]
    num_arrived = 0
    for seed in range(NUM_ASKS):
        rng = random.Random(seed)
        stream = mutate.mutated(rng, ask(rng) + requests.request(rng), mutate.REQUESTS)
        reading = by_gate([stream], INFERENCE)
        region.requests.clear()
        statuses = await attack(await rig.connect(""), stream, reading)
        assert -1 not in statuses
        assert not [status for status in statuses if status >= 500 and status not in {501, 505}]
        bodies = [read.body for read in reading.reads()[: reading.num_whole]]
        for head, body in region.requests:
            assert body in bodies
            assert json.loads(body)["model"] == "acme/chat"
            assert dict(head.headers).keys() <= HEADERS_OF_THE_EDGE
            assert (head.get("x-nearfield-tenant"), head.get("authorization")) == ("acme", f"Bearer {HOP}")
        num_arrived += len(region.requests)
    assert num_arrived > NUM_ASKS / 10, "and many do arrive"


def test_the_rig_would_see_a_smuggled_request():
    """The test of the test: the meaning of a hidden request is another one."""
    hidden = Read(b"GET", b"/hidden", (), b"")
    assert meant(hidden) != meant(hidden._replace(target=b"/"))
