"""The pure parts of the edge: admission, buckets, asks, event cuts, setbacks."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.admission.admit import OPERATORS, USERS, Action, Admissions, Route, admit
from edge.admission.rate import Buckets
from edge.relay.setback import of_answer, of_error, of_refusal, retry_headers
from edge.relay.sse import error_code, first_event
from regions.ask import MAX_OBJECTS, Ask, read_ask, said
from regions.map.policy import KeyGrant, PolicyRow
from wire.dial import DialError
from wire.http.http1 import RequestHead
from wire.refused.refusal import Refusal

KEYS = {"infer": "nf-infer", "admin": "nf-admin"}
POLICY = PolicyRow(
    1,
    1,
    {
        hashlib.sha256(key.encode()).hexdigest(): KeyGrant("t-" + scope, frozenset({scope}))
        for scope, key in KEYS.items()
    },
)
EXAMPLES = {
    Action.HEALTH: "/healthz",
    Action.MODELS: "/v1/models",
    Action.MODEL: "/v1/models/a/b",
    Action.STATUS: "/nearfield/status",
    Action.METRICS: "/nearfield/metrics",
    Action.FREEZE: "/nearfield/rows/freeze",
    Action.THAW: "/nearfield/rows/thaw",
    Action.COOL: "/nearfield/regions/iad/cool",
    Action.PREWARM: "/nearfield/regions/iad/prewarm",
    Action.ROTATE_KEY: "/nearfield/keys/0123456789ab/rotate",
    Action.REVOKE_KEY: "/nearfield/keys/0123456789ab",
}


def head(method, path, *, authorization=None, **headers):
    pairs = [("host", "h"), *((name.replace("_", "-"), value) for name, value in headers.items())]
    if authorization is not None:
        pairs.append(("authorization", authorization))
    return RequestHead(method, path, path, "", tuple(pairs), None, False, True, False)


def refused(*args, **kwargs):
    with pytest.raises(Refusal) as refusal:
        admit(*args, **kwargs)
    return refusal.value.status, refusal.value.code


@pytest.mark.parametrize(
    ("routes", "route"),
    [(routes, route) for routes in (USERS, OPERATORS) for route in routes.rows],
    ids=lambda each: f"{each.method} {each.path.pattern}" if isinstance(each, Route) else "",
)
def test_every_route_for_every_key(routes, route):
    path = EXAMPLES.get(route.action, route.path.pattern)
    for scope, key in KEYS.items():
        asked = head(route.method, path, authorization=f"Bearer {key}")
        if route.scope in {None, scope}:
            admission = admit(asked, POLICY, routes)
            assert admission.action is route.action
            if route.scope is not None:
                assert admission.grant.tenant == "t-" + scope
                assert admission.digest == hashlib.sha256(key.encode()).hexdigest()
        else:
            assert refused(asked, POLICY, routes) == (403, "insufficient_scope")
    if route.scope is not None:
        for authorization in (
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer x",
            f"Basic {KEYS['admin']}",
            "Bearer " + "k" * 300,
        ):
            assert refused(head(route.method, path, authorization=authorization), POLICY, routes) == (
                401,
                "invalid_api_key",
            )
        assert refused(head(route.method, path, authorization="Bearer x"), None, routes) == (
            503,
            "region_unavailable",
        )
        assert refused(head(route.method, path), None, routes) == (401, "invalid_api_key")
        served = {each.method for each in routes.rows if each.path.fullmatch(path)}
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"} - served:
            asked = head(method, path, authorization=f"Bearer {KEYS['admin']}")
            assert refused(asked, POLICY, routes) == (405, "method_not_allowed")


def test_a_digest_is_no_key():
    digest = next(iter(POLICY.keys))

    assert refused(head("GET", "/v1/models", authorization=f"Bearer {digest}"), POLICY) == (
        401,
        "invalid_api_key",
    )


def test_the_parts_of_a_path_are_handed_on():
    key = f"Bearer {KEYS['admin']}"

    asked = head("POST", "/nearfield/regions/iad/cool", authorization=key)

    assert admit(asked, POLICY, OPERATORS).values == {"region": "iad"}


def test_neither_listener_knows_a_route_of_the_other():
    """Not even for a key that may do both."""
    both = PolicyRow(1, 1, {hashlib.sha256(b"k").hexdigest(): KeyGrant("t", frozenset({"infer", "admin"}))})
    for routes, others in ((USERS, OPERATORS), (OPERATORS, USERS)):
        for route in others.rows:
            path = EXAMPLES.get(route.action, route.path.pattern)
            if path != "/healthz":
                asked = head(route.method, path, authorization="Bearer k")
                assert refused(asked, both, routes) == (404, "not_found")


def test_a_key_ends_at_its_time():
    """To the second, also for one that was admitted and remembered before."""
    digest = hashlib.sha256(b"k").hexdigest()
    policy = PolicyRow(1, 1, {digest: KeyGrant("t", frozenset({"infer"}), expires_s=1000)})
    asked = head("POST", "/v1/completions", authorization="Bearer k")

    assert admit(asked, policy, wall_s=999.9).digest == digest
    with pytest.raises(Refusal) as refusal:
        admit(asked, policy, wall_s=1000.0)
    assert (refusal.value.status, refusal.value.code) == (401, "invalid_api_key")


def test_a_remembered_key_ends_too(monkeypatch):
    """The memory is of one policy, and time goes on under it."""
    policy = PolicyRow(
        1, 1, {hashlib.sha256(b"k").hexdigest(): KeyGrant("t", frozenset({"infer"}), expires_s=1000)}
    )
    admissions, asked = Admissions(), head("POST", "/v1/completions", authorization="Bearer k")
    monkeypatch.setattr("edge.admission.admit.time.time", lambda: 999.0)
    for _ in range(2):
        assert admissions.admit(asked, policy).grant.tenant == "t"
    monkeypatch.setattr("edge.admission.admit.time.time", lambda: 1000.0)
    with pytest.raises(Refusal, match="ended"):
        admissions.admit(asked, policy)


def test_a_key_may_come_as_anthropics_clients_send_it():
    """`x-api-key` is the same key; where there is an Authorization, that one alone decides."""
    admissions = Admissions()
    for _ in range(2):  # the second time from memory
        for ask in (admit, admissions.admit):
            shown = head("POST", "/v1/messages", x_api_key=KEYS["infer"], anthropic_version="2023-06-01")
            assert ask(shown, POLICY).grant.tenant == "t-infer"
            for wrong in ("", "x", f"Bearer {KEYS['infer']}", "k" * 300):
                assert refused_by(ask, head("POST", "/v1/messages", x_api_key=wrong)) == 401
            both = head("POST", "/v1/messages", authorization="Bearer x", x_api_key=KEYS["infer"])
            assert refused_by(ask, both) == 401
            alike = head("POST", "/v1/messages", authorization=f"\n{KEYS['infer']}")
            assert refused_by(ask, alike) == 401


def refused_by(ask, asked):
    with pytest.raises(Refusal) as refusal:
        ask(asked, POLICY)
    return refusal.value.status


def test_compressed_bodies_are_refused():
    asked = head("POST", "/v1/completions", authorization=f"Bearer {KEYS['infer']}", content_encoding="gzip")

    assert refused(asked, POLICY) == (415, "bad_request")


def test_buckets_refill_and_are_bounded():
    buckets = Buckets(rate_per_s=2.0, burst=3.0, max_keys=2)

    assert [buckets.take("a", 0.0) for _ in range(4)] == [None, None, None, 0.5]
    assert buckets.take("a", 0.25) == 0.25
    assert buckets.take("a", 0.5) is None
    assert buckets.take("b", 0.5) is None
    assert [buckets.take("a", 100.0) for _ in range(4)][-1] == 0.5  # never more than the burst
    buckets.take("c", 100.0)
    assert len(buckets) == 2


def test_an_ask_is_read_strictly():
    ask = read_ask("/v1/chat/completions", b'{"model": "a/b", "stream": true, "messages": []}')
    assert (ask.model, ask.stream, ask.prompt_tokens) == ("a/b", True, 1)
    assert not read_ask("/v1/embeddings", b'{"model": "a/b", "stream": true}').stream
    assert not read_ask("/v1/completions", b'{"model": "a/b", "stream": "true"}').stream


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b'{"model": "a/b", "x": {"y": 1, "y": 2}}', "a key is given twice"),
        (b'{"model": "a/b", "x": -Infinity}', "-Infinity is not a JSON number"),
        (b'\xef\xbb\xbf{"model": "a/b"}', "it is not JSON in UTF-8"),
        (b'{"model": "a/b"} {}', "something follows the object"),
        (b'{"model": "a/b", "x": [' + b"{}," * MAX_OBJECTS + b"{}]}", "objects (or braces); send fewer"),
        (b'{"model": "a/b", "x": ' + b"1" * 5000 + b"}", "a number has too many digits"),
        (b'{"model": "a/b", "x": ' + b"[" * 100_000, "it is nested too deeply"),
        (b"\xff", "it is not JSON in UTF-8"),
        (b"", "it is not JSON in UTF-8"),
        (b'{"model": "nope"}', "a model is named org/name or org/name@preview: org and name of letters"),
    ],
)
def test_what_is_no_ask_is_told_why(body, cause):
    """In words: of a name that is none it was our pattern, of deep nesting that it is not JSON."""
    with pytest.raises(Refusal) as refusal:
        read_ask("/v1/completions", body)

    assert refusal.value.code in {"bad_request", "model_not_found"}
    assert cause in refusal.value.message


@pytest.mark.parametrize(
    ("path", "document", "prompt_tokens"),
    [
        ("/v1/completions", {"prompt": "x" * 400}, 100),
        ("/v1/completions", {"prompt": [1] * 50}, 50),
        ("/v1/embeddings", {"input": ["x" * 40, "y" * 40]}, 20),
        ("/v1/embeddings", {"input": [[1, 2], [3]]}, 3),
        ("/v1/responses", {"input": "x" * 40}, 10),
        ("/v1/responses", {"input": [{"role": "user", "content": "x" * 40}, {"content": "y" * 8}]}, 12),
        ("/v1/rerank", {"query": "q", "documents": ["x" * 40, {"text": "y" * 8}]}, 12),
        ("/tokenize", {"prompt": "x" * 40}, 10),
        ("/tokenize", {"messages": [{"role": "user", "content": "x" * 40}]}, 10),
        ("/detokenize", {"tokens": [1, 2, 3]}, 3),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {"role": "user", "content": "x" * 40},
                    {"content": [{"type": "text", "text": "y" * 8}]},
                ]
            },
            12,
        ),
        ("/v1/chat/completions", {"messages": [1, {"content": None}, {"content": {"text": 1}}]}, 1),
        ("/v1/completions", {"prompt": None}, 1),
        ("/v1/completions", {}, 1),
    ],
)
def test_prompts_are_estimated(path, document, prompt_tokens):
    body = json.dumps({"model": "a/b", **document}).encode()

    assert read_ask(path, body).prompt_tokens == prompt_tokens


@given(st.booleans(), st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_an_ask_is_said_as_it_was_read(stream, about, least):
    ask = Ask("a/b", stream, about, least)

    assert said(ask.header()) == ask


@pytest.mark.parametrize(
    ("path", "document", "least"),
    [
        ("/v1/completions", {"prompt": "x" * 257}, 2),
        ("/v1/completions", {"prompt": [[1] * 7, [2]]}, 7),
        ("/v1/embeddings", {"input": ["x" * 128, "y" * 400, 5]}, 3),
        (
            "/v1/chat/completions",
            {"messages": [{"content": "x" * 200}, {"content": "y" * 56}, {"content": 3}]},
            2,
        ),
        ("/v1/completions", {}, 0),
    ],
)
def test_prompts_are_bounded_from_below(path, document, least):
    assert read_ask(path, json.dumps({"model": "a/b", **document}).encode()).least_tokens == least


def test_a_deep_prompt_is_no_fault_of_ours():
    body = b'{"model": "a/b", "prompt": ' + b"[" * 900 + b"]" * 900 + b"}"

    assert read_ask("/v1/completions", body).prompt_tokens == 1


def test_first_events():
    assert first_event(b": a\n\n: b\n\n") is None
    assert first_event(b'\n: a\n\ndata: {"x":1}\n\ndata: 2\n\n') == b'{"x":1}'
    assert first_event(b"event: x\ndata: 1\n\n") == b"1"
    assert error_code(b'{"type": "error", "error": {"code": "worker_lost"}}') == "worker_lost"
    assert error_code(b'{"error": {"code": "worker_lost"}}') == "worker_lost"
    deep = b'{"error": ' + b"[" * 20_000
    for data in (b'{"error": 1}', b'{"error"', b'{"x": {"error": 1}}', b"[DONE]", deep):
        assert error_code(data) is None


@pytest.mark.parametrize(
    ("error", "status", "code", "failed"),
    [
        (DialError("connect", 0, "x"), 503, "region_unavailable", True),
        (DialError("connect", 0, "x", timed_out=True), 503, "region_unavailable", True),
        (DialError("head", 0, "x"), 503, "region_unavailable", True),
        (DialError("head", 9, "x"), 502, "upstream_failed", True),
        (DialError("body", 0, "x"), 502, "upstream_failed", True),
        (DialError("head", 0, "x", timed_out=True), 504, "deadline_exceeded", False),
    ],
)
def test_dial_errors_become_statuses(error, status, code, failed):
    back = of_error("iad", error, is_late=True)

    assert (back.status, back.failed, back.answered) == (status, failed, False)
    assert f'"code": "{code}"'.encode() in back.body


def test_overload_is_no_sickness():
    for code, failed in (
        ("overloaded", False),
        ("model_not_ready", False),
        ("worker_lost", True),
        ("x", True),
    ):
        body = b'{"error": {"code": "%b"}}' % code.encode()
        assert of_answer("iad", 503, (), body).failed is failed


@pytest.mark.parametrize("page", [b"<html>", b"[" * 16_384, b'{"error": []}'])
def test_a_page_instead_of_an_error_is_told_in_our_shape(page):
    back = of_answer("iad", 502, (("content-type", "text/html"), ("x", "y"), ("retry-after", "3")), page)

    assert dict(back.headers) == {"content-type": "application/json", "retry-after": "3"}
    assert json.loads(back.body)["error"]["code"] == "upstream_failed"
    assert (back.wait_s, back.failed) == (3.0, True)


def test_the_client_hears_the_least_wait_of_those_that_said_one():
    refusal = Refusal(503, "region_unavailable", "gone", retry_after_s=1.0)
    said = [
        of_answer(name, 429, (("retry-after", wait),), b"") for name, wait in (("iad", "9"), ("fra", "5"))
    ]
    gone = of_refusal("nrt", "head", refusal)

    assert dict(retry_headers(said[0], said))["retry-after"] == "5"
    assert dict(retry_headers(said[0], [gone, said[0]]))["retry-after"] == "9"
    assert dict(retry_headers(gone, [*said, gone]))["retry-after"] == "1"
    assert [
        of_answer("iad", 503, (("retry-after", odd),), b"").wait_s for odd in ("soon", "-1", "1e9", "")
    ] == [None] * 4
