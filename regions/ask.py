"""What edge and gateway must know of an inference request to route, hold or refuse it; its bytes go on untouched.

The edge reads the JSON once, strictly, because the node reads the same bytes again: a key given twice, NaN, or
another encoding could mean one thing here and another there. What it read goes on beside the body as one header,
so that the gateway need not read a megabyte again.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from regions.map.names import BadNameError, ModelName
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from regions.map.region import Kind

NO_ALIASES: Final[Mapping[str, str]] = MappingProxyType({})
MAX_BODY_BYTES: Final = 1 << 20  # replays need it in memory; a prompt of about 250,000 tokens
MAX_OBJECTS: Final = 200_000  # each costs a call of 0.3 us while the loop waits; 512 messages are 2,000
CHARS_PER_TOKEN: Final = 4  # of English text; the choice needs the order of magnitude
MAX_TOKEN_CHARS: Final = 128  # longest token of the vocabularies in use (GPT-2 has 128 spaces in one)
UNSAID_TOKENS: Final = 256  # of an answer whose request has no bound: about what a chat's has
MAX_PROMPT_DEPTH: Final = 3  # messages of parts, or a batch of token lists
_SAID: Final = re.compile(r"([^ ]{1,194}) ([01]) ([0-9]{1,9}) ([0-9]{1,9})")  # as Ask.header writes it


class Asked(NamedTuple):
    """What a path is for: the kinds of model that answer there (none: any), and the field that has the prompt.

    `is_bounded`: a prompt longer than the model takes is refused; other paths count or cut it. `writes`: its answer is
    made token by token, and may stream.
    """

    kinds: tuple[Kind, ...]
    prompt: str
    is_bounded: bool = True
    writes: bool = False


ASKED: Final[dict[str, Asked]] = {
    "/v1/chat/completions": Asked(("generate",), "messages", writes=True),
    "/v1/completions": Asked(("generate",), "prompt", writes=True),
    "/v1/messages": Asked(("generate",), "messages", writes=True),
    "/v1/messages/count_tokens": Asked(("generate",), "messages", is_bounded=False),
    "/v1/responses": Asked(("generate",), "input", writes=True),
    "/v1/responses/input_tokens": Asked(("generate",), "input", is_bounded=False),
    "/v1/embeddings": Asked(("embed",), "input"),
    **dict.fromkeys(
        ("/v1/rerank", "/v2/rerank", "/rerank"), Asked(("embed", "rerank"), "documents", is_bounded=False)
    ),
    **dict.fromkeys(("/v1/tokenize", "/tokenize"), Asked((), "prompt", is_bounded=False)),
    **dict.fromkeys(("/v1/detokenize", "/detokenize"), Asked((), "tokens", is_bounded=False)),
}
"""The paths of inference requests, beside their names at vLLM, Jina and Cohere."""
_FIELDS: Final = {
    path: (asked.prompt, asked.writes) for path, asked in ASKED.items()
}  # a pair, unpacked at once
SERVED_AT: Final[dict[Kind, str]] = {
    "generate": "/v1/chat/completions or /v1/completions",
    "embed": "/v1/embeddings and /v1/rerank",
    "rerank": "/v1/rerank",
}


class Ask(NamedTuple):
    """One inference request: its model, whether its answer streams, and how long its prompt is.

    `prompt_tokens` is an estimate. `least_tokens` is a bound from below: what exceeds the model's length by this
    bound is refused at once; the exact count is the node's. `answer_tokens` is what the answer may have, by its own
    word or `UNSAID_TOKENS`; only the edge asks, for the key's quota.
    """

    model: str
    stream: bool
    prompt_tokens: int
    least_tokens: int
    answer_tokens: int = 0

    def header(self) -> str:
        """The value of `x-nearfield-ask`, as `said` reads it."""
        return f"{self.model} {self.stream:d} {self.prompt_tokens} {self.least_tokens}"


_made: Final[Callable[[tuple[str, bool, int, int, int]], Ask]] = partial(tuple.__new__, Ask)
"""An ask of its values, less a frame of Python: each request has one."""


def said(value: str) -> Ask:
    """What another hop of ours read. Raises Refusal 400 for anything that `header` does not write."""
    match = _SAID.fullmatch(value)
    if match is None:
        raise Refusal(400, "bad_request", "The header x-nearfield-ask is set by Nearfield's own hops.")
    model, stream, about, least = match.groups()
    return Ask(model, stream == "1", int(about), int(least))


def read_ask(
    path: str, body: bytes, aliases: Mapping[str, str] = NO_ALIASES, *, for_quota: bool = True
) -> Ask:
    """The request in `body` to `path`, a key of ASKED; a model's alias stands for its name.

    Unless it is `for_quota`, nobody looks for what the answer may have.

    Raises Refusal 400, or 404 for a name that no model can have.
    """
    document = _strict(body)
    name = document.get("model")
    if (
        type(name) is not str
    ):  # JSON has no other texts, lists or objects than Python's own; this is the cheaper look
        raise Refusal(400, "bad_request", 'Name a model: {"model": "org/name", ...}.', param="model")
    try:
        model = _model(aliases.get(name, name) if aliases else name)
    except BadNameError as error:
        raise Refusal(404, "model_not_found", f"No such model: {error}.", param="model") from error
    field, writes = _FIELDS[path]
    stream, answer = (writes and document.get("stream") is True), 0
    if for_quota and writes:
        answer = _answer_tokens(document)
    prompt = messages = document.get(field)
    if field != "messages":
        messages = document.get("messages", prompt if field == "input" and _has_messages(prompt) else None)
    if type(messages) is list:
        about, least = _of_messages(messages)
        return _made((model, stream, about, least, answer))
    about = max(1, _tokens_of(prompt, MAX_PROMPT_DEPTH))
    return Ask(model, stream, about, _least_of(prompt, MAX_PROMPT_DEPTH), answer)


def _answer_tokens(document: dict[str, Any]) -> int:
    """What all choices together may have. A value that is no count is the node's to refuse."""
    said, number = document.get("max_tokens"), document.get("n")  # chat's newer name, and that of responses:
    said = said or document.get("max_completion_tokens") or document.get("max_output_tokens")
    most = said if isinstance(said, int) and said > 0 else UNSAID_TOKENS
    return most * (number if isinstance(number, int) and number > 1 else 1)


@lru_cache(maxsize=4_096)  # as many models as a row holds
def _model(name: str) -> str:
    return str(ModelName.parse(name))


def _has_messages(prompt: object) -> bool:
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], dict)


def _of_messages(messages: list[Any]) -> tuple[int, int]:
    """About how many tokens, and how many at the least."""
    about = num_chars = 0
    for message in messages:
        content = message.get("content") if type(message) is dict else None
        if type(content) is str:
            size = len(content)
            num_chars += size
            about += size // CHARS_PER_TOKEN
        elif content is not None:
            about += _tokens_of(content, MAX_PROMPT_DEPTH - 1)
    return about or 1, num_chars // MAX_TOKEN_CHARS


def refuse_misfit(ask: Ask, path: str, kind: Kind, max_len: int) -> None:
    """Raises Refusal 400 for a model of another kind, or a prompt that cannot fit its `max_len` tokens."""
    wanted, field, is_bounded, _ = ASKED[path]
    if wanted and kind not in wanted:
        raise Refusal(400, "bad_request", f"{ask.model} is served at {SERVED_AT[kind]}.", param="model")
    if is_bounded and ask.least_tokens > max_len:
        text = f"The prompt has at least {ask.least_tokens} tokens; {ask.model} takes {max_len}. Shorten it."
        raise Refusal(400, "context_length_exceeded", text, param=field)


def _least_of(prompt: object, depth: int) -> int:
    """Of text: characters over the longest token; of token ids: exact; of a batch: its longest item."""
    if isinstance(prompt, str):
        return len(prompt) // MAX_TOKEN_CHARS
    if not isinstance(prompt, list) or not prompt or depth == 0:
        return 0
    if isinstance(prompt[0], int):
        return len(prompt)
    return max([_least_of(each, depth - 1) for each in prompt])


def _tokens_of(prompt: object, depth: int) -> int:
    """Of a text, a list of token ids, a batch of either, or the parts of a message; nothing below `depth` lists."""
    if isinstance(prompt, str):
        return len(prompt) // CHARS_PER_TOKEN
    if isinstance(prompt, dict):
        text = prompt.get("text")
        return len(text) // CHARS_PER_TOKEN if isinstance(text, str) else 0
    if not isinstance(prompt, list) or depth == 0:
        return 0
    return sum([1 if isinstance(each, int) else _tokens_of(each, depth - 1) for each in prompt])


def _strict(body: bytes) -> dict[str, Any]:
    """The one JSON object in `body`. Raises Refusal 400."""
    if len(body) > MAX_OBJECTS < body.count(b"{"):  # braces in a text count too: a prompt may be a program
        text = f"The body has more than {MAX_OBJECTS} objects (or braces); send fewer."
        raise Refusal(400, "bad_request", text)
    try:
        text = body.decode().strip(_BLANKS)
        document, end = _SCAN(text, 0)
        if end != len(text):
            raise _NotStrict("something follows the object")
    except (ValueError, RecursionError, StopIteration) as error:  # the last: it begins with no value
        text = f"The body cannot be read: {_unread(error)}. Send one JSON object."
        raise Refusal(400, "bad_request", text) from error
    if not isinstance(document, dict):
        raise Refusal(400, "bad_request", "The body is not a JSON object.")
    return document


def _unread(error: Exception) -> str:
    if isinstance(error, _NotStrict):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    is_text = isinstance(error, json.JSONDecodeError | UnicodeDecodeError | StopIteration)
    return "it is not JSON in UTF-8" if is_text else "a number has too many digits"  # `int` refuses no other


class _NotStrict(ValueError):
    """JSON that two readers might understand differently, or that costs too much to read."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _NotStrict("a key is given twice")
    return document


def _no_constant(name: str) -> NoReturn:
    raise _NotStrict(f"{name} is not a JSON number")


_BLANKS: Final = " \t\r\n"  # what JSON allows around a value
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_each_key_once, parse_constant=_no_constant)
_SCAN: Final[Callable[[str, int], tuple[Any, int]]] = vars(_DECODER)[
    "scan_once"
]  # `raw_decode` less a frame of Python
