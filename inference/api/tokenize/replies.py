"""Answers about tokens: no engine is asked, and a prompt may be longer than the model takes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from inference.api.answer.chat import prompt_of
from inference.api.answer.sequences import check_ids
from inference.api.anthropic.request import names_of
from inference.api.request.wording import reworded
from inference.api.responses.request import NAMES as RESPONSE_NAMES
from inference.api.stay.reply import JSON_HEADERS, ModelReply
from inference.api.text.prompt import encode

if TYPE_CHECKING:
    from inference.api.reply import Outlet
    from inference.api.request.kinds import ChatRequest
    from inference.api.stay.reply import Children
    from inference.api.stay.visit import Visit
    from inference.api.tokenize.requests import CountRequest, DetokenizeRequest, TokenizeRequest
    from inference.workers.host import Host
    from inference.workers.worker import ResidentModel
    from wire.refused.refusal import Refusal


class TokenReply(ModelReply):
    """One JSON object about a model's tokens."""

    kinds = frozenset({"generate", "embed", "rerank"})
    operation = ""

    def __init__(
        self,
        host: Host,
        visit: Visit,
        revision_id: str | None,
        request: TokenizeRequest | DetokenizeRequest | CountRequest,
        children: Children,
    ) -> None:
        super().__init__(host, visit, revision_id, request.model)
        self._request, self._children = request, children

    async def answer(self, outlet: Outlet) -> None:
        """See `Reply`."""
        with self._resident() as model:
            body = json.dumps(await self._value(model)).encode()
            self._visit.phases.mark("tokenize")
            headers = {**JSON_HEADERS, **self._visit.counted(0)}
        await outlet.whole(200, headers, body)

    async def _value(self, model: ResidentModel) -> dict[str, Any]:
        raise NotImplementedError

    async def _chat_tokens(self, model: ResidentModel, chat: ChatRequest, *, add_special: bool) -> list[int]:
        text = await prompt_of(model, chat, self._children.templates)
        self._visit.phases.mark("template")
        return await encode(model, text, add_special=add_special)


class TokenizeReply(TokenReply):
    """`/tokenize`: vLLM's shape."""

    _request: TokenizeRequest

    async def _value(self, model: ResidentModel) -> dict[str, Any]:
        request = self._request
        if isinstance(request.prompt, str):
            tokens = await encode(model, request.prompt, add_special=request.add_special)
        else:
            tokens = await self._chat_tokens(model, request.prompt, add_special=request.add_special)
        names_of = model.text.vocabulary.names_of
        names = await asyncio.to_thread(names_of, tokens) if request.with_texts else None
        return {
            "count": len(tokens),
            "max_model_len": model.limits.max_len,
            "tokens": tokens,
            "token_strs": names,
        }


class DetokenizeReply(TokenReply):
    """`/detokenize`: vLLM's shape."""

    _request: DetokenizeRequest

    async def _value(self, model: ResidentModel) -> dict[str, Any]:
        tokens = list(self._request.tokens)
        check_ids(tokens, model.limits, "tokens")
        return {"prompt": await asyncio.to_thread(model.text.vocabulary.text_of, tokens)}


class CountReply(TokenReply):
    """`/v1/messages/count_tokens`: Anthropic's shape."""

    kinds = frozenset({"generate"})
    _request: CountRequest

    async def _value(self, model: ResidentModel) -> dict[str, Any]:
        return {"input_tokens": len(await self._chat_tokens(model, self._request.chat, add_special=False))}

    async def refuse(self, outlet: Outlet, refusal: Refusal) -> None:
        """See `Reply`."""
        await super().refuse(outlet, reworded(refusal, names_of(self._request.chat)))


class InputCountReply(CountReply):
    """`/v1/responses/input_tokens`: OpenAI's shape."""

    async def _value(self, model: ResidentModel) -> dict[str, Any]:
        return {"object": "response.input_tokens", **await super()._value(model)}

    async def refuse(self, outlet: Outlet, refusal: Refusal) -> None:
        """See `Reply`."""
        await TokenReply.refuse(self, outlet, reworded(refusal, RESPONSE_NAMES))
