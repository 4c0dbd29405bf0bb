"""Where a request may go: residency, preferences, areas, aliases, drains, kept prompts; and never elsewhere."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.choice.prefer import MAX_CHARS, where
from edge.choice.prefixes import CUTS, KEPT_S, Prefixes, marks
from edge.choice.route import NEAR_S, Asker, Chooser
from edge.relay.holdoff import Holdoffs
from edge.rows.feed import Feed
from regions.ask import Ask
from regions.health import HEALTHY, Breaker, Outcome, RegionHealth, after
from regions.map.policy import Rules, Trial
from regions.map.region import ROW_STALE_S, Tier
from regions.rows import Heard, Signers, Snapshot
from tests.edge.world import ADMIN, BODY, MODEL, code, cuts, served
from tests.regions.made import model_row, region_row
from wire.http.http1 import RequestHead
from wire.refused.refusal import Refusal

AREAS = {"eu": ("fra",), "us": ("iad",), "apac": ("nrt",)}
CHAT = "/v1/chat/completions"


def head(path=CHAT, **headers):
    pairs = tuple((f"x-nearfield-{name.replace('_', '-')}", value) for name, value in headers.items())
    return RequestHead("POST", path, path, "", pairs, None, False, True, False)


async def ruled(edge, **rules):
    """The rules in force at the edge."""
    edge.regions["iad"].say_policy(rules=Rules(**{"areas": AREAS, **rules}))
    seq = edge.regions["iad"].policy_seq
    await edge.until(lambda status: status["rows"]["policy"]["seq"] == seq)


async def test_a_request_stays_in_its_residency_when_all_of_it_is_dead(world):
    edge = await world(names=("iad", "fra", "nrt"))
    await ruled(edge, residency={"acme/*": ("eu",)})
    status, headers, _ = await edge.ask()
    assert (status, headers["x-nearfield-region"]) == (200, "fra")
    others = [edge.regions[name] for name in ("iad", "nrt")]
    for each in others:
        each.requests.clear()

    edge.regions["fra"].script = cuts
    for _ in range(4):  # replays, then an open breaker
        status, headers, body = await edge.ask()
        assert status in {502, 503}
        assert "iad" not in headers["x-nearfield-route"]
    await edge.regions["fra"].kill()
    for _ in range(4):
        status, headers, body = await edge.ask()
        assert (status, code(body)) == (503, "region_unavailable")
        assert "nrt" not in headers["x-nearfield-route"]
    assert not any(each.requests for each in others)
    assert not any(order for each in others for order in each.orders)  # no pre-warming there either


async def test_a_models_own_residency_and_a_tenants_hold_too(world):
    edge = await world(names=("iad", "fra"))
    edge.regions["iad"].say({MODEL: served(), "acme/own": served()})
    edge.regions["fra"].say({MODEL: served(), "acme/own": served(residency=("eu",))})
    await ruled(edge)
    body = json.dumps({"model": "acme/own", "prompt": "x"}).encode()
    for _ in range(3):  # one region's row says it, so it holds for all: another may be older
        assert (await edge.ask("/v1/completions", body))[1]["x-nearfield-region"] == "fra"
    await ruled(edge, residency={"tenant:acme": ("us",)})
    assert (await edge.ask())[1]["x-nearfield-region"] == "iad"
    assert (await edge.ask("/v1/completions", body))[0] == 403  # eu and us have nothing in common
    status, _, said = await edge.ask(at="fra")
    assert (status, code(said)) == (403, "outside_residency")
    assert "iad" in json.loads(said)["error"]["message"]


async def test_clients_say_where_in_headers_and_a_slip_is_refused(world):
    edge = await world(names=("iad", "fra", "nrt"))
    await ruled(edge)

    async def region(**headers):
        _, said, _ = await edge.ask(headers=head(**headers).headers)
        return said["x-nearfield-region"], said["x-nearfield-route"]

    for only, expected in (("fra", "fra"), ("eu", "fra"), ("apac", "nrt"), ("nrt, any", None)):
        found, route = await region(region=only)
        assert expected in {None, found}
        assert expected is None or "; " not in route  # no other is even a choice
    found, route = await region(prefer_region="apac")
    assert (found, " preferred; " in route) == ("nrt", True)
    await edge.regions["nrt"].kill()
    await edge.until(lambda status: status["regions"]["nrt"]["breaker"] == "open")
    assert (await region(prefer_region="apac"))[0] in {"iad", "fra"}
    for bad in ("mars", "", "fra,", "FRA", "eu" * MAX_CHARS):
        status, _, body = await edge.ask(headers=head(region=bad).headers)
        assert (status, json.loads(body)["error"]["param"]) == (400, "x-nearfield-region")
    status, _, body = await edge.ask(headers=head(prefer_replica="node:7001").headers)
    assert (status, json.loads(body)["error"]["param"]) == (400, "x-nearfield-prefer-replica")
    await edge.ask(headers=head(prefer_replica="0123abcd", region="fra").headers)
    assert edge.regions["fra"].requests[-1][0].get("x-nearfield-prefer-replica") == "0123abcd"
    status, _, body = await edge.ask(at="iad", headers=head(region="fra").headers)
    assert (status, json.loads(body)["error"]["param"]) == (400, "x-nearfield-region")


async def test_a_drained_region_is_only_asked_when_no_other_is_left(world):
    edge = await world()
    await ruled(edge, drained=("iad",))
    for _ in range(3):
        _, headers, _ = await edge.ask()
        assert headers["x-nearfield-region"] == "fra"
        assert "iad" in headers["x-nearfield-route"]
    await edge.regions["fra"].kill()
    await edge.until(lambda status: status["regions"]["fra"]["breaker"] == "open")
    assert (await edge.ask())[1]["x-nearfield-region"] == "iad"


async def test_an_alias_is_served_as_the_model_that_it_means(world):
    edge = await world(names=("iad",))
    await ruled(edge, aliases={"gpt-4o": MODEL, "acme/latest": MODEL})
    for name in ("gpt-4o", "acme/latest"):
        status, _, _ = await edge.ask(body=BODY.replace(MODEL.encode(), name.encode()))
        assert status == 200
        asked, _ = edge.regions["iad"].requests[-1]
        assert asked.get("x-nearfield-ask").split()[0] == MODEL
    _, _, body = await edge.get("/v1/models")
    assert [each["id"] for each in json.loads(body)["data"]] == [MODEL, "acme/latest", "gpt-4o"]
    _, _, body = await edge.get("/v1/models/acme/latest")
    assert json.loads(body)["id"] == MODEL
    assert (await edge.ask(body=BODY.replace(MODEL.encode(), b"gpt-5")))[0] == 404


def chooser(rules=None, **rows):
    """A chooser over these rows, the first region nearest."""
    feed = Feed(Signers({}, "iad"), Path("nowhere"))
    feed.rules = rules or Rules(areas=AREAS)
    feed.snapshot = Snapshot(
        {n: Heard(region_row(n, models={"acme/m": row}), b"", 0.0) for n, row in rows.items()}
    )
    ways = {name: SimpleNamespace(rtt_ms=1.0 + 80 * n, health=HEALTHY) for n, name in enumerate(rows)}
    return Chooser(feed, ways, None, Holdoffs()), feed


def stands(change):
    """Whether a decision is still good once `change` has happened to its chooser, its feed and its ways."""
    chosen, feed = chooser(iad=model_row(), fra=model_row())
    ways = chosen._reaches
    decision = chosen.choose(Ask("acme/m", False, 10, 1), None, 1.0)
    assert chosen.stands(decision, 1.5)
    assert chosen.choose(Ask("acme/m", False, 10, 1), None, 1.5).choices == decision.choices
    now = change(chosen, feed, ways)
    return chosen.stands(decision, now or 1.5)


def ill(_chosen, _feed, ways):
    ways["fra"].health = after(HEALTHY, Outcome.FAILED, 1.2)


def nearer(_chosen, _feed, ways):
    ways["fra"].rtt_ms = 0.5
    return 1.5 + NEAR_S


def told(_chosen, feed, _ways):
    feed.snapshot = Snapshot(dict(feed.snapshot.regions))


def waits(chosen, _feed, _ways):
    chosen._holdoffs.note("iad", "acme/m", 5.0, 1.2)


def waits_for_others(chosen, _feed, _ways):
    chosen._holdoffs.note("iad", "acme/m", 5.0, 1.2, "hog")


def overdue(_chosen, _feed, _ways):
    return ROW_STALE_S


def test_a_decision_stands_until_anything_that_it_rests_on_is_another():
    assert stands(lambda *_: None)
    assert stands(waits_for_others)
    for change in (ill, nearer, told, waits, overdue):
        assert not stands(change), change


def test_a_region_that_asked_for_time_is_no_reason_to_decide_anew_where_it_is_the_only_one_or_once_that_is_up():
    alone, _ = chooser(iad=model_row())
    two, _ = chooser(iad=model_row(), fra=model_row())
    ask = Ask("acme/m", False, 10, 1)
    for chosen in (alone, two):
        chosen._holdoffs.note("iad", "acme/m", 1.0, 0.0)
    assert two.choose(ask, None, 0.5).grounds is None

    for chosen, now in ((alone, 0.5), (two, 1.0)):
        assert chosen.stands(chosen.choose(ask, None, now), now)


def test_what_was_decided_is_said_to_all_who_ask_alike_until_it_no_longer_stands():
    for change in (ill, nearer, told, waits, overdue):
        chosen, feed = chooser(iad=model_row(), fra=model_row())
        ask, asker = Ask("acme/m", False, 10, 1), Asker("acme", head(), b"")
        decision = chosen.choose(ask, None, 1.0, asker)
        again = chosen.choose(
            ask._replace(stream=True), None, 1.5, Asker("acme", head("/v1/completions"), b"more")
        )
        assert again is decision
        now = change(chosen, feed, chosen._reaches) or 1.5
        assert chosen.choose(ask, None, now, asker) is not decision, change


def test_who_asks_otherwise_is_decided_for_anew():
    chosen, feed = chooser(
        Rules(areas=AREAS, residency={"tenant:fenced": ("fra",)}), iad=model_row(), fra=model_row()
    )
    heard = feed.snapshot.regions
    rows = {n: region_row(n, models={"acme/m": model_row(), "acme/other": model_row()}) for n in heard}
    feed.snapshot = Snapshot({name: Heard(row, b"", 0.0) for name, row in rows.items()})

    def best(model="acme/m", num_tokens=10, pinned=None, tenant="acme", **headers):
        choices = chosen.choose(
            Ask(model, False, num_tokens, 1), pinned, 1.0, Asker(tenant, head(**headers), b"")
        )
        return choices.choices[0].region

    for _ in range(2):  # the second time it is known
        assert best() == best(model="acme/other") == best(num_tokens=11) == "iad"
        for other in ({"pinned": "fra"}, {"region": "fra"}, {"prefer_region": "fra"}, {"tenant": "fenced"}):
            assert best(**other) == "fra", other
        for bad in ({"region": "mars"}, {"prefer_region": "mars"}, {"prefer_replica": "mars"}):
            with pytest.raises(Refusal) as refused:
                best(**bad)
            assert refused.value.status == 400
    assert len({id(each) for each in chosen._standing.values()}) == len(chosen._standing) == 7


@pytest.mark.parametrize(
    "why",
    [
        "equals",
        "a region that comes back",
        "a region that is ejected",
        "a slow start",
        "a long prompt",
        "somebody waits",
    ],
)
def test_a_decision_in_which_time_or_chance_had_a_say_is_made_each_time(why):
    chosen, feed = chooser(iad=model_row(), fra=model_row())
    ways = chosen._reaches
    if why == "a slow start":
        fra = replace(feed.snapshot.regions["fra"], fresh={"acme/m": 0.5})
        feed.snapshot = Snapshot({**feed.snapshot.regions, "fra": fra})
    if why == "equals":
        ways["fra"].rtt_ms = 1.5
    elif why == "a region that comes back":
        ways["fra"].health = RegionHealth(recovered_at=0.5)
    elif why == "a region that is ejected":
        ways["fra"].health = RegionHealth(breaker=Breaker.OPEN, until=1.2)
    elif why == "somebody waits":
        chosen._holdoffs.note("fra", "acme/m", 5.0, 1.0)
    num_tokens = 200 if why == "a long prompt" else 10
    decision = chosen.choose(Ask("acme/m", False, num_tokens, 1), None, 1.0)
    assert not chosen.stands(decision, 1.0)


def test_a_long_prompt_goes_where_its_beginning_was_if_that_pays_and_only_for_its_tenant():
    slow = model_row(prefill_ms_per_token=1.0)
    busy = model_row(prefill_ms_per_token=1.0, running=8, waiting=2)
    chosen, feed = chooser(iad=busy, fra=slow)
    body = b'{"model":"acme/m","messages":[{"role":"user","content":"' + b"x" * 3000 + b'"}]}'
    ask = Ask("acme/m", False, 750, 1)

    def region(tenant, text=body, now=1.0):
        return chosen.choose(ask, None, now, Asker(tenant, head(), text)).choices[0]

    assert region("a").region == "fra"  # iad is loaded
    feed.snapshot = Snapshot(
        {n: Heard(region_row(n, models={"acme/m": slow}), b"", 0.0) for n in ("iad", "fra")}
    )
    assert (region("a").region, region("a").cached) == ("fra", 512)
    fresh, _ = chooser(iad=slow, fra=slow)
    assert fresh.choose(ask, None, 1.0, Asker("b", head(), body)).choices[0].region == "iad"
    assert marks("a", "acme/m", CHAT, body)[0] != marks("b", "acme/m", CHAT, body)[0]
    assert region("a", b'{"max_tokens":9,' + body[1:]).cached == 512  # parameters before it do not matter
    assert region("a", body.replace(b"xx", b"y", 1)).cached == 0


def test_prefixes_are_bounded_forgotten_and_only_of_what_is_generated_from():
    prefixes = Prefixes(max_marks=4)
    body = b'"messages"' + b"x" * 9000
    of = marks("t", "m", CHAT, body)
    assert [mark.tokens for mark in of] == [cut // 4 for cut in CUTS]
    prefixes.sent(of, "iad", 0.0)
    prefixes.sent(of[:1], "fra", 1.0)
    assert prefixes.known(of, 2.0) == {"iad": 2048, "fra": 128}
    assert prefixes.known(of, KEPT_S + 0.5) == {"fra": 128}
    for n in range(6):
        prefixes.sent(of[:1], f"r{n}", 3.0)
    assert len(prefixes.known(of[:1], 4.0)) == 4
    prefixes.sent(marks("u", "m", CHAT, body), "iad", 5.0)
    assert len(prefixes) == 4
    for path in ("/v1/embeddings", "/tokenize", "/v1/messages/count_tokens", "/none"):
        assert marks("t", "m", path, body) == ()
    assert marks("t", "m", CHAT, body[:400]) == ()
    assert marks("t", "m", CHAT, b"x" * 9000) == ()


def test_a_preference_is_bounded():
    with pytest.raises(Refusal):
        where(head(region=",".join(["fra"] * 9)), Rules(), {"fra"})
    assert where(head(region="any"), Rules(), {"fra"}).only is None
    assert where(head(), Rules(), {"fra"}).first == frozenset()


def test_a_region_that_stops_serving_a_model_is_no_choice_and_one_that_starts_is():
    chosen, feed = chooser(iad=model_row(), fra=model_row())
    ask = Ask("acme/m", False, 10, 1)
    assert chosen.choose(ask, None, 1.0).choices[0].region == "iad"
    feed.snapshot = Snapshot({**feed.snapshot.regions, "iad": Heard(region_row("iad", models={}), b"", 0.0)})
    assert [each.region for each in chosen.choose(ask, None, 1.0).choices] == ["fra"]
    cold = model_row(tier=Tier.REGION, slots=0)
    feed.snapshot = Snapshot(
        {**feed.snapshot.regions, "iad": Heard(region_row("iad", models={"acme/m": cold}), b"", 0.0)}
    )
    decision = chosen.choose(ask, None, 1.0)
    assert (decision.choices[0].region, decision.prewarm()) == ("fra", "iad")  # both, in one act


async def test_an_operator_sees_rules_refusals_and_ages(world):
    edge = await world()
    assert edge.regions["fra"].line()  # a number is skipped, which is no fault
    await ruled(edge, drained=("fra",))
    status = await edge.status()
    assert status["rows"]["policy"]["rules"]["drained"] == ["fra"]
    answered, headers, page = await edge.get("/nearfield/metrics", key=ADMIN)
    assert answered == 200
    assert headers["content-type"].startswith("text/plain")
    assert b'nearfield_edge_row_age_seconds{region="fra"}' in page
    assert b'nearfield_edge_rows_taken_total{source="iad"}' in page
    assert (await edge.get("/nearfield/metrics"))[0] == 403


async def test_a_frozen_map_takes_nothing_over_a_restart_until_it_is_thawed(world):
    edge = await world(names=("iad",))
    assert (await edge.ask("/nearfield/rows/freeze", b"", key=ADMIN))[0] == 200
    edge.regions["iad"].say_policy(rules=Rules(drained=("iad",)))
    await edge.until(lambda status: status["rows"]["refused"].get("frozen", 0) > 1)
    assert (await edge.status())["rows"]["policy"]["seq"] == 1
    assert (await edge.ask())[0] == 200
    await edge.stop_edge()
    edge._wait = False
    await edge.start_edge()
    await edge.until(lambda status: status["rows"]["refused"].get("frozen", 0) > 1)
    assert (await edge.ask())[0] == 200  # from disk
    assert (await edge.ask("/nearfield/rows/thaw", b"", key=ADMIN))[0] == 200
    await edge.until(lambda status: status["rows"]["policy"]["seq"] == 2)


async def test_rows_that_are_overdue_are_said_once_and_when_they_come_again(world, monkeypatch, caplog):
    monkeypatch.setattr("edge.rows.feed.WATCH_S", 0.02)
    monkeypatch.setattr("edge.rows.feed.ROW_STALE_S", 0.3)
    caplog.set_level("INFO", "nearfield.edge")
    await world(names=("iad",))  # rows come each second
    async with asyncio.timeout(60):
        while "come again" not in caplog.text:  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.02)
    assert "its figures are doubted" in caplog.text


async def test_a_canary_edge_follows_rules_on_trial_and_reports_how_they_fare(world, monkeypatch):
    monkeypatch.setattr("edge.rows.trial.PERIOD_S", 0.02)
    edge = await world()
    home = edge.regions["iad"]

    async def tried(*edges, **rules):
        serial = home.policy_seq + 1
        home.say_policy(trial=Trial(serial, Rules(areas=AREAS, **rules), edges, 60.0))
        await edge.until(lambda status: status["rows"]["policy"]["seq"] == serial)
        return serial

    async def report(serial):
        async with asyncio.timeout(60):
            while not (said := [each for _, each in home.orders if each.get("serial") == serial]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return said[0]

    serial = await tried("test", residency={"acme/*": ("eu",)})
    assert (await report(serial))["harm"] == ""
    assert (await edge.ask())[1]["x-nearfield-region"] == "fra"
    serial = await tried("test", residency={"acme/*": ("apac",)})
    assert MODEL in (await report(serial))["harm"]
    status, _, body = await edge.ask()
    assert (status, code(body)) == (503, "region_unavailable")
    assert (await edge.status())["rows"]["policy"]["trial"] == {"edges": ["test"], "seconds": 60.0}
    await tried("another", drained=("iad", "fra"))
    assert (await edge.ask())[0] == 200  # not ours to follow
