"""The routes that users' keys open: where, what for, the table that reads the body, and what is answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.openapi import answers
from deploy.schemas.words import Schema
from inference.api.anthropic import request as anthropic
from inference.api.request import kinds as request
from inference.api.responses import request as responses
from inference.api.tokenize import requests as token_requests
from inference.api.vectors import rerank

Fields = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """One POST route. `name` is its operation's, and of its schemas the beginning; `streams` says that it can."""

    path: str
    name: str
    summary: str
    fields: Fields
    required: tuple[str, ...]
    answer: Schema
    read: Callable[[dict[str, Any]], Any]
    also: tuple[str, ...] = ()
    streams: bool = False


_TABLES: Mapping[str, Fields] = {
    "chat": request._CHAT,  # noqa: SLF001 - the very tables that bodies are read with
    "completion": request._COMPLETION,  # noqa: SLF001
    "embedding": request._EMBEDDING,  # noqa: SLF001
    "response": responses._FIELDS,  # noqa: SLF001
    "messages": anthropic._FIELDS,  # noqa: SLF001
    "tokenize": token_requests._TEXT | token_requests._CHAT,  # noqa: SLF001
    "detokenize": token_requests._DETOKENIZE,  # noqa: SLF001
}
_COUNTED_INPUT = {name: _TABLES["response"][name] for name in responses.COUNTED}
_COUNTED = {name: _TABLES["messages"][name] for name in anthropic.COUNTED}

ROUTES: tuple[Route, ...] = (
    Route(
        "/v1/chat/completions",
        "chat",
        "A chat, whole or as a stream.",
        _TABLES["chat"],
        ("model", "messages"),
        answers.CHAT,
        request.read_chat,
        streams=True,
    ),
    Route(
        "/v1/completions",
        "completion",
        "A prompt is gone on with.",
        _TABLES["completion"],
        ("model", "prompt"),
        answers.COMPLETION,
        request.read_completion,
        streams=True,
    ),
    Route(
        "/v1/embeddings",
        "embeddings",
        "Texts as vectors.",
        _TABLES["embedding"],
        ("model", "input"),
        answers.EMBEDDINGS,
        request.read_embedding,
    ),
    Route(
        "/v1/responses",
        "response",
        "OpenAI's newer chat; nothing is stored.",
        _TABLES["response"],
        ("model", "input"),
        answers.RESPONSE,
        responses.read_response,
        streams=True,
    ),
    Route(
        "/v1/responses/input_tokens",
        "countInput",
        "How many tokens that input has.",
        _COUNTED_INPUT,
        ("model", "input"),
        answers.COUNTED_INPUT,
        token_requests.read_input_count,
    ),
    Route(
        "/v1/messages",
        "messages",
        "Anthropic's chat.",
        _TABLES["messages"],
        ("model", "max_tokens", "messages"),
        answers.MESSAGES,
        anthropic.read_messages_body,
        streams=True,
    ),
    Route(
        "/v1/messages/count_tokens",
        "countTokens",
        "How many tokens that prompt has.",
        _COUNTED,
        ("model", "messages"),
        answers.COUNTED,
        token_requests.read_count,
    ),
    Route(
        "/v1/rerank",
        "rerank",
        "Documents by their relevance to a query.",
        rerank.FIELDS,
        ("model", "query", "documents"),
        answers.RANKED,
        rerank.read_rerank,
        also=("/v2/rerank", "/rerank"),
    ),
    Route(
        "/v1/tokenize",
        "tokenize",
        "The tokens of a text (`prompt`) or of a chat (`messages`).",
        _TABLES["tokenize"],
        ("model",),
        answers.TOKENS,
        token_requests.read_tokenize,
        also=("/tokenize",),
    ),
    Route(
        "/v1/detokenize",
        "detokenize",
        "The text of tokens.",
        _TABLES["detokenize"],
        ("model", "tokens"),
        answers.DETOKENIZED,
        token_requests.read_detokenize,
        also=("/detokenize",),
    ),
)
