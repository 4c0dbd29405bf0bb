"""Every parameter of the official client is honoured, or refused by its name."""

from typing import Any, get_args

import openai.types.chat.completion_create_params as chat_params
import openai.types.completion_create_params as completion_params
import openai.types.embedding_create_params as embedding_params
import pytest
from openai.types.shared_params.reasoning_effort import ReasoningEffort

from inference.api.answer.resume import can_resume
from inference.api.answer.sequences import Job, ModelLimits, orders
from inference.api.request import kinds as request
from inference.api.request.kinds import ChatRequest, read_chat, read_completion, read_embedding
from inference.api.request.sampling import Defaults, Sampling, engine_fields
from inference.api.route_fields import REFUSED
from inference.engine.orders.asked import Bounds
from inference.engine.orders.reading import parse_order
from wire.refused.refusal import Refusal

CHAT: dict[str, Any] = {"model": "a/m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "a/m", "prompt": "hi"}
EMBEDDING: dict[str, Any] = {"model": "a/m", "input": "hi"}
ROUTES = {
    "chat": (CHAT, read_chat, request._CHAT),
    "completion": (COMPLETION, read_completion, request._COMPLETION),
    "embedding": (EMBEDDING, read_embedding, request._EMBEDDING),
}


def refusal(read: Any, body: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        read(body)
    assert refused.value.status == 400
    assert refused.value.kind == "invalid_request_error"
    return refused.value


@pytest.mark.parametrize(
    ("params", "route"),
    [
        (chat_params.CompletionCreateParamsBase, "chat"),
        (completion_params.CompletionCreateParamsBase, "completion"),
        (embedding_params.EmbeddingCreateParams, "embedding"),
    ],
)
def test_no_parameter_of_the_official_client_is_unknown(params: Any, route: str) -> None:
    """Each is in our table, or in the table of what we refuse with a reason."""
    table = ROUTES[route][2]
    official = set(params.__annotations__)

    assert official - set(table) - set(REFUSED) == set()
    assert {"model", "user"} <= set(table)


OFFICIAL = {
    "chat": chat_params.CompletionCreateParamsStreaming,
    "completion": completion_params.CompletionCreateParamsStreaming,
    "embedding": embedding_params.EmbeddingCreateParams,
}
WITNESS: dict[str, Any] = {
    "best_of": 2,
    "dimensions": 3,
    "echo": True,
    "encoding_format": "base64",
    "frequency_penalty": 0.5,
    "input": "ho",
    "logit_bias": {"1": 5},
    "logprobs": 2,
    "max_completion_tokens": 9,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "hoho"},
    "reasoning_effort": "low",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "ho"}],
    "model": "a/other",
    "n": 2,
    "presence_penalty": 0.5,
    "prompt": "ho",
    "response_format": {"type": "json_object"},
    "seed": 5,
    "stop": "x",
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_logprobs": 2,
    "top_p": 0.5,
}
"""A value of each honoured parameter that no request has by default."""
TOGETHER: dict[str, dict[str, Any]] = {
    "best_of": {"n": 2},
    "parallel_tool_calls": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "tool_choice": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
}
"""What a parameter needs beside it."""
LABELS = {"metadata": {"a": "b"}, "prompt_cache_key": "k", "safety_identifier": "s", "user": "u"}
"""Parameters that say something about a request and ask for nothing: checked, and no answer depends on them."""


def official(route: str) -> list[tuple[str, str]]:
    """The parameters of the client's own method, by introspection: its type's fields, inherited ones too."""
    return [
        (route, name)
        for name in sorted(OFFICIAL[route].__required_keys__ | OFFICIAL[route].__optional_keys__)
    ]


@pytest.mark.parametrize(("route", "name"), [pair for route in OFFICIAL for pair in official(route)])
def test_each_official_parameter_is_honoured_or_refused_by_name(route: str, name: str) -> None:
    """Honoured: what is read differs with it. Nothing is ignored: the three lists share no name and leave none out."""
    body, read, table = ROUTES[route]
    value = True if (route, name) == ("chat", "logprobs") else WITNESS.get(name)
    beside = TOGETHER.get(name, {})
    known = [name in REFUSED and name not in table, name in LABELS, name in WITNESS]
    assert known.count(True) == 1, name

    if name in WITNESS:
        if name == "best_of":
            assert refusal(read, body | {name: value}).param == name
        assert read(body | beside | {name: value}) != read(
            body | {k: v for k, v in beside.items() if k != "n"}
        )
    elif name in LABELS:
        assert read(body | {name: LABELS[name]}) == read(body)
        assert (refusal(read, body | {name: 1}).param or "").startswith(name)
    else:
        said = refusal(read, body | {name: {"some": "value"}})
        assert (said.param, said.code) == (name, "unsupported_parameter")


def test_the_client_has_not_grown_parameters_unseen() -> None:
    """The counts that docs/api.md states."""
    assert {route: len(official(route)) for route in OFFICIAL} == {
        "chat": 37,
        "completion": 18,
        "embedding": 5,
    }


@pytest.mark.parametrize(
    ("route", "field"),
    [
        (route, field)
        for route in ("chat", "completion")
        for field in sorted(set(REFUSED) - set(ROUTES[route][2]))
    ],
)
def test_what_is_not_honoured_is_refused_by_name(route: str, field: str) -> None:
    body, read, _ = ROUTES[route]
    said = refusal(read, body | {field: {"some": "value"}})

    assert (said.param, said.code) == (field, "unsupported_parameter")
    assert field in said.message


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_a_value_that_asks_for_nothing_is_taken(field: str) -> None:
    for neutral in (None, *REFUSED[field][0]):
        assert isinstance(read_chat(CHAT | {field: neutral}), ChatRequest)


def test_false_is_not_zero_when_it_comes_to_asking_for_nothing() -> None:
    assert refusal(read_chat, CHAT | {"store": 0}).param == "store"


@pytest.mark.parametrize("route", list(ROUTES))
def test_an_unknown_parameter_is_refused_with_a_hint(route: str) -> None:
    body, read, _ = ROUTES[route]

    assert refusal(read, body | {"modell": 1}).param == "modell"
    assert "Did you mean 'model'" in refusal(read, body | {"modell": 1}).message
    assert refusal(read, body | {"zzz": None}).code == "unknown_parameter"


@pytest.mark.parametrize(
    ("route", "field", "value"),
    [
        ("chat", "temperature", -0.1),
        ("chat", "temperature", 2.01),
        ("chat", "temperature", True),
        ("chat", "temperature", "1"),
        ("chat", "top_p", 1.1),
        ("chat", "n", 0),
        ("chat", "n", 5),
        ("chat", "n", 1.0),
        ("chat", "max_tokens", 0),
        ("chat", "max_completion_tokens", 0),
        ("chat", "stop", ["a"] * 5),
        ("chat", "stop", ""),
        ("chat", "stop", [1]),
        ("chat", "seed", 2**63),
        ("chat", "presence_penalty", 2.1),
        ("chat", "logit_bias", {"x": 1}),
        ("chat", "logit_bias", {"1": 101}),
        ("chat", "logit_bias", {"1": 1, "01": 2}),
        ("chat", "logit_bias", {str(i): 1 for i in range(301)}),
        ("chat", "top_logprobs", 21),
        ("chat", "stream", "yes"),
        ("chat", "messages", []),
        ("chat", "messages", "hi"),
        ("chat", "metadata", {"a": 1}),
        ("chat", "user", "x" * 513),
        ("chat", "repetition_penalty", 0),
        ("chat", "min_p", -1),
        ("chat", "top_k", -2),
        ("completion", "logprobs", 6),
        ("completion", "logprobs", True),
        ("completion", "prompt", []),
        ("completion", "prompt", [1, -1]),
        ("completion", "prompt", [[1], []]),
        ("completion", "prompt", ["a", 1]),
        ("completion", "prompt", ["a"] * 33),
        ("completion", "echo", 1),
        ("embedding", "input", []),
        ("embedding", "input", {"a": 1}),
        ("embedding", "input", ["a"] * 2049),
        ("embedding", "encoding_format", "int8"),
        ("embedding", "dimensions", 0),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(route: str, field: str, value: Any) -> None:
    body, read, _ = ROUTES[route]

    assert (refusal(read, body | {field: value}).param or "").split("[")[0].split(".")[0] == field


@pytest.mark.parametrize("route", list(ROUTES))
@pytest.mark.parametrize("number", [0, 1])
def test_what_is_required_is_named(route: str, number: int) -> None:
    body, read, _ = ROUTES[route]
    field = list(body)[number]
    missing = {key: value for key, value in body.items() if key != field}

    assert refusal(read, missing).param == field
    assert refusal(read, body | {field: None}).param == field


def test_chat_carries_everything_it_honours() -> None:
    asked = read_chat(
        CHAT
        | {
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 5,
            "min_p": 0.1,
            "seed": -3,
            "max_completion_tokens": 7,
            "min_tokens": 2,
            "stop": "END",
            "stop_token_ids": [3],
            "include_stop_str_in_output": True,
            "ignore_eos": True,
            "skip_special_tokens": False,
            "presence_penalty": 1,
            "frequency_penalty": -1,
            "repetition_penalty": 1.5,
            "logit_bias": {"5": -100},
            "logprobs": True,
            "top_logprobs": 2,
            "n": 2,
            "stream": True,
            "stream_options": {
                "include_usage": True,
                "include_obfuscation": False,
                "continuous_usage_stats": True,
            },
            "chat_template_kwargs": {"enable_thinking": False},
            "add_generation_prompt": False,
            "user": "u",
            "metadata": {"a": "b"},
        }
    )

    assert asked.sampling == Sampling(
        temperature=0,
        top_p=0.5,
        top_k=5,
        min_p=0.1,
        repetition_penalty=1.5,
        presence_penalty=1,
        frequency_penalty=-1,
        seed=-3,
        max_tokens=7,
        min_tokens=2,
        stop=("END",),
        stop_ids=(3,),
        include_stop=True,
        ignore_eos=True,
        keep_special=True,
        logit_bias=((5, -100.0),),
    )
    assert asked.delivery == request.Delivery(2, True, True, 2, continuous_usage=True)
    assert asked.template_kwargs == {"enable_thinking": False}
    assert asked.add_generation_prompt is False


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (CHAT | {"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        (CHAT | {"top_logprobs": 3}, "top_logprobs"),
        (CHAT | {"stream_options": {"include_usage": True}}, "stream_options"),
        (
            CHAT | {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        (CHAT | {"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        (
            CHAT
            | {"stream": True, "stream_options": {"include_usage": False, "continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
        ),
        (
            CHAT | {"stream": True, "stream_options": {"continuous_usage_stats": 1}},
            "stream_options.continuous_usage_stats",
        ),
        (CHAT | {"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(body: dict[str, Any], param: str) -> None:
    assert refusal(read_chat, body).param == param


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, (False, False)),
        ({"include_usage": None, "continuous_usage_stats": None}, (False, False)),
        ({"include_usage": True, "continuous_usage_stats": False}, (True, False)),
        ({"continuous_usage_stats": True}, (True, True)),
        ({"include_usage": None, "continuous_usage_stats": True}, (True, True)),
    ],
)
def test_counts_in_each_chunk_ask_for_those_of_the_end(
    options: dict[str, Any], wanted: tuple[bool, bool]
) -> None:
    """As vLLM's own default has it."""
    asked = read_completion(COMPLETION | {"stream": True, "stream_options": options}).delivery

    assert (asked.include_usage, asked.continuous_usage) == wanted


def test_legacy_completions_keep_their_own_rules() -> None:
    assert read_completion(COMPLETION).sampling.max_tokens == 16
    assert read_completion(COMPLETION | {"prompt": [1, 2]}).prompts == ((1, 2),)
    assert read_completion(COMPLETION | {"prompt": ["a", "b"]}).prompts == ("a", "b")
    assert read_completion(COMPLETION | {"prompt": [[1], [2, 3]]}).prompts == ((1,), (2, 3))
    assert read_completion(COMPLETION | {"best_of": 2, "n": 2}).delivery.num_choices == 2
    assert refusal(read_completion, COMPLETION | {"best_of": 2}).param == "best_of"
    assert refusal(read_completion, COMPLETION | {"echo": True, "logprobs": 0}).param == "logprobs"
    assert refusal(read_completion, COMPLETION | {"suffix": "x"}).param == "suffix"


@pytest.mark.parametrize("effort", [each for each in get_args(get_args(ReasoningEffort)[0]) if each])
def test_each_effort_of_the_client_is_the_templates_to_know(effort: str) -> None:
    assert read_chat(CHAT | {"reasoning_effort": effort}).reasoning_effort == effort


@pytest.mark.parametrize("name", ["messages", "tools"])
def test_a_templates_arguments_are_not_the_requests_own(name: str) -> None:
    """The one was ignored, the other offered tools whose calls nobody read."""
    said = refusal(read_chat, CHAT | {"chat_template_kwargs": {name: []}})

    assert said.param == f"chat_template_kwargs.{name}"


CALL: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages[0]"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 1}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "function", "content": "x", "name": "f"}, "messages[0].role"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "user", "content": "x", "tool_call_id": "1"}, "messages[0].tool_call_id"),
        ({"role": "user", "content": "x", "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls"),
        ({"role": "user", "content": "x", "nmae": "y"}, "messages[0].nmae"),
        (
            {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]},
            "messages[0].tool_calls[0].type",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": "x", "name": "y" * 65}, "messages[0].name"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "prompt_cache_breakpoint": {}}]},
            "messages[0].content[0].prompt_cache_breakpoint",
        ),
        ({"role": "assistant", "tool_calls": [CALL | {"x": 1}]}, "messages[0].tool_calls[0].x"),
        (
            {"role": "assistant", "tool_calls": [CALL | {"function": CALL["function"] | {"x": 1}}]},
            "messages[0].tool_calls[0].function.x",
        ),
        ({"role": "user", "content": "x", "parsed": {}}, "messages[0].parsed"),
    ],
)
def test_a_message_at_fault_is_named(message: Any, param: str) -> None:
    assert refusal(read_chat, CHAT | {"messages": [message]}).param == param


def test_what_the_clients_helper_made_of_an_answer_may_be_sent_back_with_it() -> None:
    """`chat.completions.parse` adds `parsed` and `parsed_arguments`, a stream put together keeps `index`."""
    plain = {"role": "assistant", "content": "{}", "tool_calls": [CALL]}
    told = CALL["function"] | {"parsed_arguments": {"a": 1}}
    helped = plain | {"parsed": {}, "tool_calls": [CALL | {"index": 0, "function": told}]}
    part = {"type": "text", "text": "a", "prompt_cache_breakpoint": None}

    assert (
        read_chat(CHAT | {"messages": [helped]}).messages == read_chat(CHAT | {"messages": [plain]}).messages
    )
    assert read_chat(CHAT | {"messages": [{"role": "user", "content": [part]}]}).messages[0]["content"] == "a"


def test_messages_become_what_templates_read() -> None:
    asked = read_chat(
        CHAT
        | {
            "messages": [
                {"role": "developer", "content": "be brief"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    "name": "Eve",
                },
                {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
            ]
        }
    )

    assert asked.messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb", "name": "Eve"},
        {"role": "assistant", "content": "c"},
    )


def test_sampling_is_decided_by_the_request_then_the_model_then_openai() -> None:
    plain = engine_fields(Sampling(), Defaults.from_config({}))
    models = Defaults.from_config(
        {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": "wrong", "min_p": 7}
    )

    assert (plain["temperature"], plain["top_p"], plain["top_k"]) == (1.0, 1.0, 0)
    assert engine_fields(Sampling(), models)["temperature"] == 0.6
    assert engine_fields(Sampling(), models)["top_p"] == 1.0
    assert engine_fields(Sampling(temperature=1.5, top_k=-1), models)["temperature"] == 1.5
    assert engine_fields(Sampling(temperature=1.5, top_k=-1), models)["top_k"] == 0
    assert engine_fields(Sampling(), Defaults.from_config({"do_sample": False}))["temperature"] == 0.0
    assert [engine_fields(Sampling(temperature=t), models)["temperature"] for t in (1e-300, 0, 1e-4)] == [
        0,
        0,
        1e-4,
    ]
    assert engine_fields(Sampling(top_p=0.0), models)["top_k"] == 1
    assert engine_fields(Sampling(top_p=0.0), models)["top_p"] == 1.0


@pytest.mark.parametrize(
    ("field", "models", "own"),
    [
        ("temperature", 0.6, 1.5),
        ("top_p", 0.9, 0.5),
        ("top_k", 20, 3),
        ("min_p", 0.05, 0.2),
        ("repetition_penalty", 1.1, 1.7),
    ],
)
def test_each_choice_is_the_requests_and_else_the_models(field, models, own):
    defaults = Defaults.from_config({field: models})

    assert engine_fields(Sampling(), defaults)[field] == models
    assert engine_fields(Sampling(**{field: own}), defaults)[field] == own


def test_the_most_and_the_least_biases_are_taken():
    most = {str(token): 1.0 for token in range(300)}
    assert len(request.read_chat(CHAT | {"logit_bias": most}).sampling.logit_bias) == 300
    for key in ("0", str(2**31 - 1), "0000000007"):
        assert request.read_chat(CHAT | {"logit_bias": {key: -100}}).sampling.logit_bias == (
            (int(key), -100.0),
        )
    for key in (str(2**31), "00000000007"):
        assert refusal(request.read_chat, CHAT | {"logit_bias": {key: 1}}).status == 400


@pytest.mark.parametrize(
    ("seed", "seeds"), [(None, [None] * 3), (7, [7, 8, 9]), (-2, [2**64 - 2, 2**64 - 1, 0])]
)
def test_choices_have_seeds_of_their_own_that_an_engine_takes(seed, seeds):
    job = Job(([1, 2], [3]), Sampling(seed=seed), request.Delivery(num_choices=3), follows_text=False)
    made = orders(job, ModelLimits(16, 100, ()), Defaults())

    assert [order["seed"] for order in made] == seeds * 2
    for number, order in enumerate(made):
        assert parse_order(order | {"id": str(number)}, Bounds(100, 16)).sampling.seed == order["seed"]


@pytest.mark.parametrize(
    ("is_greedy", "is_deterministic", "seed", "can"),
    [
        (True, False, None, True),
        (False, True, 0, True),
        (False, True, None, False),
        (False, False, 7, False),
    ],
)
def test_an_answer_goes_on_elsewhere_if_everybody_makes_it_alike(is_greedy, is_deterministic, seed, can):
    def asked(*prompts, **delivery):
        job = Job(prompts, Sampling(seed=seed), request.Delivery(**delivery), follows_text=False)
        return can_resume(job, is_greedy=is_greedy, is_deterministic=is_deterministic)

    assert asked([1]) is can
    assert not any((asked([1], [2]), asked([1], num_choices=2), asked([1], logprobs=0)))


def test_a_messages_thoughts_go_to_the_template_and_unknown_fields_to_nobody():
    said = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    assert read_chat(CHAT | {"messages": [said]}).messages == (said,)
    for value in (None, "x"):
        refused = refusal(read_chat, CHAT | {"messages": [{"role": "user", "content": "a", "zzz": value}]})
        assert (refused.param, refused.code) == ("messages[0].zzz", "unknown_parameter")
