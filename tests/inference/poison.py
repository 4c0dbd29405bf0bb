"""Requests that mean harm, as one table. Who sends them looks at two things: what each is told, and who is hurt.

`corpus(model, max_len, poison)` gives them for a model that is served: its name, its context, and the token
(if it has one, as text and id) that makes its logits NaN.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
JSON_TYPE = "application/json"
BOMB = "(a|b?|c*){1,50}" * 40
HUGE = 10**18


@dataclass(frozen=True)
class Poison:
    """One request. `must_fail`: its answer is a 4xx, else it may be answered as well."""

    name: str
    path: str
    body: bytes
    must_fail: bool
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def is_slow(self) -> bool:
        """It costs a second or so of the machine: a megabyte is cut into tokens, or a child process dies of it."""
        return any(name in self.name for name in SLOW)


SLOW = (
    *("one word", "combining characters", "messages: a megabyte", "a megabyte to count", "template: memory"),
    *(
        "template: text",
        "template: a call of itself",
        "parameters: patterns",
        "structure: counts",
        "endless",
        "ten thousand",
    ),
    *(
        "in a grammar",
        "parameters: a pattern bomb",
        "parameters: nested",
        "parameters: any of",
        "parameters: all of",
    ),
)
"""Parts of the names of those that only the whole run sends; one of each kind is sent always."""
BAD_JSON: dict[str, bytes] = {
    "nothing": b"",
    "a blank": b" \n",
    "half an object": b'{"model": ',
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a string": b'"x"',
    "an empty object": b"{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"model": "x"}'.encode("utf-16"),
    "latin-1": '{"model": "\xe9"}'.encode("latin-1"),
    "an overlong slash": b'{"model": "\xc0\xaf"}',
    "a surrogate in utf-8": b'{"model": "\xed\xa0\x80"}',
    "zero bytes": b"\x00" * 64,
    "all bytes": bytes(range(256)),
    "two objects": b"{}{}",
    "something after it": b'{"model": "a/b"} x',
    "a comment": b'{"model": "a/b" /* */}',
    "single quotes": b"{'model': 'a/b'}",
    "a trailing comma": b'{"model": "a/b",}',
    "a raw line end in a string": b'{"model": "a\nb"}',
    "a bad escape": b'{"model": "\\x41"}',
    "half an escape": b'{"model": "\\u12"}',
    "lists without end": b"[" * 100_000,
    "a deep list": b'{"model": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a deep object": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "over a megabyte": b'{"model": "' + b"x" * (1 << 20) + b'"}',
    "a form": b"model=a%2Fb&prompt=x",
    "xml": b"<model>a/b</model>",
}
IN_THE_BODY: dict[str, bytes] = {
    "NaN": b'"temperature": NaN',
    "Infinity": b'"temperature": Infinity',
    "-Infinity": b'"top_p": -Infinity',
    "a float over all": b'"temperature": 1e999',
    "5,000 digits": b'"seed": ' + b"9" * 5_000,
    "30 digits": b'"max_tokens": ' + b"1" * 30,
    "a fraction of 5,000 digits": b'"temperature": 3.' + b"3" * 5_000,
    "an exponent of 30 digits": b'"temperature": 1e' + b"9" * 30,
    "a key twice": b'"seed": 1, "seed": 2',
    "a key twice, inside": b'"logit_bias": {"1": 1, "1": 2}',
    "a key twice, escaped": b'"seed": 1, "se\\u0065d": 2',
    "a lone high surrogate": b'"stop": "\\ud800"',
    "a lone low surrogate": b'"stop": "\\udc00"',
    "surrogates the wrong way": b'"user": "\\udc00\\ud800"',
    "a surrogate in a key": b'"\\ud800": 1',
    "depth 40": b'"chat_template_kwargs": ' + b'{"a":' * 40 + b"1" + b"}" * 40,
    "many keys": b",".join(b'"k%d": null' % n for n in range(20_000)),
    "a long key": b'"' + b"k" * 100_000 + b'": 1',
    "a pollution": b'"__proto__": {"admin": true}',
    "a class": b'"__class__": "x"',
}
HOSTILE: dict[str, Any] = {
    "-1": -1,
    "huge": HUGE,
    "-huge": -HUGE,
    "1e308": 1e308,
    "true": True,
    "a text": "x",
    "an empty text": "",
    "a zero byte": "\x00",
    "a list": [[]],
    "an object": {"a": {"b": []}},
}
PARAMETERS = (
    *("temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "min_tokens", "seed", "logprobs"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "stop", "stop_token_ids"),
    *("stream", "stream_options", "response_format", "structured_outputs", "guided_regex", "priority"),
)
TAKEN = {
    ("seed", "-1"), ("seed", "huge"), ("seed", "-huge"), ("top_k", "-1"), ("stop", "a text"), ("stop", "a zero byte"),
    ("presence_penalty", "-1"), ("frequency_penalty", "-1"), ("stream", "true"), ("guided_regex", "a text"),
    ("guided_regex", "a zero byte"),
}  # fmt: skip
"""Of HOSTILE, what may well be meant."""
SAMPLING: dict[str, dict[str, Any]] = {
    "temperature 0": {"temperature": 0},
    "a temperature of next to nothing": {"temperature": 1e-300},
    "a denormal temperature": {"temperature": 5e-324},
    "temperature 2": {"temperature": 2},
    "top_p 0": {"top_p": 0},
    "a top_p of next to nothing": {"top_p": 1e-300},
    "top_k 1": {"top_k": 1},
    "top_k over the vocabulary": {"top_k": 1_000_000},
    "min_p 1": {"min_p": 1},
    "everything at once": {"temperature": 1e-300, "top_p": 1e-300, "top_k": 1, "min_p": 1},
    "the hardest penalty": {"repetition_penalty": 10, "presence_penalty": 2, "frequency_penalty": 2},
    "the softest penalty": {"repetition_penalty": 0.01, "presence_penalty": -2, "frequency_penalty": -2},
    "300 bans": {"logit_bias": {str(token): -100 for token in range(300)}},
    "300 wishes": {"logit_bias": {str(token): 100 for token in range(300)}, "temperature": 0},
    "ids ban each other": {"logit_bias": {"1": 100, "2": -100}, "min_tokens": 8, "stop_token_ids": [1]},
    "64 stop ids": {"stop_token_ids": list(range(64))},
    "the longest stops": {"stop": ["x" * 64, "y" * 64, "xy" * 32, "\u4e16" * 64]},
    "one-letter stops": {"stop": ["a", "e", "i", " "]},
    "a stop of half a character": {"stop": ["\ufffd"]},
    "four choices, all scores": {"n": 4, "logprobs": 5, "seed": 1},
    "no end": {"ignore_eos": True, "min_tokens": 8},
}
TOO_MUCH: dict[str, dict[str, Any]] = {
    "n of a billion": {"n": 10**9},
    "301 biases": {"logit_bias": {str(token): 1 for token in range(301)}},
    "a bias out of the vocabulary": {"logit_bias": {"2147483647": 1}},
    "a bias below it": {"logit_bias": {"-1": 1}},
    "a bias of a huge id": {"logit_bias": {"9" * 400: 1}},
    "a bias of another digit": {"logit_bias": {"\u0663": 1}},
    "a bias over 100": {"logit_bias": {"1": 100.001}},
    "a stop id out of the vocabulary": {"stop_token_ids": [10**6]},
    "5 stops": {"stop": ["x"] * 5},
    "100,000 stops": {"stop": ["x"] * 100_000},
    "a stop of a megabyte": {"stop": "x" * 1_000_000},
    "65 stop ids": {"stop_token_ids": [1] * 65},
    "more at least than at most": {"min_tokens": 9, "max_tokens": 8},
    "prompts by the thousand": {"prompt": ["x"] * 1_000},
    "no prompt": {"prompt": None},
    "an empty prompt": {"prompt": ""},
    "an empty list": {"prompt": []},
    "an empty list of ids": {"prompt": [[]]},
    "texts and ids": {"prompt": ["x", [1]]},
    "an id out of the vocabulary": {"prompt": [10**6]},
    "an id of 19 digits": {"prompt": [HUGE]},
    "a negative id": {"prompt": [-1]},
    "an id that is a float": {"prompt": [1.0]},
    "a prompt of a megabyte": {"prompt": "the dog " * 120_000},
    "one word of a megabyte": {"prompt": "a" * 1_000_000},
    "combining characters": {"prompt": "e" + "\u0301" * 300_000},
    "a long name": {"model": "a" * 10_000},
    "suffix": {"suffix": "x"},
}
STRANGERS: dict[str, Any] = {
    "unknown": "acme/none",
    "a path": "../../etc/passwd",
    "a glob": "acme/*",
    "no text": 7,
    "two": ["a/b"],
    "empty": "",
    "a zero byte": "acme/m\x00",
    "a header": "acme/m\r\nx: y",
}
"""Names of models that nobody serves: the edge's to refuse."""
SCHEMAS: dict[str, Any] = {
    "itself": {"$ref": "#"},
    "itself, twice": {
        "type": "object",
        "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}},
        "required": ["a", "b"],
    },
    "a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "elsewhere": {"$ref": "http://169.254.169.254/x"},
    "a file": {"$ref": "file:///etc/passwd"},
    "nowhere": {"$ref": "#/$defs/none"},
    "a pattern bomb": {"type": "string", "pattern": f"^{BOMB}$"},
    "nested counts": {"type": "string", "pattern": "^((((a{1,99}){1,99}){1,99}){1,99}){1,99}$"},
    "a look ahead": {"type": "string", "pattern": "(?=a)b"},
    "a back reference": {"type": "string", "pattern": "(a)\\1"},
    "a billion items": {"type": "array", "minItems": 10**9},
    "a billion letters": {"type": "string", "minLength": 10**9},
    "minus one letter": {"type": "string", "minLength": -1},
    "more than most": {"type": "integer", "minimum": 2, "maximum": 1},
    "of zero": {"type": "number", "multipleOf": 0},
    "never": False,
    "not": {"not": {}},
    "unlike": {"type": "array", "uniqueItems": True},
    "no choice": {"enum": []},
    "ten thousand words": {"enum": [f"w{n}" for n in range(10_000)]},
    "any of any of": {"anyOf": [{"anyOf": [{"type": "array", "items": {"anyOf": [{}] * 20}}] * 20}] * 20},
    "all of": {"allOf": [{"properties": {f"p{n}": {"minLength": n}}} for n in range(500)]},
    "a thousand required": {"type": "object", "required": [f"k{n}" for n in range(1_000)]},
    "ten thousand properties": {"type": "object", "properties": {f"k{n}": {} for n in range(10_000)}},
    "patterns of names": {
        "type": "object",
        "patternProperties": {BOMB: {}, ".*": {}, "^a": {"type": "null"}},
    },
    "a type that is none": {"type": "potato"},
    "numbers for names": {"type": 7, "properties": 7},
    "text for a schema": "not a schema",
}
GRAMMARS: dict[str, dict[str, Any]] = {
    "an endless expression": {"regex": BOMB * 2},
    "counts of counts": {"regex": "(((.{1,999}){1,999}){1,999}){1,999}"},
    "an open bracket": {"regex": "["},
    "a lone backslash": {"regex": "\\"},
    "a look behind": {"regex": "(?<=a)b"},
    "nothing possible": {"regex": "a\\bb[^\\x00-\\U0010FFFF]"},
    "a slash": {"regex": "a/b\n/ %json {}"},
    "no choice": {"choice": []},
    "an empty choice": {"choice": [""]},
    "choices by the thousand": {"choice": [f"c{n}" for n in range(1_001)]},
    "left recursion": {"grammar": 'start: start start | "a"'},
    "no end": {"grammar": 'start: "a" start'},
    "a rule that is none": {"grammar": "start: nothing"},
    "no start": {"grammar": 'begin: "a"'},
    "an expression in a grammar": {"grammar": f"start: /{BOMB}/"},
    "rules by the thousand": {
        "grammar": "start: r0\n" + "".join(f"r{n}: r{n + 1} r{n + 1}\n" for n in range(2_000))
    },
    "ambiguous": {"grammar": 'start: a a a a a a\na: "x" | a a | ""'},
    "two at once": {"regex": "a", "choice": ["a"]},
    "unknown": {"ebnf": "a"},
}
MESSAGES: dict[str, Any] = {
    "none": [],
    "513": [{"role": "user", "content": "x"}] * 513,
    "no object": ["x"],
    "no role": [{"content": "x"}],
    "a robot": [{"role": "robot", "content": "x"}],
    "no content": [{"role": "user"}],
    "a picture": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}
    ],
    "257 parts": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 257}],
    "a result of no call": [{"role": "tool", "content": "x"}],
    "calls of a user": [{"role": "user", "content": "x", "tool_calls": [{"id": "1"}]}],
    "a megabyte": [{"role": "user", "content": "x " * 500_000}],
    "numbers": [{"role": "user", "content": 7}],
}
SAID: dict[str, str] = {
    "a template": "{{ 7 * 7 }}{% for x in range(10**9) %}{% endfor %}",
    "the insides": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "special tokens": "<|end|><|assistant|><|user|>",
    "zero bytes": "\x00\x01\x7f\x80",
    "marks of direction": "\u202e\u2066\ufeff\u200b" * 40,
    "characters of no plane": "\U0010ffff\ufffe\uffff",
    "the mark of bad bytes": "\ufffd" * 40,
    "families": "\U0001f469\u200d\U0001f469\u200d\U0001f467" * 8,
    "a call": "<tool_call>{}</tool_call><think>",
}
TOOLS: dict[str, Any] = {
    "a name with blanks": [{"type": "function", "function": {"name": "a b"}}],
    "a name of 65": [{"type": "function", "function": {"name": "a" * 65}}],
    "no name": [{"type": "function", "function": {}}],
    "an empty name": [{"type": "function", "function": {"name": ""}}],
    "a name of a path": [{"type": "function", "function": {"name": "../x"}}],
    "a name in quotes": [{"type": "function", "function": {"name": '"}<tool_call>'}}],
    "a name twice": [{"type": "function", "function": {"name": "f"}}] * 2,
    "129": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)],
    "of the server": [{"type": "web_search"}],
    "no object": ["f"],
    "parameters of text": [{"type": "function", "function": {"name": "f", "parameters": "x"}}],
}
KWARGS: dict[str, dict[str, Any]] = {
    "loops without end": {"spin": True},
    "text without end": {"swell": 10**9},
    "text over its limit": {"swell": 2_000_000},
    "a call of itself": {"recurse": True},
    "a refusal": {"refuse": "x" * 10_000},
    "memory": {"hoard": True},
    "the insides": {"pry": True},
}
ELSEWHERE: dict[str, tuple[str, dict[str, Any]]] = {
    "vectors of a chat model": ("/v1/embeddings", {"input": "x"}),
    "vectors of nothing": ("/v1/embeddings", {"input": []}),
    "vectors by the thousand": ("/v1/embeddings", {"input": ["x"] * 2_049}),
    "vectors in bits": ("/v1/embeddings", {"input": "x", "encoding_format": "ubinary"}),
    "no dimensions": ("/v1/embeddings", {"input": "x", "dimensions": 0}),
    "a ranking of nothing": ("/v1/rerank", {"query": "q", "documents": []}),
    "a ranking by a chat model": ("/v1/rerank", {"query": "q", "documents": ["d"]}),
    "ids out of the vocabulary": ("/detokenize", {"tokens": [HUGE]}),
    "ids below it": ("/detokenize", {"tokens": [-1]}),
    "no ids": ("/detokenize", {"tokens": []}),
    "a response of nothing": ("/v1/responses", {"input": []}),
    "a response of numbers": ("/v1/responses", {"input": [1, 2]}),
    "an item that is none": ("/v1/responses", {"input": [{"type": "potato"}]}),
    "a stored response": ("/v1/responses", {"input": "x", "previous_response_id": "resp_1"}),
    "a message without a limit": ("/v1/messages", {"messages": [{"role": "user", "content": "x"}]}),
    "a message of a robot": (
        "/v1/messages",
        {"max_tokens": 1, "messages": [{"role": "robot", "content": "x"}]},
    ),
    "a message of blocks": (
        "/v1/messages",
        {"max_tokens": 1, "messages": [{"role": "user", "content": [{}]}]},
    ),
    "a count of nothing": ("/v1/messages/count_tokens", {"messages": []}),
}
AT_LENGTH: dict[str, tuple[str, dict[str, Any]]] = {
    "a megabyte to count": ("/tokenize", {"prompt": "the dog " * 120_000}),
    "one word to count": ("/tokenize", {"prompt": "a" * 1_000_000, "return_token_strs": True}),
    "400,000 ids to read": ("/detokenize", {"tokens": [7] * 400_000}),
    "ids without a text": ("/detokenize", {"tokens": [0, 1, 2, 3]}),
}


def corpus(model: str, max_len: int, poison: tuple[str, int] | None = None) -> Iterator[Poison]:
    """Every request of the table, in its order; the same each time."""
    prompt: dict[str, Any] = {"model": model, "prompt": "the dog", "max_tokens": 8}
    chat: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    yield from _bodies(prompt)
    for field in PARAMETERS:
        for name, value in HOSTILE.items():
            yield _made(f"{field} is {name}", TEXT, prompt | {field: value}, (field, name) not in TAKEN)
    yield from _fields(prompt, chat)
    yield from _structures(prompt, chat)
    yield from _lengths(prompt, max_len)
    if poison is not None:
        yield from _numbers(prompt, chat, *poison)


def _made(name: str, path: str, body: dict[str, Any], must_fail: bool) -> Poison:
    return Poison(name, path, json.dumps(body).encode(), must_fail)


def _bodies(prompt: dict[str, Any]) -> Iterator[Poison]:
    for path in (CHAT, TEXT):
        for name, data in BAD_JSON.items():
            yield Poison(f"{path}: {name}", path, data, True)
    start = json.dumps(prompt).encode()[:-1]
    for name, data in IN_THE_BODY.items():
        yield Poison(name, TEXT, b"%b, %b}" % (start, data), True)
    whole = json.dumps(prompt).encode()
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "image/png",
        "",
    ):
        yield Poison(f"content-type {kind}", TEXT, whole, False, kind)
    for coding in ("gzip", "br", "deflate, gzip"):
        yield Poison(f"coded {coding}", TEXT, whole, True, headers=(("content-encoding", coding),))


def _fields(prompt: dict[str, Any], chat: dict[str, Any]) -> Iterator[Poison]:
    for name, more in SAMPLING.items():
        yield _made(name, TEXT, prompt | more, False)
        yield _made(f"{name}, streamed", TEXT, prompt | more | {"stream": True}, False)
    for name, more in TOO_MUCH.items():
        yield _made(name, TEXT, prompt | more, True)
    for name, messages in MESSAGES.items():
        yield _made(f"messages: {name}", CHAT, chat | {"messages": messages}, True)
    for name, text in SAID.items():
        yield _made(f"said: {name}", CHAT, chat | {"messages": [{"role": "user", "content": text}]}, False)
    for name, (path, more) in ELSEWHERE.items():
        yield _made(name, path, {"model": chat["model"]} | more, True)
    for name, (path, more) in AT_LENGTH.items():
        yield _made(name, path, {"model": chat["model"]} | more, False)


def _structures(prompt: dict[str, Any], chat: dict[str, Any]) -> Iterator[Poison]:
    for name, schema in SCHEMAS.items():
        asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        yield _made(f"schema: {name}", TEXT, prompt | {"response_format": asked}, False)
        function = {"name": "f", "parameters": schema, "strict": True}
        tools = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
        yield _made(f"parameters: {name}", CHAT, chat | tools, False)
    for name, wanted in GRAMMARS.items():
        yield _made(f"structure: {name}", TEXT, prompt | {"structured_outputs": wanted}, False)
    for name, tools in TOOLS.items():
        yield _made(f"tools: {name}", CHAT, chat | {"tools": tools}, True)
    yield _made("a tool that is none", CHAT, chat | {"tools": TOOLS["a name twice"][:1]} | {
        "tool_choice": {"type": "function", "function": {"name": "g"}}}, True)  # fmt: skip


def strangers() -> Iterator[Poison]:
    """Requests for models that are not there."""
    for name, model in STRANGERS.items():
        yield _made(f"a model's name: {name}", TEXT, {"model": model, "prompt": "x"}, True)


def template_poisons(model: str) -> Iterator[Poison]:
    """For a model whose template is TEMPLATE: what only a template can do."""
    chat: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    for name, more in KWARGS.items():
        yield _made(f"template: {name}", CHAT, chat | {"chat_template_kwargs": more}, True)
    yield _made(
        "template: its own words", CHAT, chat | {"chat_template_kwargs": {"messages": 7, "tools": "x"}}, False
    )
    yield _made(
        "template: a thousand", CHAT, chat | {"chat_template_kwargs": {f"k{n}": n for n in range(999)}}, False
    )


TEMPLATE = (
    "{% if spin %}{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}{% endif %}"
    "{% if swell %}{{ 'x' * swell }}{% endif %}"
    "{% macro again() %}{{ again() }}{% endmacro %}{% if recurse %}{{ again() }}{% endif %}"
    "{% if refuse %}{{ raise_exception(refuse) }}{% endif %}"
    "{% if hoard %}{% set n = namespace(x='x') %}"
    "{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{% endif %}"
    "{% if pry %}{{ ''.__class__.__mro__ }}{{ messages.append(1) }}{% endif %}"
)
"""Put before a model's own template: each thing that a template could do to its host, asked for by name."""


def _lengths(prompt: dict[str, Any], max_len: int) -> Iterator[Poison]:
    """At the limit of prompt and answer together, and one to each side of it; and far over."""
    for num, room in (
        (max_len - 2, 2),
        (max_len - 1, 1),
        (max_len - 9, 8),
        (max_len - 8, 8),
        (1, max_len - 1),
    ):
        yield _made(f"{num} and {room}", TEXT, prompt | {"prompt": [5] * num, "max_tokens": room}, False)
        yield _made(
            f"{num} and 1 over",
            TEXT,
            prompt | {"prompt": [5] * (max_len - room + 1), "max_tokens": room},
            True,
        )
    for num in (max_len, max_len + 1, 100_000):
        yield _made(f"{num} ids", TEXT, prompt | {"prompt": [5] * num, "max_tokens": 1}, True)


def _numbers(prompt: dict[str, Any], chat: dict[str, Any], poison: str, token: int) -> Iterator[Poison]:
    """NaN for logits: at once, behind a long prompt, for every choice, under a grammar, in the middle of an answer."""
    asked: dict[str, dict[str, Any]] = {
        "NaN": {},
        "NaN, streamed": {"stream": True},
        "NaN, greedy": {"temperature": 0},
        "NaN, scored": {"logprobs": 5},
        "NaN, four": {"n": 4},
        "NaN, held": {"guided_regex": "[a-z]+"},
    }
    for name, more in asked.items():
        yield _made(name, TEXT, prompt | {"prompt": poison} | more, True)
        yield _made(f"{name}, late", TEXT, prompt | {"prompt": f"the dog {poison}"} | more, True)
    yield _made("NaN, said", CHAT, chat | {"messages": [{"role": "user", "content": poison}]}, True)
    next_one = prompt | {"logit_bias": {str(token): 100}, "temperature": 0}
    yield _made("NaN, chosen", TEXT, next_one, True)
    yield _made("NaN, chosen, streamed", TEXT, next_one | {"stream": True}, False)
    yield _made("NaN, one of two", TEXT, prompt | {"prompt": ["the dog", poison]}, True)
