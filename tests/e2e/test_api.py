"""The routes beside chat on a real engine and the whole path, and poison through the front door."""

import json
import math
from typing import Any

import httpx2
import openai
import pytest

from tests.e2e.conftest import EMBED
from tests.e2e.platform import CHAT, RunningPlatform, questions, tls, wait_for
from tests.evidence import IS_WHOLE
from tests.inference import poison
from tests.inference.poisoned import Healthy, poisoned
from tests.inference.test_messages_route import events_of, put_together

ENTRY = questions()[0]
ASKED = [{"role": "user", "content": ENTRY["question"]}]
MESSAGE: dict[str, Any] = {"model": CHAT, "max_tokens": 64, "messages": ASKED, "temperature": 0}


def url_of(platform: RunningPlatform) -> str:
    """The edge's address, without the API's prefix."""
    return platform.credentials.base_url.removesuffix("/v1")


@pytest.fixture
def theirs(platform: RunningPlatform):
    """A client that shows its key as Anthropic's does."""
    c = platform.credentials
    heads = {"x-api-key": c.api_key, "anthropic-version": "2023-06-01"}
    with httpx2.Client(base_url=url_of(platform), headers=heads, verify=tls(c.ca), timeout=60) as http:
        yield http


def test_a_response_whole_and_streamed(platform: RunningPlatform):
    client = platform.openai()
    body: dict[str, Any] = {
        "model": CHAT,
        "input": ENTRY["question"],
        "temperature": 0,
        "max_output_tokens": 64,
    }
    whole = client.responses.create(**body)
    with client.responses.stream(**body) as stream:
        events = list(stream)
        made = stream.get_final_response()
    again = client.responses.create(**body | {"input": [*ASKED, *whole.output, ASKED[0]]})

    assert whole.output_text.strip() == made.output_text.strip() == ENTRY["answer"]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert whole.usage.output_tokens == made.usage.output_tokens
    assert whole.usage.input_tokens == made.usage.input_tokens
    assert again.usage.input_tokens > 2 * whole.usage.input_tokens, "the conversation was brought along"
    with pytest.raises(openai.BadRequestError) as kept:
        client.responses.create(**body, previous_response_id="resp_1")
    assert kept.value.param == "previous_response_id"


def test_a_message_with_anthropics_key_whole_and_streamed(theirs: httpx2.Client):
    whole = theirs.post("/v1/messages", json=MESSAGE).json()
    made = put_together(events_of(theirs.post("/v1/messages", json=MESSAGE | {"stream": True}).text))
    counted = theirs.post("/v1/messages/count_tokens", json={"model": CHAT, "messages": ASKED}).json()
    usage = whole["usage"]

    assert whole["content"][0]["text"].strip() == ENTRY["answer"]
    assert (made["content"], made["stop_reason"]) == (whole["content"], whole["stop_reason"])
    assert made["usage"]["output_tokens"] == usage["output_tokens"]
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


@pytest.mark.parametrize(
    ("change", "headers", "status", "kind"),
    [
        ({}, {"x-api-key": "nf-wrong"}, 401, "authentication_error"),
        ({"model": "acme/none"}, {}, 404, "not_found_error"),
        ({"max_tokens": 0}, {}, 400, "invalid_request_error"),
        ({"model": EMBED}, {}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "one " * 5000}]}, {}, 400, "invalid_request_error"),
    ],
)
def test_every_hop_refuses_a_message_in_anthropics_shape(
    theirs: httpx2.Client, change, headers, status, kind
):
    answer = theirs.post("/v1/messages", json=MESSAGE | change, headers=headers)
    said = answer.json()

    assert (answer.status_code, said["type"], said["error"]["type"]) == (status, "error", kind)
    assert answer.headers["x-request-id"]


def test_documents_are_ranked_by_meaning(theirs: httpx2.Client, platform: RunningPlatform):
    documents = ["How do I make pasta?", "The stock market fell sharply today.", "A kitten naps in the sun."]
    query = "A cat is sleeping"
    ranked = theirs.post("/v1/rerank", json={"model": EMBED, "query": query, "documents": documents}).json()
    rows = platform.openai().embeddings.create(model=EMBED, input=[query, *documents])
    first, *rest = [row.embedding for row in rows.data]
    cosines = [sum(a * b for a, b in zip(first, each, strict=True)) for each in rest]
    scores = {one["index"]: one["relevance_score"] for one in ranked["results"]}

    assert ranked["results"][0]["document"]["text"] == documents[2]
    assert all(math.isclose(scores[n], cosine, abs_tol=1e-4) for n, cosine in enumerate(cosines))
    assert ranked["usage"]["total_tokens"] == rows.usage.total_tokens


def test_tokens_go_there_and_back(theirs: httpx2.Client, platform: RunningPlatform):
    for model in (CHAT, EMBED):
        made = theirs.post(
            "/tokenize", json={"model": model, "prompt": "hello", "add_special_tokens": False}
        ).json()
        back = theirs.post("/v1/detokenize", json={"model": model, "tokens": made["tokens"]}).json()
        assert (back["prompt"].strip(), made["count"]) == ("hello", len(made["tokens"]))
    chat = theirs.post("/tokenize", json={"model": CHAT, "messages": ASKED}).json()
    whole = platform.openai().chat.completions.create(model=CHAT, messages=ASKED, max_tokens=1)

    assert chat["count"] == whole.usage.prompt_tokens


def test_choices_and_their_scores_are_the_same_in_a_stream(platform: RunningPlatform):
    """`n` with a seed: each choice's text and probabilities, streamed, are those of the whole answer."""
    client = platform.openai()
    body: dict[str, Any] = {
        "model": CHAT,
        "messages": ASKED,
        "n": 3,
        "seed": 5,
        "max_tokens": 12,
        "temperature": 1.2,
    }
    body |= {"logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**body)
    texts, scores = [""] * 3, [[] for _ in range(3)]
    for chunk in client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            scores[choice.index] += choice.logprobs.content if choice.logprobs else []
    legacy = client.completions.create(model=CHAT, prompt="Hello", logprobs=2, max_tokens=4, seed=1).choices[
        0
    ]

    assert texts == [choice.message.content for choice in whole.choices]
    for mine, choice in zip(scores, whole.choices, strict=True):
        assert [(one.token, one.bytes) for one in mine] == [
            (one.token, one.bytes) for one in choice.logprobs.content
        ]
        assert all(len(one.top_logprobs) == 3 for one in mine)
        assert b"".join(bytes(one.bytes) for one in mine).decode() == choice.message.content
    for token, score, top in zip(
        legacy.logprobs.tokens, legacy.logprobs.token_logprobs, legacy.logprobs.top_logprobs, strict=True
    ):
        assert top[token] == score
        assert len(top) in {2, 3}, "the likeliest two, and the chosen one if it is neither"


RESPONSE: dict[str, Any] = {"model": CHAT, "input": ENTRY["question"], "max_output_tokens": 16}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("change", "key", "kind", "words"),
    [
        ({"model": "acme/none"}, None, openai.NotFoundError, "acme/none"),
        ({"model": EMBED}, None, openai.BadRequestError, EMBED),
        ({"temperature": 9}, None, openai.BadRequestError, "temperature"),
        ({"max_output_tokens": 100_000}, None, openai.BadRequestError, "tokens"),
        ({"input": "one " * 5000}, None, openai.BadRequestError, "tokens"),
        ({"input": [{"type": "nonsense"}]}, None, openai.BadRequestError, "input[0]"),
        ({"extra_body": {"nonsense": 1}}, None, openai.BadRequestError, "nonsense"),
        ({"background": True}, None, openai.BadRequestError, "background"),
        ({"input": "x" * (1 << 21)}, None, openai.APIStatusError, "exceeds"),
        ({}, "nf-wrong", openai.AuthenticationError, "key"),
    ],
)
def test_the_official_client_raises_its_own_error_with_our_words(
    platform: RunningPlatform, stream, change, key, kind, words
):
    client = platform.openai(**({"api_key": key} if key else {}))
    with pytest.raises(kind) as refused:
        client.responses.create(**RESPONSE | change, stream=stream)

    assert words in refused.value.message
    assert refused.value.code
    assert refused.value.request_id


def test_what_is_not_kept_cannot_be_asked_for(platform: RunningPlatform):
    made = platform.openai().responses.create(**RESPONSE)
    for ask in (platform.openai().responses.retrieve, platform.openai().responses.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)


def test_a_response_that_is_left_frees_its_slot(platform: RunningPlatform):
    client = platform.openai("iad")
    with client.responses.create(
        **RESPONSE | {"max_output_tokens": 400, "temperature": 1.5}, stream=True
    ) as events:
        assert next(iter(events)).type == "response.created"

    wait_for(lambda: (platform.row("iad", CHAT) or {}).get("running") == 0, 10, "slots free")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot_streamed_or_not(platform: RunningPlatform, stream):
    """Each hop's connection is cut by the one before it; the worker runs nothing soon after."""
    client = platform.openai("iad", timeout=httpx2.Timeout(0.3) if not stream else 60.0)
    body: dict[str, Any] = {"model": CHAT, "prompt": "Hello", "max_tokens": 500, "temperature": 1.5, "n": 4}
    body |= {"extra_body": {"ignore_eos": True}}
    if stream:
        made = client.completions.create(**body, stream=True)
        next(iter(made))
        made.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(**body)

    wait_for(lambda: (platform.row("iad", CHAT) or {}).get("running") == 0, 10, "slots free")


async def test_poison_through_the_front_door_hurts_nobody(platform: RunningPlatform):
    """Whatever comes, each gets one clear answer, the others get theirs, and no process is another one after it."""
    c, pids = platform.credentials, platform.role_pids()
    row = platform.row("iad", CHAT)
    every = list(poison.corpus(CHAT, row["max_len"]))
    poisons = (
        every if IS_WHOLE else [one for one in every if not one.is_slow][1::2]
    )  # the node's test has the others
    assert len(poisons) >= 200
    heads = {"authorization": f"Bearer {c.api_key}"}
    async with httpx2.AsyncClient(verify=tls(c.ca), headers=heads, timeout=60) as http:
        bodies = [
            ("/v1/chat/completions", MESSAGE | {"messages": [{"role": "user", "content": entry["question"]}]})
            for entry in questions()[:3]
        ]
        well = Healthy(http, url_of(platform), bodies)
        async with well.beside():
            faults = await poisoned(http, url_of(platform), [*poison.strangers(), *poisons])

    assert faults == []
    assert well.faults == []
    assert [text.strip() for text in well.texts] == [entry["answer"] for entry in questions()[:3]]
    assert platform.role_pids() == pids
    assert json.dumps(platform.row("iad", CHAT)["revision"]) == json.dumps(row["revision"])
