"""A stream that another node goes on with is, byte by byte, the one that nothing happened to; cut after any step."""

import json
from typing import Any

import pytest

from edge.relay.resume import Resumption
from inference.api.answer.resume import FIELD, GO, HEADER, WATCH
from tests.inference.fake_engine import ANSWER, VOCABULARY, Script, running_node
from tests.inference.test_node_serving import HI, load, post

EMOJI = VOCABULARY.encode("so 😀, é and 你: a b a b.", add_special=False)
CHAT: dict[str, Any] = {"model": "acme/m", "messages": HI, "stream": True, "temperature": 0}
TEXT: dict[str, Any] = {"model": "acme/m", "prompt": "a", "stream": True, "temperature": 0, "max_tokens": 50}
USAGE = {"stream_options": {"include_usage": True}}
EACH = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}


def script(answer, *, size=1):
    """An engine that goes on behind what an order resumes, in frames of `size` tokens."""

    def frames(order):
        left = answer[len(order.get("resumed", ())) :]
        return [left[at : at + size] for at in range(0, len(left), size)]

    return Script(answer=frames)


def events(body: str) -> str:
    """Without what is no event and without what the lines say."""
    client = Resumption()
    told = client.take(body.encode()).decode()
    return "".join(f"{each}\n\n" for each in told.split("\n\n") if each and not each.startswith(":"))


def blocks(body: str) -> list[bytes]:
    """The stream cut after each step: a head, groups, the end."""
    parts = [part + "\n\n" for part in body.split("\n\n") if part]
    starts = [at for at, part in enumerate(parts) if part.startswith(": nf ")]
    return [
        "".join(parts[: at + 1 + int(parts[at].split(" ", 4)[3]) - bool(parts[at].count("data:"))]).encode()
        for at in starts
    ]


@pytest.mark.parametrize(
    ("path", "body", "answer", "size"),
    [
        ("/v1/chat/completions", CHAT, ANSWER, 1),
        ("/v1/chat/completions", CHAT | USAGE, EMOJI, 1),
        ("/v1/chat/completions", CHAT | {"max_tokens": 7} | EACH, ANSWER, 3),
        ("/v1/chat/completions", CHAT | {"stop": ["fox ju"]} | USAGE, ANSWER, 1),
        ("/v1/completions", TEXT | EACH, EMOJI, 2),
        ("/v1/completions", TEXT | {"echo": True, "max_tokens": 5} | USAGE, ANSWER, 1),
        ("/v1/completions", TEXT | {"stop": ["a b"], "logit_bias": {"3": 1}}, EMOJI, 1),
    ],
)
async def test_cut_after_any_step_the_rest_is_what_it_would_have_been(
    tmp_path: Any, path: str, body: dict[str, Any], answer: list[int], size: int
) -> None:
    async with running_node(tmp_path, script(answer, size=size)) as node:
        await load(node)
        whole = (await post(node, path, body, **{HEADER: WATCH})).text
        cuts = blocks(whole)
        assert len(cuts) >= 2
        for cut in cuts:
            client = Resumption()
            client.begin("a" * 64)
            had = client.take(cut).decode()
            assert client.can_go_on is bool(client.tokens)
            if not client.tokens:
                continue
            asked = json.loads(client.body(json.dumps(body).encode()))
            told = (await post(node, path, asked, **{HEADER: GO})).text
            rest = client.take(told.encode()).decode()

            assert events(had + rest) == events(whole)
        usual = (await post(node, path, body)).text

    assert ": nf" not in usual
    assert shape(events(whole)) == shape(events(usual))  # the lines change nothing that a client sees
    orders = node.shell.engines[0].orders
    assert any(order.get("resumed") for order in orders)


def shape(stream: str) -> list[Any]:
    """A stream without the two fields that differ from answer to answer."""
    found = [json.loads(each[6:]) for each in stream.split("\n\n") if each and each != "data: [DONE]"]
    return [{k: v for k, v in each.items() if k not in {"id", "created"}} for each in found]


@pytest.mark.parametrize(
    "change",
    [{"temperature": 1.0}, {"n": 2}, {"logprobs": True}, {"stream": False}, {"temperature": 1.0, "seed": 1}],
)
async def test_what_no_other_node_would_say_alike_is_not_numbered(tmp_path: Any, change: Any) -> None:
    async with running_node(tmp_path) as node:
        await load(node)
        answer = await post(node, "/v1/chat/completions", CHAT | change, **{HEADER: WATCH})

    assert answer.status_code == 200
    assert ": nf" not in answer.text


async def test_the_likeliest_token_is_greedy_whatever_the_temperature(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        await load(node)
        answer = await post(
            node, "/v1/chat/completions", CHAT | {"top_k": 1, "temperature": 1.0}, **{HEADER: WATCH}
        )

    assert ": nf" in answer.text


@pytest.mark.parametrize(
    ("told", "more"),
    [
        (None, {}),
        ({"tokens": [1], "id": "x"}, {}),
        ({"tokens": [10**6], "id": "x", "created": 1, "finished": False}, {}),
        ({"tokens": "ab", "id": "x", "created": 1, "finished": False}, {}),
        ({"tokens": [1], "id": "x", "created": 1, "finished": False}, {"temperature": 1.0}),
    ],
)
async def test_a_question_to_go_on_that_makes_no_sense_is_refused(
    tmp_path: Any, told: Any, more: Any
) -> None:
    async with running_node(tmp_path) as node:
        await load(node)
        body = CHAT | more | ({FIELD: told} if told is not None else {})
        answer = await post(node, "/v1/chat/completions", body, **{HEADER: GO})

    assert answer.status_code == 400


async def test_a_client_cannot_put_words_into_the_models_mouth(tmp_path: Any) -> None:
    """Without the hop's own word to go on the field is one that nobody knows."""
    async with running_node(tmp_path) as node:
        await load(node)
        body = CHAT | {FIELD: {"tokens": [1], "id": "x", "created": 1, "finished": False}}
        answers = [await post(node, "/v1/chat/completions", body, **more) for more in ({}, {HEADER: WATCH})]

    assert [answer.status_code for answer in answers] == [400, 400]
