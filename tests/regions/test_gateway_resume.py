"""A stream that another region began is gone on with by its own revision, or refused so that another is asked."""

import json

from regions.ask import Ask
from regions.map.headers import ASK, RESUME, REVISION
from tests.regions.fake_node import CHAT, TOKEN, region

BODY = b'{"nearfield_resume": {"tokens": [1]}, "model": "acme/m", "stream": true}'


async def go_on(r, revision_id, asked="go"):
    headers = (("authorization", f"Bearer {TOKEN}"), (ASK, Ask("acme/m", True, 1, 1).header()))
    headers += ((RESUME, asked), (REVISION, revision_id))
    answer = await r.pool.request("POST", CHAT, headers, BODY)
    return answer.head.status, await answer.read()


async def test_the_node_hears_what_the_edge_asked_and_gets_its_very_bytes():
    async with region() as r:
        await r.resident()
        status, _ = await go_on(r, r.revision.id)
        head, body = r.fakes[0].requests[0]

    assert (status, head.get(RESUME), body) == (200, "go", BODY)


async def test_another_revision_does_not_go_on():
    async with region() as r:
        await r.resident()
        status, body = await go_on(r, "b" * 64)

    assert (status, json.loads(body)["error"]["code"]) == (409, "not_resident")
    assert r.fakes[0].requests == []


async def test_a_stream_that_begins_is_any_revisions():
    async with region() as r:
        await r.resident()
        assert (await go_on(r, "b" * 64, asked="watch"))[0] == 200
