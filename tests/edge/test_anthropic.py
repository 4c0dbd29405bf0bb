"""Under `/v1/messages` every error is Anthropic's, whichever hop says it, and the key may be theirs."""

import json

import pytest

from tests.edge.world import HOP, MODEL, USER, cuts, refuses, streams

MESSAGES = "/v1/messages"
BODY = json.dumps({"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}).encode()
THEIRS = (("x-api-key", USER), ("anthropic-version", "2023-06-01"))


def said(body: bytes) -> tuple[str, str]:
    """(type, code) of an error in Anthropic's shape."""
    value = json.loads(body)
    assert set(value) == {"type", "error"}
    assert value["type"] == "error"
    assert value["error"]["message"]
    return value["error"]["type"], value["error"]["code"]


async def test_a_request_with_their_key_is_served_and_the_key_stays_here(world):
    edge = await world(names=("iad",))
    status, answered, body = await edge.ask(f"{MESSAGES}?beta=true", BODY, key=None, headers=THEIRS)
    head, _ = edge.regions["iad"].requests[-1]

    assert (status, json.loads(body)) == (200, {"from": "iad"})
    assert head.path == MESSAGES
    assert answered["request-id"] == answered["x-request-id"]
    assert head.get("x-api-key") is None
    assert head.get("authorization") == f"Bearer {HOP}"


@pytest.mark.parametrize(
    ("path", "body", "headers", "expected"),
    [
        (MESSAGES, BODY, (), (401, "authentication_error", "invalid_api_key")),
        (MESSAGES, BODY, (("x-api-key", "nf-no"),), (401, "authentication_error", "invalid_api_key")),
        (MESSAGES, b"{", THEIRS, (400, "invalid_request_error", "bad_request")),
        (MESSAGES, b'{"model": "a/none"}', THEIRS, (404, "not_found_error", "model_not_found")),
        (MESSAGES, b" " * (2**20 + 1), THEIRS, (413, "request_too_large", "body_too_large")),
        (f"{MESSAGES}/batches", b"{}", THEIRS, (404, "not_found_error", "not_found")),
    ],
)
async def test_what_the_edge_refuses(world, path, body, headers, expected):
    edge = await world(names=("iad",))
    status, answered, text = await edge.ask(path, body, key=None, headers=headers)

    assert (status, *said(text)) == expected
    assert answered["request-id"] == answered["x-request-id"], "their client reads it there"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (refuses(400, "bad_request"), (400, "invalid_request_error", "bad_request")),
        (refuses(429, "overloaded"), (429, "rate_limit_error", "overloaded")),
        (refuses(503, "model_not_ready"), (503, "overloaded_error", "model_not_ready")),
        (cuts, (503, "overloaded_error", "region_unavailable")),
    ],
)
async def test_what_a_region_refuses(world, script, expected):
    edge = await world(names=("iad",))
    edge.regions["iad"].script = script
    status, _, text = await edge.ask(MESSAGES, BODY, key=None, headers=THEIRS)

    assert (status, *said(text)) == expected


async def test_a_stream_that_breaks_ends_in_their_event(world):
    edge = await world(names=("iad",))
    edge.regions["iad"].script = streams(b'event: ping\ndata: {"type": "ping"}\n\n', then="cut")
    _, _, text = await edge.ask(MESSAGES, BODY, key=None, headers=THEIRS)
    name, data = text.split(b"\n\n")[1].split(b"\n")

    assert name == b"event: error"
    assert said(data.removeprefix(b"data: ")) == ("overloaded_error", "upstream_failed")


async def test_a_stream_that_begins_with_their_error_is_replayed(world):
    edge = await world()
    lost = b'event: error\ndata: {"type": "error", "error": {"type": "x", "message": "m", "code": "worker_lost"}}\n\n'
    for region in edge.regions.values():
        region.script = streams(lost)
    status, headers, text = await edge.ask(MESSAGES, BODY, key=None, headers=THEIRS)

    assert "replayed=" in headers["x-nearfield-route"]
    assert status == 200
    assert b"worker_lost" in text
