"""Under `/v1/messages` every error is Anthropic's, whichever hop says it, and the key may be theirs."""

import datetime as dt
import json

import pytest

from tests.edge.world import HOP, MODEL, OTHER, USER, cuts, refuses, served, streams

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


async def listed(edge, query="", headers=THEIRS):
    status, answered, body = await edge.get(f"/v1/models{query}", key=None, headers=headers)
    assert answered["request-id"] == answered["x-request-id"]
    return status, json.loads(body)


NAMES = ("acme/a", "acme/b", "acme/c")


@pytest.fixture
async def many(world):
    edge = await world(names=("iad",))
    edge.regions["iad"].say({name: served() for name in NAMES})
    await edge.until(lambda s: set(s["regions"]["iad"]["body"]["models"]) == set(NAMES))
    return edge


async def test_models_are_listed_in_their_shape_to_who_says_their_version(many):
    _, all_of_them = await listed(many)
    _, _, ours = await many.get("/v1/models")
    status, _, body = await many.get("/v1/models/acme%2Fb", key=None, headers=THEIRS)
    created = json.loads(ours)["data"][1]["created"]

    assert [each["id"] for each in all_of_them["data"]] == list(NAMES)
    assert (all_of_them["has_more"], all_of_them["first_id"], all_of_them["last_id"]) == (
        False,
        NAMES[0],
        NAMES[2],
    )
    assert json.loads(ours)["object"] == "list"
    assert (status, json.loads(body)) == (200, all_of_them["data"][1])
    assert json.loads(body)["type"] == "model"
    assert dt.datetime.fromisoformat(json.loads(body)["created_at"]).timestamp() == created
    assert json.loads(body)["max_tokens"] == 511


@pytest.mark.parametrize(
    ("query", "names", "has_more"),
    [
        ("?limit=2", NAMES[:2], True),
        ("?limit=2&after_id=acme%2Fb", NAMES[2:], False),
        ("?limit=1&after_id=acme/a", NAMES[1:2], True),
        ("?limit=1&before_id=acme/c", NAMES[1:2], True),
        ("?before_id=acme/b", NAMES[:1], False),
        ("?before_id=acme/a", (), False),
        ("?beta=true", NAMES, False),
    ],
)
async def test_pages_of_models_go_forth_and_back(many, query, names, has_more):
    _, found = await listed(many, query)

    assert tuple(each["id"] for each in found["data"]) == names
    assert found["has_more"] is has_more


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=1001", "?limit=x", "?after_id=acme/none", "?before_id="]
)
async def test_a_page_that_there_is_not_is_refused_by_name(many, query):
    status, found = await listed(many, query)

    assert (status, found["error"]["type"]) == (400, "invalid_request_error")
    assert found["error"]["param"] == query[1:].partition("=")[0]


@pytest.mark.parametrize(
    ("path", "key", "expected"),
    [
        ("/v1/models", "nf-no", (401, "authentication_error", "invalid_api_key")),
        ("/v1/models/acme/none", USER, (404, "not_found_error", "model_not_found")),
        ("/v1/models/acme/a", OTHER, (404, "not_found_error", "model_not_found")),
    ],
)
async def test_models_are_refused_in_their_shape(many, path, key, expected):
    headers = (("x-api-key", key), ("anthropic-version", "2023-06-01"))
    status, answered, text = await many.get(path, key=None, headers=headers)

    assert (status, *said(text)) == expected
    assert answered["request-id"] == answered["x-request-id"]
