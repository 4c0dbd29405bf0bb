"""The console from outside, without a browser: who gets in, what it serves, and what it never says."""

import asyncio
import hashlib
import json
import re

import pytest

from edge.console.files import FOLDER
from edge.console.shelf import MAX_KEPT, Shelf
from tests.edge.console.client import Visitor
from tests.edge.world import (
    ADMIN,
    ENDED,
    MODEL,
    OTHER,
    POLICY_KEYS,
    STREAM_BODY,
    USER,
    code,
    served,
    streams,
    whole,
)
from wire.refused.refusal import Refusal

API = (
    "/console/session",
    "/console/events",
    "/console/reports",
    "/console/api/nearfield/status",
    "/console/api/nearfield/keys",
)
REPORT = {
    "model": MODEL,
    "revision": "a" * 64,
    "made_at": "2026-11-26",
    "rows": [{"region": "iad", "start": "warm", "p50_ms": 12.5}],
}
REPORT |= {"html": "<!doctype html><title>r</title><script>alert(1)</script>"}


async def test_its_files_are_served_with_types_tags_and_a_strict_policy(world):
    edge = await world()
    for path in sorted(FOLDER.iterdir()):
        status, headers, body = await edge.get(f"/console/{path.name}", at="admin", key=None)
        assert (status, body) == (200, path.read_bytes())
        assert headers["content-type"].split(";")[0] in {
            "text/html",
            "text/css",
            "text/javascript",
            "image/svg+xml",
        }
        assert headers["x-content-type-options"] == "nosniff"
        again = (("if-none-match", f'"0", {headers["etag"]}'),)
        assert (await edge.get(f"/console/{path.name}", at="admin", key=None, headers=again))[::2] == (
            304,
            b"",
        )
    status, headers, _ = await edge.get("/console/", at="admin", key=None)
    policy = headers["content-security-policy"]
    assert status == 200
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    status, headers, _ = await edge.get("/console", at="admin", key=None)
    assert (status, headers["location"]) == (303, "/console/")


@pytest.mark.parametrize(
    "name", ["..", "../desk.py", "desk.py", "%2e%2e/desk.py", "static/main.js", "main.js/", "__init__.py"]
)
async def test_nothing_else_is_a_file_of_it(world, name):
    edge = await world()
    status, _, body = await edge.get(f"/console/{name}", at="admin", key=None)
    assert status in {400, 401}, body


def test_it_is_light_needs_no_other_host_and_makes_no_markup_of_strings():
    files = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert sum(len(text.encode()) for text in files.values()) < 100 << 10
    for name, text in files.items():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setTimeout\(['\"]",
            text,
        )
    assert " style=" not in files["index.html"]
    assert not re.search(r"<script(?![^>]*\bsrc=)", files["index.html"])
    assert not re.search(r"\son[a-z]+=", files["index.html"])
    linked = set(re.findall(r'(?:src|href)="([a-z.]+)"', files["index.html"]))
    assert linked == set(files) - {"index.html"}, "each file is asked for at once, and there is no other"


@pytest.mark.parametrize("key", [USER, OTHER, ENDED, "nobody", ""])
async def test_no_other_key_than_an_admins_logs_in(world, key):
    """A tenant's key reads no byte of another's, nor of its own here."""
    visitor = Visitor(await world())
    status, headers, body = await visitor.log_in(key)
    assert (status, code(body)) == (401, "invalid_api_key")
    assert "set-cookie" not in headers
    for path in API:
        for shown in ({}, {"authorization": f"Bearer {key}"}, {"x_api_key": key or "x"}):
            assert (await visitor.ask("GET", path, **shown))[0] == 401


async def test_a_session_needs_both_halves_and_its_own_origin(world):
    edge = await world()
    visitor = Visitor(edge)
    assert (await visitor.ask("GET", "/console/session"))[0] == 401
    status, headers, _ = await visitor.log_in()
    assert status == 200
    assert headers["cache-control"] == "no-store"
    status, _, body = await visitor.ask("GET", "/console/session")
    assert (status, json.loads(body)["tenant"]) == (200, "ops")
    cookie, token = visitor.cookie, visitor.token
    for half in ({"cookie": ""}, {"x_nearfield_console": ""}, {"x_nearfield_console": "0" * 64}):
        assert (await visitor.ask("GET", "/console/session", **half))[0] == 401
    foreign = Visitor(edge, origin="https://localhost:1")
    foreign.cookie, foreign.token = cookie, token
    for path in ("/console/logout", "/console/chat", "/console/api/nearfield/keys", "/console/login"):
        assert code((await foreign.ask("POST", path, {}))[2]) == "forbidden"
    assert (await visitor.ask("GET", "/console/session"))[0] == 200
    assert (await visitor.ask("POST", "/console/logout", {}))[0] == 200
    assert (await visitor.ask("GET", "/console/session"))[0] == 401


async def test_a_revoked_key_ends_its_sessions_and_their_streams(world):
    edge = await world()
    visitor = Visitor(edge)
    await visitor.log_in()
    first = hashlib.sha256(ADMIN.encode()).hexdigest()
    second = hashlib.sha256(b"nf-second-admin").hexdigest()
    async with await visitor.pool.request("GET", "/console/events", visitor.headers()) as answer:
        edge.regions["iad"].keys = {second: POLICY_KEYS[first]}
        edge.regions["iad"].say_policy()
        told = await asyncio.wait_for(answer.read(), 60)
    assert told.endswith(b"event: bye\ndata: {}\n\n")
    assert (await visitor.ask("GET", "/console/session"))[0] == 401


async def test_log_ins_are_bounded(world):
    visitor = Visitor(await world())
    told = [(await visitor.log_in("nobody"))[:2] for _ in range(15)]
    status, headers = told[-1]
    assert (status, int(headers["retry-after"]) >= 1) == (429, True)
    assert told[0][0] == 401


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"key": ["x"]}', b"", b"[" * 4000])
async def test_a_log_in_that_is_none_is_refused(world, body):
    visitor = Visitor(await world())
    status, _, _ = await visitor.ask("POST", "/console/login", body, content_type="application/json")
    assert status in {400, 401}
    assert (await visitor.ask("POST", "/console/login", b"key=x", content_type="text/plain"))[0] == 415


async def test_a_ticket_of_an_admin_key_logs_in_once(world):
    edge = await world()
    for key, wanted in ((USER, 403), (None, 401)):
        status, _, _ = await edge.ask("/nearfield/console/tickets", b"", key=key)
        assert status == wanted
    status, _, body = await edge.ask("/nearfield/console/tickets", b"", key=ADMIN)
    assert status == 200
    one, other = Visitor(edge), Visitor(edge)
    ticket = json.loads(body)["ticket"]
    assert (await one.log_in(ticket=ticket))[0] == 200
    assert (await one.ask("GET", "/console/session"))[0] == 200
    assert (await other.log_in(ticket=ticket))[0] == 401
    status, _, _ = await edge.get("/nearfield/console/tickets", key=ADMIN)
    assert status == 405


async def test_the_operators_routes_serve_a_session(world):
    edge = await world()
    visitor = Visitor(edge)
    await visitor.log_in()
    status, _, body = await visitor.ask("GET", "/console/api/nearfield/status")
    assert (status, json.loads(body)["edge"]) == (200, "test")
    order = {"tenant": "t", "quota": {"streams": 2}}
    assert (await visitor.ask("POST", "/console/api/nearfield/keys", order))[0] == 200
    assert (await visitor.ask("DELETE", "/console/api/nearfield/keys/0123456789ab"))[0] == 200
    warm = "/console/api/nearfield/regions/fra/prewarm"
    assert (await visitor.ask("POST", warm, {"model": MODEL}))[0] == 200
    assert edge.regions["iad"].orders == [
        ("/control/keys/make", order),
        ("/control/keys/revoke", {"id": "0123456789ab"}),
    ]
    assert edge.regions["fra"].orders == [("/control/prewarm", {"model": MODEL})]
    for path in (
        "/console/api/healthz",
        "/console/api/v1/models",
        "/console/api/nearfield/nothing",
        "/console/api/",
    ):
        assert (await visitor.ask("GET", path))[0] == 404


async def test_a_chat_is_asked_for_the_keys_own_tenant_and_leaves_nothing_with_the_connection(world):
    edge = await world()
    edge.regions["fra"].script = streams(b'data: {"choices": []}\n\n', b"data: [DONE]\n\n")
    visitor = Visitor(edge)
    await visitor.log_in()
    for _ in range(3):
        status, headers, body = await visitor.ask(
            "POST", "/console/chat", json.loads(STREAM_BODY), x_nearfield_region="fra"
        )
        assert (status, headers["x-nearfield-region"]) == (200, "fra")
        assert b"data: [DONE]" in body
    head, _ = edge.regions["fra"].requests[-1]
    assert (head.path, head.get("x-nearfield-tenant")) == ("/v1/chat/completions", "ops")
    assert head.get("cookie") is None
    assert head.get("x-nearfield-console") is None
    await visitor.ask("POST", "/console/logout", {})
    assert (await visitor.ask("POST", "/console/chat", json.loads(STREAM_BODY)))[0] == 401
    status, _, _ = await edge.ask("/v1/chat/completions", at="admin", key=ADMIN)
    assert status == 404, "a key asks at users' listeners"


async def test_a_page_hears_of_regions_models_and_requests_and_then_what_changes(world):
    edge = await world()
    visitor = Visitor(edge)
    await visitor.log_in()
    secret = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "PROMPT-SECRET"}]}).encode()
    await edge.ask(body=secret)
    await edge.ask(body=json.dumps({"model": "acme/none", "prompt": "x"}).encode())
    (first, state), (second, models), (third, requests) = await visitor.events(3)
    assert (first, second, third) == ("state", "models", "requests")
    assert (state["edge"], state["home"], set(state["regions"])) == ("test", "iad", {"iad", "fra"})
    assert models["fra"][MODEL]["tier"] == "resident"
    good, bad = requests
    assert (good["model"], good["status"], good["tenant"], good["start"]) == (MODEL, 200, "acme", "warm")
    assert [each["hop"] for each in good["hops"]] == ["edge", "gateway", "node"]
    assert (bad["model"], bad["status"], bad["code"], bad["region"]) == (
        "acme/none",
        404,
        "model_not_found",
        None,
    )
    told = json.dumps([state, models, requests])
    assert "PROMPT-SECRET" not in told
    assert not [key for key in (USER, ADMIN, OTHER) if key in told]

    edge.regions["fra"].say({MODEL: served(), "acme/new": served()})
    await edge.until(lambda status: "acme/new" in status["regions"]["fra"]["body"]["models"])
    (_, _), (_, again), *_ = await visitor.events(2)
    assert set(again["fra"]) == {MODEL, "acme/new"}


async def test_reports_are_kept_listed_and_shown_without_scripts(world):
    edge = await world()
    assert (await edge.ask("/nearfield/reports", json.dumps(REPORT).encode(), key=USER))[0] == 403
    for body in (b"{}", b"[]", b"{", json.dumps(REPORT | {"rows": [1]}).encode()):
        assert (await edge.ask("/nearfield/reports", body, key=ADMIN))[0] == 400
    status, _, body = await edge.ask("/nearfield/reports", json.dumps(REPORT).encode(), key=ADMIN)
    assert status == 200
    number = json.loads(body)["id"]
    visitor = Visitor(edge)
    assert (await visitor.ask("GET", f"/console/report/{number}"))[0] == 401
    await visitor.log_in()
    _, _, body = await visitor.ask("GET", "/console/reports")
    (listed,) = json.loads(body)["reports"]
    assert (listed["id"], listed["rows"]) == (number, REPORT["rows"])
    by_link = {"x_nearfield_console": "", "sec_fetch_site": "none"}
    status, headers, body = await visitor.ask("GET", f"/console/report/{number}", **by_link)
    assert (status, body.decode()) == (200, REPORT["html"])
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    for name in ("0000000000000-00000000", "../rows.ndjson", "..", number[:-1]):
        assert (await visitor.ask("GET", f"/console/report/{name}"))[0] in {400, 404}


def test_the_oldest_reports_make_room(tmp_path):
    shelf = Shelf(tmp_path / "reports")
    assert shelf.ls() == []
    numbers = [f"{number:013d}-00000000" for number in range(MAX_KEPT + 2)]
    for number in numbers:
        shelf.keep(json.dumps(REPORT).encode(), number)
    assert [each["id"] for each in shelf.ls()] == numbers[:1:-1]
    with pytest.raises(Refusal):
        shelf.page(numbers[0])
    assert len(list((tmp_path / "reports").iterdir())) == 2 * MAX_KEPT


async def test_a_browser_page_still_cannot_use_an_admin_key(world):
    """What was so before there was a console: the operators' own routes are not for pages."""
    edge = await world()
    status, _, body = await edge.get(
        "/nearfield/status", key=ADMIN, headers=(("origin", "https://localhost"),)
    )
    assert (status, code(body)) == (403, "forbidden")
    assert (
        await whole(
            await edge.raw("POST", "/nearfield/console/tickets", b"", key=ADMIN, headers=(("origin", "x"),))
        )
    )[0] == 403
