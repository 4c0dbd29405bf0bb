"""The edge from outside: who gets in, where a request goes, and what its answer says."""

import asyncio
import hashlib
import itertools
import json

import pytest

from edge import certificates, hosts
from edge.admission.admit import OPERATORS, USERS
from regions.ask import ASKED
from regions.map.region import Tier
from tests.edge.test_certificates import put
from tests.edge.world import (
    ADMIN,
    BODY,
    ENDED,
    HOP,
    MODEL,
    OTHER,
    POLICY_KEYS,
    STREAM_BODY,
    USER,
    code,
    free_port,
    served,
    streams,
)
from tests.wire.certs import make_certificate
from wire.dial import Pool
from wire.dialect import is_anthropic
from wire.timing import parse_receipt, parse_server_timing

PATHS = [
    "/healthz",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/messages/batches",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/responses/resp_1",
    "/v1/embeddings",
    "/v1/rerank",
    "/tokenize",
    "/v1/models",
    "/v1/models/acme/chat",
    "/nearfield/status",
    "/nearfield/regions/iad/cool",
    "/nearfield/regions/iad/prewarm",
    "/nearfield/keys",
    "/nearfield/keys/0123456789ab",
    "/nearfield/keys/0123456789ab/rotate",
    "/",
    "/rows",
    "/status",
    "/control/cool",
    "/v1",
    "/v1/models/",
    "/nearfield/regions/IAD/cool",
]


async def test_an_answer_comes_from_the_region_and_says_where_the_time_went(world):
    edge = await world()
    unnamed = []
    for _ in range(10):  # a moment in which this process does not run belongs to no phase
        status, headers, body = await edge.ask()
        region = headers["x-nearfield-region"]
        timing = parse_server_timing(headers["server-timing"])
        unnamed.append(timing["edge"] - sum(ms for name, ms in timing.items() if name.startswith("edge.")))

    assert (status, json.loads(body)) == (200, {"from": region})
    assert headers["x-request-id"].startswith("req_")
    assert len(headers["x-request-id"]) == 36
    assert headers["x-nearfield-start"] == "warm"
    assert f"{region} rtt=" in headers["x-nearfield-route"]
    assert {"node", "gateway", "edge", "edge.read", "edge.route", "edge.first_byte", "edge.stream"} <= set(
        timing
    )
    assert min(map(abs, unnamed)) < 0.2
    assert "server" not in headers


async def test_the_region_gets_a_new_head_and_the_exact_bytes(world):
    edge = await world(names=("iad",))
    odd = b'{ "model":"acme\\/chat" ,\r\n"messages":[{"role":"user","content":"\\u00e9"}]}'
    sent = (
        ("x-nearfield-tenant", "evil"),
        ("x-nearfield-key", "evil"),
        ("x-nearfield-attempt", "7"),
        ("x-nearfield-waited", "1"),
        ("x-nearfield-region", "iad"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-request-id", "mine"),
        ("x-nearfield-wait", "3"),
        ("x-nearfield-ask", "other/model 1 1 1"),
        ("cookie", "a=b"),
    )
    _, headers, _ = await edge.ask(body=odd, headers=sent)
    head, body = edge.regions["iad"].requests[-1]

    assert body == odd
    seen = dict(head.headers)
    assert seen.pop("host")
    assert 0 < int(seen.pop("x-nearfield-deadline-ms")) <= 600_000
    assert seen == {
        "authorization": f"Bearer {HOP}",
        "content-type": "application/json",
        "accept": "*/*",
        "x-request-id": headers["x-request-id"],
        "x-nearfield-tenant": "acme",
        "x-nearfield-key": hashlib.sha256(USER.encode()).hexdigest()[:12],
        "x-nearfield-attempt": "0",
        "x-nearfield-wait": "3",
        "x-nearfield-ask": "acme/chat 0 1 0",
        "content-length": str(len(odd)),
    }


async def test_without_a_key_every_route_and_method_is_the_same_401(world):
    edge = await world(names=("iad",))
    bodies: dict[bool, set[tuple[bool, bytes]]] = {False: set(), True: set()}
    for path, at in itertools.product(PATHS, ("", "admin")):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for key in (None, "nf-wrong", HOP):
                sent = b"{}" if method in {"POST", "PUT"} else None
                answer = await edge.raw(method, path, sent, key=key, at=at)
                body = await answer.read()
                if (method, path) == ("GET", "/healthz"):
                    assert answer.head.status == 200
                    continue
                assert answer.head.status == 401, (method, path, key)
                if method != "HEAD":
                    assert code(body) == "invalid_api_key"
                    bodies[is_anthropic(path)].add((key is None, body))
    assert [len(each) for each in bodies.values()] == [2, 2]  # one for a missing key, one for a wrong one
    assert edge.regions["iad"].requests == []
    assert edge.regions["iad"].orders == []


async def test_what_no_route_names_is_denied_with_a_key_too(world):
    edge = await world(names=("iad",))
    for path, (at, routes) in itertools.product(PATHS, (("", USERS), ("admin", OPERATORS))):
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            named = any(route.method == method and route.path.fullmatch(path) for route in routes.rows)
            sent = b"" if method in {"POST", "PUT"} else None
            answer = await edge.raw(method, path, sent, key=ADMIN, at=at)
            await answer.read()
            assert named or answer.head.status in {404, 405}, (method, path)


async def refused_everywhere(edge, key):
    """Every status that the key gets on every path by every method of both listeners, /healthz left out."""
    seen = set()
    for path, at in itertools.product(PATHS, ("", "admin")):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            if path != "/healthz":
                sent = b"{}" if method in {"POST", "PUT"} else None
                answer = await edge.raw(method, path, sent, key=key, at=at)
                await answer.read()
                seen.add(answer.head.status)
    return seen


async def test_an_ended_and_a_revoked_key_open_nothing(world):
    """Each route, each method, both listeners; the revoked one was good a moment before."""
    edge = await world(names=("iad",))
    assert (await edge.ask())[0] == 200
    iad = edge.regions["iad"]
    revoked = hashlib.sha256(USER.encode()).hexdigest()
    iad.keys = {digest: grant for digest, grant in POLICY_KEYS.items() if digest != revoked}
    iad.say_policy()
    async with asyncio.timeout(60):
        while (await edge.ask())[0] == 200:  # noqa: ASYNC110 - the row is on its way
            await asyncio.sleep(0.01)
    num_asked = len(iad.requests)

    assert await refused_everywhere(edge, USER) == {401}
    assert await refused_everywhere(edge, ENDED) == {401}
    assert (len(iad.requests), iad.orders) == (num_asked, [])


async def test_another_tenants_model_is_as_if_it_were_not(world):
    """By every route that can name one; what its key may use is all that it sees."""
    edge = await world(names=("iad",))
    iad = edge.regions["iad"]
    iad.say({MODEL: served(), "other/chat": served()})
    await edge.until(lambda status: "other/chat" in status["regions"]["iad"]["body"]["models"])
    _, _, mine = await edge.get("/v1/models", key=OTHER)
    assert [each["id"] for each in json.loads(mine)["data"]] == ["other/chat"]
    for path in ASKED:
        refusals = []
        for model in (MODEL, "acme/none"):
            status, _, body = await edge.ask(path, json.dumps({"model": model}).encode(), key=OTHER)
            refusals.append((status, body.replace(model.encode(), b"M")))
        assert refusals[0] == refusals[1], path  # there is no telling which of the two exists
        assert refusals[0][0] in {400, 404}
    status, _, body = await edge.get(f"/v1/models/{MODEL}", key=OTHER)
    assert (status, code(body)) == (404, "model_not_found")
    assert iad.requests == []
    body = json.dumps({"model": "other/chat", "messages": []}).encode()
    assert (await edge.ask(body=body, key=OTHER))[0] == 200


async def test_admin_routes_want_the_admin_scope(world):
    edge = await world(names=("iad",))
    for method, path in (
        ("GET", "/nearfield/status"),
        ("POST", "/nearfield/regions/iad/cool"),
        ("GET", "/nearfield/keys"),
        ("POST", "/nearfield/keys"),
    ):
        answer = await edge.raw(method, path, b"{}" if method == "POST" else None, key=USER)
        assert (answer.head.status, code(await answer.read())) == (403, "insufficient_scope")
    status, _, body = await edge.get("/nearfield/status", key=ADMIN, headers=(("origin", "https://evil"),))
    assert (status, code(body)) == (403, "forbidden")
    assert edge.regions["iad"].orders == []


async def test_status_shows_each_region(world):
    edge = await world(simulated_wan="us-eu-jp")
    status = await edge.status()

    assert (status["edge"], status["simulated_wan"]) == ("test", "us-eu-jp")
    assert set(status["regions"]) == {"iad", "fra"}
    iad = status["regions"]["iad"]
    assert 0 <= iad["heard_s"] < 3
    assert 0 < iad["rtt_ms"] < 500
    assert iad["breaker"] == "closed"
    assert iad["body"]["models"][MODEL]["tier"] == "resident"
    _, headers, _ = await edge.ask()
    assert headers["x-nearfield-route"].endswith("; simulated-wan=us-eu-jp")


async def test_orders_reach_their_region(world):
    edge = await world()
    for verb in ("cool", "prewarm"):
        order = json.dumps({"model": MODEL, "to": "host"}).encode()
        status, headers, body = await edge.ask(f"/nearfield/regions/fra/{verb}", order, key=ADMIN)
        assert (status, json.loads(body)) == (200, {"freed_bytes": 1})
        assert headers["x-nearfield-region"] == "fra"
        assert edge.regions["fra"].orders[-1] == (f"/control/{verb}", {"model": MODEL, "to": "host"})
    status, _, body = await edge.ask("/nearfield/regions/lhr/cool", b"{}", key=ADMIN)
    assert (status, code(body)) == (404, "not_found")
    status, _, _ = await edge.ask("/nearfield/regions/fra/cool", b"x" * 20_000, key=ADMIN)
    assert status == 413
    assert edge.regions["iad"].orders == []


async def test_models_are_listed_from_the_rows(world):
    edge = await world()
    edge.regions["fra"].say(
        {
            MODEL: served(),
            "acme/embed": served(kind="embed", deterministic=True),
            "acme/new": served(revision=""),
        }
    )
    await edge.until(lambda s: "acme/embed" in s["regions"]["fra"]["body"]["models"])
    _, _, body = await edge.get("/v1/models")
    listed = {each["id"]: each for each in json.loads(body)["data"]}

    assert set(listed) == {MODEL, "acme/embed"}
    assert set(listed[MODEL]["nearfield"]["regions"]) == {"iad", "fra"}
    assert listed["acme/embed"]["object"] == "model"
    assert [listed[name]["nearfield"]["deterministic"] for name in (MODEL, "acme/embed")] == [False, True]
    for path in ("/v1/models/acme/embed", "/v1/models/acme%2Fembed", "/v1/models/acme%2fembed"):
        status, _, body = await edge.get(path)
        assert (status, json.loads(body)["id"]) == (200, "acme/embed")
    status, _, body = await edge.get("/v1/models/acme/none")
    assert (status, code(body)) == (404, "model_not_found")
    _, _, body = await edge.get("/v1/models", at="iad")
    assert [each["id"] for each in json.loads(body)["data"]] == [MODEL]


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"{", 400, "bad_request"),
        (b"[]", 400, "bad_request"),
        (b"{}", 400, "bad_request"),
        (b'{"model": 1}', 400, "bad_request"),
        (b'{"model": "a/b", "model": "a/c"}', 400, "bad_request"),
        (b'{"model": "acme/chat", "temperature": NaN}', 400, "bad_request"),
        (b'{"model": "acme/chat", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "bad_request"),
        ('{"model": "acme/chat"}'.encode("utf-16"), 400, "bad_request"),
        (b'{"model": "acme/chat", "x": "\xff"}', 400, "bad_request"),
        (b'{"model": "chat"}', 404, "model_not_found"),
        (b'{"model": "../../etc"}', 404, "model_not_found"),
        (b'{"model": "acme/none"}', 404, "model_not_found"),
        (b'{"model": "acme/chat", "x": "' + b"x" * 2**20 + b'"}', 413, "body_too_large"),
    ],
)
async def test_bad_asks_never_reach_a_region(world, body, status, expected):
    edge = await world(names=("iad",))
    told, headers, answer = await edge.ask(body=body)

    assert (told, code(answer)) == (status, expected)
    assert headers["x-request-id"].startswith("req_")
    assert edge.regions["iad"].requests == []


async def test_a_model_that_is_not_live_says_why(world):
    edge = await world(names=("iad",))
    from regions.map.region import ModelFault, RolloutState

    fault = ModelFault("bad_header", "The header lies.", "Push it again.")
    edge.regions["iad"].say(
        {
            "acme/soon": served(state=RolloutState.WARMING),
            "acme/bad": served(state=RolloutState.FAILED, revision="", error=fault),
        }
    )
    await edge.until(lambda s: "acme/soon" in s["regions"]["iad"]["body"]["models"])
    status, headers, body = await edge.ask(body=b'{"model": "acme/soon"}')
    assert (status, code(body), headers["retry-after"]) == (503, "model_not_ready", "2")
    status, _, body = await edge.ask(body=b'{"model": "acme/bad"}')
    assert (status, code(body)) == (404, "model_not_found")
    assert "The header lies. Push it again." in json.loads(body)["error"]["message"]


async def test_a_key_that_asks_too_often_waits(world):
    edge = await world(names=("iad",), wait=False, rate_per_s=0.02, burst=3.0)
    for _ in range(1000):  # the policy comes within moments
        status, _, _ = await edge.ask()
        if status == 200:
            break
        await asyncio.sleep(0.05)
    told = [await edge.ask() for _ in range(4)]

    assert [status for status, _, _ in told][:2] == [200, 200]
    status, headers, body = told[-1]
    assert (status, code(body), json.loads(body)["error"]["type"]) == (
        429,
        "rate_limit_exceeded",
        "requests",
    )
    assert 30 <= int(headers["retry-after"]) <= 50  # less what these requests took


async def test_a_region_has_its_own_address(world):
    edge = await world()
    for name in ("iad", "fra"):
        _, headers, body = await edge.ask(at=name)
        assert headers["x-nearfield-region"] == name
        assert json.loads(body) == {"from": name}
    await edge.regions["fra"].kill()
    status, headers, body = await edge.ask(at="fra")
    assert (status, code(body)) == (503, "region_unavailable")
    assert "x-nearfield-region" not in headers
    edge.regions["iad"].say({})
    await edge.until(lambda s: not s["regions"]["iad"]["body"]["models"])
    status, _, body = await edge.ask(at="iad")
    assert (status, code(body)) == (404, "model_not_found")


async def test_a_far_warm_region_answers_and_the_near_one_is_woken(world):
    edge = await world()
    cold = served(tier=Tier.REGION, bytes=10**10)
    edge.regions["iad"].say({MODEL: cold})
    await edge.until(lambda s: s["regions"]["iad"]["body"]["models"][MODEL]["tier"] == "region")
    edge.regions["fra"].say({MODEL: served(running=4, waiting=4, slots=4, step_ms=20.0)})
    await edge.until(lambda s: s["regions"]["fra"]["body"]["models"][MODEL]["running"] == 4)
    for _ in range(3):
        _, headers, _ = await edge.ask()
        assert headers["x-nearfield-region"] == "fra"
    async with asyncio.timeout(60):
        while not edge.regions["iad"].orders:  # noqa: ASYNC110 - the far end of a connection
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # and no more than one

    assert edge.regions["iad"].orders == [("/control/prewarm", {"model": MODEL})]


async def test_streams_pass_with_a_receipt_of_each_hop(world):
    edge = await world(names=("iad",))
    parts = [
        b'data: {"a":1}\n\n',
        b"data: [DONE]\n\n",
        b': nearfield {"hop":"node"}\n\n: nearfield {"hop":"gateway"}\n\n',
    ]
    edge.regions["iad"].script = streams(*parts)
    status, headers, body = await edge.ask("/v1/completions", STREAM_BODY)

    assert status == 200
    assert headers["content-type"] == "text/event-stream"
    assert headers["x-nearfield-region"] == "iad"
    *lines, last = body.decode().rstrip("\n").split("\n\n")
    assert lines == [
        'data: {"a":1}',
        "data: [DONE]",
        ': nearfield {"hop":"node"}',
        ': nearfield {"hop":"gateway"}',
    ]
    receipt = parse_receipt(last)
    assert (receipt["hop"], receipt["region"], receipt["request_id"]) == (
        "edge",
        "iad",
        headers["x-request-id"],
    )
    assert sum(receipt["phases"].values()) == pytest.approx(receipt["total_ms"], abs=0.5)
    assert receipt["replayed"] == []


async def test_events_are_passed_on_as_they_come(world):
    edge = await world(names=("iad",))
    edge.regions["iad"].script = streams(b"data: 1\n\n", 60.0, b"data: 2\n\n")
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with await edge.raw("POST", "/v1/completions", STREAM_BODY) as answer:
        assert await answer.next() == b"data: 1\n\n"
        assert loop.time() - began < 30


async def test_large_answers_stream(world):
    edge = await world(names=("iad",))
    large = b"[" + b"1" * (3 * 2**20) + b"]"

    async def script(exchange, region):
        await exchange.read_body(2**20)
        await exchange.start(200, (("content-type", "application/json"),), len(large))
        await exchange.write(large)
        await exchange.finish()

    edge.regions["iad"].script = script
    status, headers, body = await edge.ask("/v1/embeddings", b'{"model": "acme/chat", "input": "a"}')

    assert (status, body) == (200, large)
    assert "edge" in parse_server_timing(headers["server-timing"])


async def test_healthz_needs_no_key_and_says_nothing(world):
    edge = await world(names=("iad",))
    status, headers, body = await edge.get("/healthz", key=None)

    assert (status, json.loads(body)) == (200, {"status": "ok"})
    assert set(headers) == {"content-type", "content-length", "date", "x-request-id"}


async def test_a_body_slightly_below_the_limit_passes(world):
    edge = await world(names=("iad",))
    body = BODY[:-1] + b', "x": "' + b"x" * (2**20 - len(BODY) - 9) + b'"}'
    assert len(body) == 2**20
    status, _, _ = await edge.ask(body=body)

    assert status == 200
    assert edge.regions["iad"].requests[-1][1] == body


async def test_an_address_in_use_is_an_os_error(world, monkeypatch):
    edge = await world(names=("iad",))
    taken = ("127.0.0.1", edge.pools[""].port)
    edge._changes["s3"] = taken
    edge._stop_before = edge._stop, edge._task
    with pytest.raises(OSError, match="in use"):
        await edge._start_edge()
    edge._stop, edge._task = edge._stop_before


async def test_an_answer_on_the_anycast_address_names_the_pop_and_its_own_address(world):
    """So that a stream can be asked for where no drain breaks it; on the POP's own address nothing is to be said."""
    at = free_port()
    edge = await world(names=("iad",), anycast=("127.0.0.1", at), unicast="fra.api.example:443")
    edge.pools["anycast"] = Pool("127.0.0.1", at, tls=edge._tls)
    for ask, status in ((edge.get("/healthz", at="anycast"), 200), (edge.ask(at="anycast"), 200)):
        assert (found := await ask)[0] == status
        assert found[1]["alt-svc"] == 'http%2F1.1="fra.api.example:443"; ma=60'
        assert found[1]["x-nearfield-pop"] == "test"
    _, refused, _ = await edge.ask(at="anycast", key="wrong")
    _, own, _ = await edge.get("/healthz")

    assert refused["alt-svc"]
    assert "alt-svc" not in own
    assert own["x-nearfield-pop"] == "test"


async def test_keys_are_the_home_regions_work(world):
    """Whatever the operator asks of keys goes home as one order, with the id of the path."""
    edge = await world()
    order = {"tenant": "acme", "scopes": ["infer"]}
    asked = (
        ("GET", "/nearfield/keys", None, ("/control/keys/list", {})),
        ("POST", "/nearfield/keys", order, ("/control/keys/make", order)),
        (
            "POST",
            "/nearfield/keys/0123456789ab/rotate",
            {"overlap_s": 5, "id": "forged"},
            ("/control/keys/rotate", {"overlap_s": 5, "id": "0123456789ab"}),
        ),
        ("DELETE", "/nearfield/keys/0123456789ab", None, ("/control/keys/revoke", {"id": "0123456789ab"})),
    )
    for method, path, body, wanted in asked:
        sent = None if body is None else json.dumps(body).encode()
        answer = await edge.raw(method, path, sent, key=ADMIN)
        await answer.read()
        assert (answer.head.status, edge.regions["iad"].orders[-1]) == (200, wanted)
    for bad in (b"[]", b"{", b"x"):
        status, _, body = await edge.ask("/nearfield/keys", bad, key=ADMIN)
        assert (status, code(body)) == (400, "bad_request")
    assert edge.regions["fra"].orders == []


async def status_of(edge, host):
    """What a health check that says `host` is told."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", edge.pools[""].port, ssl=edge.tls, server_hostname="localhost"
    )
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())
    line = await asyncio.wait_for(reader.readline(), 60)
    writer.transport.abort()
    return int(line.split(b" ")[1])


async def test_with_a_list_of_hosts_no_other_is_answered_for(world):
    edge = await world(names=("iad",), served_hosts=frozenset({"API.example"}))
    for host, status in (
        ("api.example:1", 200),
        ("other.example", 400),
        ("127.0.0.1", 200),
        ("localhost", 400),
    ):
        assert (await status_of(edge, host), host) == (status, host)
    assert (await edge.get("/nearfield/status", key=ADMIN))[0] == 200, "operators come by any name"


async def test_without_a_list_an_edge_answers_for_what_its_certificates_cover(world, tmp_path, monkeypatch):
    monkeypatch.setattr(certificates, "RELOAD_S", 0.01)
    folder = tmp_path / "certificates"
    folder.mkdir()
    edge = await world(names=("iad",), certificates=folder)
    for host in ("localhost", "LOCALHOST:8443", "127.0.0.1", "192.0.2.7:443", "[::1]:8443"):
        assert (await status_of(edge, host), host) == (200, host)
    for host in ("rebound.example", "one.apps.example", "localhost.example", "1.2.3"):
        assert (await status_of(edge, host), host) == (400, host)
    put(folder, "_.apps.example", "*.apps.example")
    async with asyncio.timeout(60):
        while await status_of(edge, "one.apps.example") != 200:  # noqa: ASYNC110 - it looks by itself
            await asyncio.sleep(0.01)
    assert await status_of(edge, "one.two.apps.example") == 400
    assert (await edge.get("/nearfield/status", key=ADMIN))[0] == 200


@pytest.mark.parametrize(
    "changes", [{"served_hosts": frozenset({"*"})}, {"served_hosts": frozenset({"x", "*"})}]
)
async def test_an_edge_may_answer_for_any_host(world, changes):
    assert await status_of(await world(names=("iad",), **changes), "customer.example") == 200


def test_where_no_certificate_names_a_host_every_one_is_served(tmp_path):
    """Or where TLS ends before the edge."""
    chain, key, _ = make_certificate(tmp_path, ())
    nameless = certificates.Certificates(certificates.Pair(chain, key))
    assert "any.example" in hosts.served((), nameless, "0.0.0.0")
    assert hosts.served((), None, "0.0.0.0") is None
