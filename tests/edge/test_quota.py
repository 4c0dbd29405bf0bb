"""What one key may use at an edge: requests, tokens, and requests at once; another key sees nothing of it."""

import asyncio
import hashlib
import json

import pytest

from edge.admission import account as account_module
from edge.admission.account import Bucket, OverQuota, span
from edge.admission.ledger import REQUESTS, TOKENS
from edge.admission.quota import Quotas, Use
from regions.ask import UNSAID_TOKENS, Ask, read_ask
from regions.map.policy import KeyGrant, Quota
from tests.edge.world import MODEL, OTHER, POLICY_KEYS, STREAM_BODY, USER, code, streams, whole
from wire.timing import Phases

EVENT = b'data: {"choices": [{"text": "x"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def node_receipt(prompt, answer):
    return Phases("node").comment({"prompt_tokens": prompt, "completion_tokens": answer})


def ask(prompt=10, answer=0):
    return Ask(MODEL, False, prompt, 0, answer)


async def entered(quotas, quota, key="k", **size):
    return await quotas.enter(key, quota, ask(**size), asyncio.get_running_loop().time())


async def refused(quotas, quota, key="k", **size):
    with pytest.raises(OverQuota) as caught:
        await entered(quotas, quota, key, **size)
    return caught.value


def level(account, now):
    with account._held() as cells:
        return Bucket(cells, TOKENS, account.quota.tokens_per_min, now).level(now)


def end(use, status=200, stay_s=0.0):
    use.end(status, use._since + stay_s)


async def test_requests_a_minute_fill_all_the_time():
    quotas, quota = Quotas(), Quota(requests_per_min=60)
    for _ in range(60):
        end(await entered(quotas, quota))
    while True:  # one flows in each second; this process may stand still for a few
        try:
            end(await entered(quotas, quota))
        except OverQuota as caught:
            refusal = caught
            break
    assert (refusal.status, refusal.code, refusal.kind) == (429, "rate_limit_exceeded", "requests")
    assert 0 < refusal.retry_after_s <= 1.0
    headers = dict(refusal.headers())
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] in {"59s", "60s", "1m0s"} | {
        f"59.{tenth}s" for tenth in range(10)
    }
    account = quotas._accounts["k"]
    with account._held() as cells:
        soon = cells[REQUESTS + 1] + refusal.retry_after_s + 0.01
    account.count(soon)
    with pytest.raises(OverQuota):
        account.count(soon)
    await entered(quotas, quota, key="other")


class TestTokens:
    """A bucket of 600 tokens a minute, so ten a second; the loop's time is what `end` is told."""

    quota = Quota(tokens_per_min=600)

    async def use(self, quotas, now=0.0, **size):
        """`enter` looks at the loop's own clock behind the queue; here there is none."""
        account = quotas._account("k", self.quota)
        account.count(now)
        await account.place(now)
        reserved = account.reserve(size["prompt"] + size["answer"], now)
        return Use(account, ask(**size), reserved, account.headers(now), now), account

    async def test_a_request_reserves_what_it_may_use_and_pays_for_what_was_counted(self):
        quotas = Quotas()
        use, account = await self.use(quotas, prompt=100, answer=400)
        assert dict(use.headers)["x-ratelimit-remaining-tokens"] == "100"
        with pytest.raises(OverQuota) as caught:
            account.reserve(200, 0.0)
        assert (caught.value.kind, caught.value.retry_after_s) == ("tokens", pytest.approx(10.0))
        use.saw(EVENT * 3)
        use.saw(EVENT + DONE + node_receipt(90, 30) + Phases("gateway").comment())
        use.end(200, 0.0)
        assert level(account, 0.0) == 600 - 120

    async def test_more_than_was_reserved_is_a_debt(self):
        quotas = Quotas()
        use, account = await self.use(quotas, prompt=1, answer=10)
        use.saw(node_receipt(500, 1_000))
        use.end(200, 0.0)
        with pytest.raises(OverQuota) as caught:
            account.reserve(1, 0.0)
        assert caught.value.retry_after_s == pytest.approx(60.0), "nobody is sent away for longer"
        assert level(account, 90.0) == 0
        assert account.reserve(1, 90.2) == 1

    @pytest.mark.parametrize(
        ("status", "heard", "paid"),
        [
            (200, ("12 5",), 17),
            (200, ("0 0",), 0),
            (200, (), 100),
            (200, ("x -5",), 0),
            (503, (), 0),
            (0, (), 100),
        ],
    )
    async def test_a_whole_answer_is_paid_as_its_header_says(self, status, heard, paid):
        quotas = Quotas()
        use, account = await self.use(quotas, prompt=100, answer=200)
        for value in heard:
            use.heard({"x-nearfield-tokens": value})
        use.end(status, 0.0)
        assert level(account, 0.0) == 600 - paid

    async def test_a_stream_that_broke_off_is_paid_for_its_prompt_and_its_events(self):
        quotas = Quotas()
        use, account = await self.use(quotas, prompt=100, answer=200)
        use.saw(EVENT * 7)
        use.end(200, 0.0)
        assert level(account, 0.0) == 600 - 107

    async def test_what_can_never_be_there_takes_a_full_bucket(self):
        quotas = Quotas()
        use, account = await self.use(quotas, prompt=100, answer=100_000)
        assert level(account, 0.0) == 0
        use.end(503, 0.0)
        assert level(account, 0.0) == 600


class TestAtOnce:
    async def test_the_queue_is_short_and_in_order(self):
        quotas, quota, order = Quotas(), Quota(streams=2), []
        first = [await entered(quotas, quota) for _ in range(2)]

        async def one(number):
            use = await entered(quotas, quota)
            order.append(number)
            return use

        tasks = [asyncio.create_task(one(number)) for number in range(2)]
        await asyncio.sleep(0)
        refusal = await refused(quotas, quota)
        assert (refusal.code, refusal.kind) == ("rate_limit_exceeded", "requests")
        await entered(quotas, quota, key="other")
        for use in first:
            end(use)
        waited = await asyncio.gather(*tasks)
        assert order == [0, 1]
        assert [use.has_waited for use in (*first, *waited)] == [False, False, True, True]
        assert quotas._accounts["k"].num_running == 2

    async def test_retry_after_is_measured(self):
        quotas, quota = Quotas(), Quota(streams=1)
        for _ in range(50):
            end(await entered(quotas, quota), stay_s=20.0)
        await entered(quotas, quota)
        waiting = asyncio.create_task(entered(quotas, quota))
        await asyncio.sleep(0)
        refusal = await refused(quotas, quota)
        assert refusal.retry_after_s == pytest.approx(40.0, rel=0.1), (
            "two stays of 20 s: who runs, and who waits"
        )
        waiting.cancel()
        await asyncio.wait([waiting])

    async def test_who_waits_too_long_is_told_so_and_who_goes_away_leaves_no_place_taken(self, monkeypatch):
        monkeypatch.setattr(account_module, "MAX_WAIT_S", 0.02)
        quotas, quota = Quotas(), Quota(streams=1)
        use = await entered(quotas, quota)
        await refused(quotas, quota)
        monkeypatch.setattr(account_module, "MAX_WAIT_S", 60.0)
        gone = asyncio.create_task(entered(quotas, quota))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        late = asyncio.create_task(entered(quotas, quota))
        await asyncio.sleep(0)
        end(use)  # it has a place now, and goes away before it knows
        late.cancel()
        await asyncio.wait([late])
        assert late.cancelled()
        account = quotas._accounts["k"]
        assert account.is_idle
        await entered(quotas, quota)

    async def test_a_request_without_tokens_left_gives_its_place_back(self):
        quotas, quota = Quotas(), Quota(streams=1, tokens_per_min=60)
        end(await entered(quotas, quota, prompt=60))
        refusal = await refused(quotas, quota, prompt=60)
        assert refusal.kind == "tokens"
        assert quotas._accounts["k"].is_idle


async def test_another_quota_keeps_who_is_here_and_what_is_left_of_the_same():
    quotas = Quotas()
    await entered(quotas, Quota(requests_per_min=2, streams=1))
    await entered(quotas, Quota(requests_per_min=2, streams=2))
    account = quotas._accounts["k"]
    assert account.num_running == 2
    assert (await refused(quotas, Quota(requests_per_min=2, streams=2))).kind == "requests"
    await entered(quotas, Quota(requests_per_min=5, streams=9))


async def test_accounts_are_bounded_and_none_in_use_is_forgotten():
    quotas, quota = Quotas(max_accounts=3), Quota(streams=1)
    await entered(quotas, quota, key="busy")
    for number in range(10):
        end(await entered(quotas, quota, key=str(number)))
    assert len(quotas) == 3
    assert "busy" in quotas._accounts


def test_a_bucket_is_never_fuller_than_full():
    bucket = Bucket([0.0] * 3, 0, 60, 0.0)
    bucket.take(-10)
    assert bucket.level(100.0) == 60


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0421, "43ms"), (1.5, "1.5s"), (59.9, "59.9s"), (360.0, "6m0s")]
)
def test_spans_are_openais(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("path", "more", "answer"),
    [
        ("/v1/chat/completions", {"messages": [], "max_completion_tokens": 7}, 7),
        ("/v1/chat/completions", {"messages": [], "max_tokens": 7, "n": 3}, 21),
        ("/v1/responses", {"input": "x", "max_output_tokens": 9}, 9),
        ("/v1/completions", {"prompt": "x"}, UNSAID_TOKENS),
        ("/v1/completions", {"prompt": "x", "max_tokens": "many", "n": "few"}, UNSAID_TOKENS),
        ("/v1/embeddings", {"input": "x", "max_tokens": 7}, 0),
        ("/v1/messages/count_tokens", {"messages": [], "max_tokens": 7}, 0),
    ],
)
def test_what_an_answer_may_have(path, more, answer):
    assert read_ask(path, json.dumps({"model": MODEL, **more}).encode()).answer_tokens == answer


# through a running edge ---------------------------------------------------------------------------------------


def bounded(**quota):
    """The user's key has a quota; the others' have none."""
    digest = hashlib.sha256(USER.encode()).hexdigest()
    free = hashlib.sha256(OTHER.encode()).hexdigest()
    grants = {digest: KeyGrant("acme", frozenset({"infer"}), quota=Quota(**quota))}
    return {**POLICY_KEYS, **grants, free: KeyGrant("other", frozenset({"infer"}))}


async def with_quota(world, script=None, **quota):
    edge = await world(names=("iad",), wait=False)
    region = edge.regions["iad"]
    region.keys = bounded(**quota)
    region.say_policy()
    await edge.until(lambda status: status["regions"]["iad"]["body"])
    for _ in range(3000):
        if (await edge.get("/v1/models", key=OTHER))[0] == 200:
            break
        await asyncio.sleep(0.01)
    region.script = script or region.script
    return edge, region


async def test_a_key_over_its_quota_is_told_so_as_openai_does_and_others_are_served(world):
    edge, region = await with_quota(
        world, streams(EVENT * 5, DONE + node_receipt(400, 300)), tokens_per_min=600, weight=3
    )
    status, headers, _ = await edge.ask("/v1/completions", STREAM_BODY)
    assert (status, headers["x-ratelimit-limit-tokens"]) == (200, "600")
    assert int(headers["x-ratelimit-remaining-tokens"]) == 600 - UNSAID_TOKENS - 1
    assert region.requests[-1][0].get("x-nearfield-weight") == "3"
    status, headers, body = await edge.ask("/v1/completions", STREAM_BODY)
    error = json.loads(body)["error"]
    assert (status, error["code"], error["type"], error["param"]) == (
        429,
        "rate_limit_exceeded",
        "tokens",
        None,
    )
    assert 0 < int(headers["retry-after"]) <= 60
    assert headers["x-ratelimit-remaining-tokens"] == "0", "700 were used of 600"
    assert headers["x-request-id"].startswith("req_")
    status, headers, _ = await edge.ask("/v1/completions", STREAM_BODY, key=OTHER)
    assert status == 200
    assert not [name for name in headers if name.startswith("x-ratelimit")]
    assert region.requests[-1][0].get("x-nearfield-weight") is None


async def test_anthropics_clients_have_their_own_shape(world):
    edge, _ = await with_quota(world, requests_per_min=1)
    body = json.dumps(
        {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    ).encode()
    assert (await edge.ask("/v1/messages", body))[0] == 200
    status, headers, said = await edge.ask("/v1/messages", body)
    assert (status, json.loads(said)["error"]["type"]) == (429, "rate_limit_error")
    assert int(headers["retry-after"]) >= 1


async def test_streams_at_once_wait_their_turn_and_a_client_that_goes_away_frees_its_own(world):
    gate = asyncio.Event()

    async def held(exchange, region):
        region.requests.append((exchange.head, await exchange.read_body(2**21)))
        await exchange.start(200, (("content-type", "text/event-stream"),))
        await exchange.write(EVENT)
        await gate.wait()
        await exchange.write(DONE)
        await exchange.finish()

    edge, region = await with_quota(world, held, streams=1)
    first = await edge.raw("POST", "/v1/completions", STREAM_BODY)
    assert await first.next(30) == EVENT
    second = asyncio.create_task(edge.raw("POST", "/v1/completions", STREAM_BODY))
    other = await edge.raw("POST", "/v1/completions", STREAM_BODY, key=OTHER)
    assert await other.next(30) == EVENT
    assert len(region.requests) == 2, "the second of the key waits at the edge"
    status, _, body = await edge.ask("/v1/completions", STREAM_BODY)
    assert (status, code(body)) == (429, "rate_limit_exceeded"), "as many as may run may wait, and no more"
    first.abort()
    answer = await second
    assert await answer.next(30) == EVENT
    gate.set()
    await whole(answer)
    await whole(other)
    waited = [head.get("x-nearfield-waited") for head, _ in region.requests]
    assert waited == [None, None, "1"], "the region is told whose key wants more than it may have"
