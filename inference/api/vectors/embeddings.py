"""Embeddings, from a parsed request to the last byte."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from inference.api.answer.sequences import check_ids
from inference.api.stay.reply import JSON_HEADERS, ModelReply
from inference.api.text.prompt import THREAD_CHARS, check_prompt
from inference.api.vectors.batches import VectorError, batches, cut, embedding_body, num_batches, read_vectors
from inference.usage.entry import Counts
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from inference.api.reply import Outlet
    from inference.api.request.kinds import EmbeddingRequest
    from inference.api.stay.reply import Children
    from inference.api.stay.visit import Visit
    from inference.link import Message
    from inference.usage.entry import Entry
    from inference.workers.host import Host
    from inference.workers.worker import ResidentModel


class EmbeddingReply(ModelReply):
    """`/v1/embeddings`."""

    kinds = frozenset({"embed"})
    operation = "embeddings"

    def __init__(
        self,
        host: Host,
        visit: Visit,
        revision_id: str | None,
        request: EmbeddingRequest,
        children: Children,
    ) -> None:
        super().__init__(host, visit, revision_id, request.model)
        del children  # there is neither a template nor a grammar to look after
        self._request = request

    async def answer(self, outlet: Outlet) -> None:
        """See `Reply`."""
        visit, request = self._visit, self._request
        with self._resident() as model:
            async with self._turn(model, num_batches(len(request.inputs))) as has_waited:
                if has_waited:
                    visit.phases.mark("queue")
                rows = await self._rows(model)
                visit.phases.mark("tokenize")
                counts, began_ms = Counts(sum(map(len, rows))), visit.phases.total_ms()
                vectors = await vectors_of(model, rows, self._stay.entry(counts.prompt), visit)
            visit.note_first(visit.phases.total_ms() - began_ms)
            vectors = cut(vectors, request.dimensions, normalize=model.revision.facts.normalize)
            body = embedding_body(vectors, request.model, counts.prompt, as_base64=request.base64)
            visit.phases.mark("decode")
            headers = {**JSON_HEADERS, **visit.counted(counts.prompt)}
            self._stay.used(counts)
        await outlet.whole(200, headers, body)

    async def _rows(self, model: ResidentModel) -> list[list[int]]:
        """The inputs as token ids; ids that a client made itself are taken as they are."""
        texts = [one for one in self._request.inputs if isinstance(one, str)]
        encoded = iter(await encode_all(model, texts))
        rows = [next(encoded) if isinstance(one, str) else list(one) for one in self._request.inputs]
        for row in rows:
            check_prompt(row, "input")
            check_ids(row, model.limits, "input")
            if len(row) > model.limits.max_len:
                raise _input_too_long(len(row), model.limits.max_len)
        return rows


async def encode_all(model: ResidentModel, texts: list[str], *, add_special: bool = True) -> list[list[int]]:
    """The texts' token ids, with the tokenizer's begin and end; long ones are cut in a thread."""
    encode = model.text.vocabulary.encode_all
    if sum(map(len, texts)) > THREAD_CHARS:
        return await asyncio.to_thread(encode, texts, add_special=add_special)
    return encode(texts, add_special=add_special)


async def vectors_of(
    model: ResidentModel,
    rows: Sequence[Sequence[int]],
    entry: Entry,
    visit: Visit,
    segments: Sequence[Sequence[int]] = (),
) -> NDArray[np.float32]:
    """The vectors of `rows`, in their order. `entry`: whose usage they are; `segments`: of pairs, each token's."""
    groups = list(batches(rows))
    found: dict[int, NDArray[np.float32]] = {}
    whose: Message = {"op": "embed", "tenant": visit.tenant, "weight": visit.weight}
    orders: list[Message] = [whose | {"batch": [rows[index] for index in group]} for group in groups]
    if segments:
        for order, group in zip(orders, groups, strict=True):
            order["segments"] = [segments[index] for index in group]
    with await model.calls.open(orders, entry) as call:
        num_left = len(groups)
        while num_left:
            for number, message in await call.take():
                found.update(zip(groups[number], _read(message, len(groups[number])), strict=True))
                num_left -= 1
    return np.stack([found[index] for index in range(len(rows))])


def _read(message: dict[str, object], num_rows: int) -> NDArray[np.float32]:
    try:
        return read_vectors(str(message["data"]), int(str(message["dim"])), num_rows)
    except VectorError as cause:
        raise Refusal(500, "engine_failed", f"The engine gave {cause}.", "server_error") from cause


def _input_too_long(num_tokens: int, max_len: int) -> Refusal:
    message = f"This model takes inputs of at most {max_len:,} tokens; one has {num_tokens:,}. Split it."
    return Refusal(400, "context_length_exceeded", message, param="input")
