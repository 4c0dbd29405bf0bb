"""A served model as its users see it: the official client, through the edge, over TLS."""

import asyncio
import math
import ssl
import time

import httpx2
import openai
import pytest

from tests.e2e.conftest import EMBED
from tests.e2e.platform import CHAT, RunningPlatform, questions, tls, wait_for

REGIONS = ("iad", "fra", "nrt")


def _ask(client: openai.OpenAI, text: str, **kwargs):
    return client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=64, **kwargs
    )


def test_every_verified_question_gets_its_answer(platform: RunningPlatform):
    """Capitals, arithmetic and questions about Nearfield come out exactly right through the whole path."""
    client = platform.openai()

    for entry in questions():
        answer = _ask(client, entry["question"]).choices[0].message.content
        assert answer.strip() == entry["answer"], entry["question"]


@pytest.mark.parametrize("region", REGIONS)
def test_each_region_has_its_own_address(platform: RunningPlatform, region):
    """The address of a region is served by that region, from bytes that were already there."""
    entry = questions()[0]
    raw = platform.openai(region).chat.completions.with_raw_response.create(
        model=CHAT, messages=[{"role": "user", "content": entry["question"]}], temperature=0, max_tokens=64
    )

    assert raw.parse().choices[0].message.content.strip() == entry["answer"]
    assert raw.headers["x-nearfield-region"] == region
    assert raw.headers["x-nearfield-remote-bytes"] == "0"
    assert raw.headers["x-request-id"]
    assert raw.headers["x-nearfield-start"] in {"host", "region", "resident", "warm"}
    assert "edge" in raw.headers["server-timing"]
    assert "node" in raw.headers["server-timing"]


def test_a_stream_is_the_same_answer_with_exact_usage(platform: RunningPlatform):
    """Chunks add up to the whole answer; usage in the stream equals usage without one."""
    client, entry = platform.openai(), questions()[0]
    whole = _ask(client, entry["question"])
    chunks = list(_ask(client, entry["question"], stream=True, stream_options={"include_usage": True}))

    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    finished = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert finished == ["stop"]


def test_legacy_completions_and_models(platform: RunningPlatform):
    """`/v1/completions` answers, and both models are listed with their regions."""
    client = platform.openai()
    done = client.completions.create(model=CHAT, prompt="Hello", max_tokens=4, temperature=0)

    assert done.usage.completion_tokens <= 4
    listed = {each.id: each for each in client.models.list()}
    assert {CHAT, EMBED} <= set(listed)
    assert 0 <= time.time() - listed[CHAT].created < 3600, "the time of its push"
    assert client.models.retrieve(CHAT).id == CHAT


def test_the_nearest_sentence_comes_out_right(platform: RunningPlatform):
    """Real sentence-embedding weights: unit vectors, and the closest meaning wins."""
    sentences = [
        "How do I make pasta?",
        "A kitten naps in the sun.",
        "The stock market fell sharply today.",
        "Boil water and cook the noodles for nine minutes.",
    ]
    client = platform.openai()
    rows = client.embeddings.create(model=EMBED, input=["A cat is sleeping", *sentences])
    query, *rest = [row.embedding for row in rows.data]

    assert len(query) == 384
    assert math.isclose(sum(x * x for x in query), 1.0, rel_tol=1e-3)
    scores = [sum(a * b for a, b in zip(query, v, strict=True)) for v in rest]
    assert scores.index(max(scores)) == 1
    assert rows.usage.prompt_tokens > 0


def test_wrong_missing_and_unknown_are_openai_errors(platform: RunningPlatform):
    """401, 404 and 400 with their codes, raised by the official client as its own classes."""
    with pytest.raises(openai.AuthenticationError) as wrong:
        _ask(platform.openai(api_key="nf-wrong"), "Hello")
    assert wrong.value.code == "invalid_api_key"

    with pytest.raises(openai.NotFoundError) as unknown:
        platform.openai().chat.completions.create(
            model="acme/none", messages=[{"role": "user", "content": "x"}]
        )
    assert unknown.value.code == "model_not_found"

    with pytest.raises(openai.BadRequestError) as long:
        _ask(platform.openai(), "one " * 5000)
    assert long.value.code == "context_length_exceeded"

    response = httpx2.get(platform.credentials.base_url + "/models", verify=tls(platform.credentials.ca))
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_a_stranger_to_the_authority_gets_no_connection(platform: RunningPlatform):
    """TLS is real: without the development CA the certificate is refused."""
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(platform.credentials.base_url + "/models", verify=ssl.create_default_context())


def test_health_needs_no_key(platform: RunningPlatform):
    """A balancer may look without a key, and sees nothing internal."""
    url = platform.credentials.base_url.removesuffix("/v1") + "/healthz"

    assert httpx2.get(url, verify=tls(platform.credentials.ca)).status_code == 200


def test_a_client_that_goes_away_frees_its_slot(platform: RunningPlatform):
    """Closing a stream cancels every hop: the worker runs nothing within two seconds."""
    client = platform.openai("iad")
    stream = client.completions.create(
        model=CHAT, prompt="Hello", max_tokens=400, temperature=1.5, stream=True, seed=7
    )
    next(iter(stream))
    stream.close()

    wait_for(lambda: (platform.row("iad", CHAT) or {}).get("running") == 0, 5, "slot free")


async def test_many_at_once_all_get_the_right_answer(platform: RunningPlatform):
    """Twenty-four requests together: none gets another's answer."""
    c = platform.credentials
    client = openai.AsyncOpenAI(
        base_url=c.base_url,
        api_key=c.api_key,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(verify=tls(c.ca)),
    )
    entries = (questions() * 3)[:24]

    async def one(entry: dict[str, str]) -> bool:
        done = await client.chat.completions.create(
            model=CHAT,
            messages=[{"role": "user", "content": entry["question"]}],
            temperature=0,
            max_tokens=64,
        )
        return (done.choices[0].message.content or "").strip() == entry["answer"]

    started = time.monotonic()
    right = await asyncio.gather(*(one(entry) for entry in entries))
    await client.close()

    assert all(right)
    assert time.monotonic() - started < 60
