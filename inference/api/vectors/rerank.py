"""`/v1/rerank`: documents in the order of their relevance to a query, in the shape that Jina, Cohere and vLLM share."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.api.fields import array, bad, boolean, integer, mapping, string
from inference.api.request.kinds import MAX_LABEL_CHARS, MAX_MODEL_CHARS, MAX_PROMPT_CHARS, MAX_PROMPT_TOKENS
from inference.api.route_fields import read_fields
from inference.api.stay.reply import JSON_HEADERS, ModelReply
from inference.api.vectors.batches import num_batches
from inference.api.vectors.embeddings import encode_all, vectors_of
from inference.usage.entry import Counts
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.api.fields import Reader
    from inference.api.reply import Outlet
    from inference.api.stay.reply import Children
    from inference.api.stay.visit import Visit
    from inference.workers.host import Host
    from inference.workers.worker import ResidentModel

MAX_DOCUMENTS = 2_048
"""Jina's own bound; Cohere has 1,000."""
MAX_PAIR_TOKENS = 1 << 20
"""Of all pairs of a request, each with the whole query in it: `MAX_DOCUMENTS` pairs of 512 tokens."""

_text = string(MAX_PROMPT_CHARS, 1)


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """`top` 0 means every document. A document longer than `max_tokens` is cut there; None: it must fit the model."""

    model: str
    query: str
    documents: tuple[str, ...]
    top: int = 0
    with_documents: bool = True
    max_tokens: int | None = None


def _document(value: Any, param: str) -> str:
    """A text, or an object with nothing but a `text`."""
    if type(value) is str:
        return _text(value, param)
    found = mapping(value, param)
    for key in found:
        if key != "text":
            raise bad(f"{param}.{key[:64]}", f"Unknown field {key[:64]!r} in {param!r}.", "unknown_parameter")
    return _text(found.get("text"), f"{param}.text")


FIELDS: dict[str, Reader[Any]] = {
    "model": string(MAX_MODEL_CHARS, 1),
    "query": _text,
    "documents": array(_document, MAX_DOCUMENTS, 1),
    "top_n": integer(0, MAX_DOCUMENTS),
    "return_documents": boolean,
    "max_tokens_per_doc": integer(1, MAX_PROMPT_TOKENS),
    "user": string(MAX_LABEL_CHARS),
}
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "rank_fields": ((["text"],), "a document is its text."),
    "max_chunks_per_doc": ((1,), "a document is one piece; see 'max_tokens_per_doc'."),
    "return_embeddings": ((False,), "use /v1/embeddings."),
    "truncate_prompt_tokens": ((), "use 'max_tokens_per_doc'."),
    "priority": ((0,), "there is one order: first come, first served."),
}
"""Fields of Jina's, Cohere's and vLLM's clients that are not honoured -> (values that ask for nothing, why not)."""


def read_rerank(body: dict[str, Any]) -> RerankRequest:
    """A body of `/v1/rerank`. Raises Refusal (400, `param` set)."""
    found = read_fields(body, FIELDS, ("model", "query", "documents"), REFUSED)
    return RerankRequest(
        model=found["model"],
        query=found["query"],
        documents=found["documents"],
        top=found.get("top_n", 0),
        with_documents=found.get("return_documents", True),
        max_tokens=found.get("max_tokens_per_doc"),
    )


class RerankReply(ModelReply):
    """Relevance is what a cross-encoder makes of both texts together, or the cosine of an embedding model's vectors."""

    kinds = frozenset({"embed", "rerank"})
    operation = "rerank"

    def __init__(
        self, host: Host, visit: Visit, revision_id: str | None, request: RerankRequest, children: Children
    ) -> None:
        super().__init__(host, visit, revision_id, request.model)
        del children  # there is neither a template nor a grammar to look after
        self._request = request

    async def answer(self, outlet: Outlet) -> None:
        """See `Reply`."""
        visit = self._visit
        with self._resident() as model:
            paired = model.revision.facts.kind == "rerank"
            async with self._turn(model, num_batches(len(self._request.documents))) as has_waited:
                if has_waited:
                    visit.phases.mark("queue")
                rows, segments = await (self._pairs(model) if paired else self._rows(model))
                visit.phases.mark("tokenize")
                counts, began_ms = Counts(sum(map(len, rows))), visit.phases.total_ms()
                entry = self._stay.entry(counts.prompt)
                vectors = np.asarray(await vectors_of(model, rows, entry, visit, segments))
            scores = _sigmoids(vectors[:, 0]) if paired else _cosines(vectors)
            visit.note_first(visit.phases.total_ms() - began_ms)
            body = rerank_body(self._request, scores, counts.prompt)
            visit.phases.mark("decode")
            headers = {**JSON_HEADERS, **visit.counted(counts.prompt)}
            self._stay.used(counts)
        await outlet.whole(200, headers, body)

    async def _rows(self, model: ResidentModel) -> tuple[list[list[int]], list[list[int]]]:
        """The query's ids, then each document's; each is one segment."""
        texts = [self._request.query, *self._request.documents]
        query, *documents = await encode_all(model, texts)
        most = model.limits.max_len
        kept = documents if self._request.max_tokens is None else self._cut(documents, most)
        _check_fits([query], most, "query")
        _check_fits(kept, most, "documents")
        return [query, *kept], []

    async def _pairs(self, model: ResidentModel) -> tuple[list[list[int]], list[list[int]]]:
        """The query's ids joined with each document's, and which segment each token belongs to."""
        pairing, most = model.text.vocabulary.pairing(), model.limits.max_len
        if pairing is None:
            raise _no_pairs(model)
        texts = [self._request.query, *self._request.documents]
        query, *documents = await encode_all(model, texts, add_special=False)
        room = most - pairing.num_marks - len(query)
        if room < 1:
            raise _too_long("query", most - room, most)
        if self._request.max_tokens is not None:
            documents = [row[: min(self._request.max_tokens, room)] for row in documents]
        _check_pairs([most - room + len(row) for row in documents], most)
        segments = [pairing.segments(len(query), len(row)) for row in documents]
        return [pairing.joined(query, row) for row in documents], segments if pairing.has_segments else []

    def _cut(self, documents: Sequence[list[int]], most: int) -> list[list[int]]:
        """Beginnings, each with its own last token, which closes a text where the tokenizer has one that does."""
        num = min(self._request.max_tokens or most, most)
        return [row if len(row) <= num else [*row[: num - 1], row[-1]] for row in documents]


def _check_fits(rows: Sequence[Sequence[int]], most: int, param: str) -> None:
    for number, row in enumerate(rows):
        if not row:
            raise Refusal(400, "invalid_value", f"{param!r} holds a text without tokens.", param=param)
        if len(row) > most:
            raise _too_long(f"documents[{number}]" if param == "documents" else param, len(row), most)


def _check_pairs(lengths: Sequence[int], most: int) -> None:
    for number, length in enumerate(lengths):
        if length > most:
            raise _too_long(f"documents[{number}]", length, most, " with the query")
    if (total := sum(lengths)) > MAX_PAIR_TOKENS:
        message = (
            f"The query with each of the documents makes {total:,} tokens; at most {MAX_PAIR_TOKENS:,} are read in "
            "one request. Send fewer documents."
        )
        raise Refusal(400, "context_length_exceeded", message, param="documents")


def _too_long(at: str, num_tokens: int, most: int, beside: str = "") -> Refusal:
    message = (
        f"This model takes at most {most:,} tokens; {at!r} has {num_tokens:,}{beside}. "
        "Shorten it, or have documents cut by 'max_tokens_per_doc'."
    )
    return Refusal(400, "context_length_exceeded", message, param=at)


def _no_pairs(model: ResidentModel) -> Refusal:
    message = (
        f"The tokenizer of {model.revision.model} does not join two texts; push one that has a pair template."
    )
    return Refusal(400, "wrong_model_kind", message, param="model")


def _sigmoids(logits: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
    """Of each, in float64: no logit is so large that it overflows, and few so large that they look the same."""
    scores: list[float] = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))).tolist()
    return scores


def _cosines(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
    """Of the first with each of the others; 0 for a vector of length 0."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    units = vectors / lengths
    scores: list[float] = (units[1:] @ units[0]).tolist()
    return scores


def rerank_body(request: RerankRequest, scores: Sequence[float], num_tokens: int) -> bytes:
    """The answer: the most relevant first, of equals the first one; `index` says which document it is."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    results: list[dict[str, Any]] = []
    for index in order[: request.top or None]:
        result: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
        if request.with_documents:
            result["document"] = {"text": request.documents[index]}
        results.append(result)
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    head = {"id": f"rerank-{secrets.token_hex(12)}", "model": request.model}
    return json.dumps(head | {"results": results, "usage": usage}).encode()
