"""The answers of `/v1/responses`: one object of output items, whole or as numbered events."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from inference.api.answer.chat import ChatReply
from inference.api.answer.serving import heading
from inference.api.request.wording import reworded
from inference.api.responses.request import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.api.answer.choice import Delta
    from inference.api.answer.parts import Finished, Heading, Usage
    from inference.api.answer.sequences import Job
    from inference.api.reply import Outlet
    from inference.api.responses.request import ResponseRequest
    from inference.api.stay.reply import Children
    from inference.api.stay.visit import Visit
    from inference.api.text.toolcalls import CallPart
    from inference.workers.host import Host
    from inference.workers.worker import ResidentModel
    from wire.refused.refusal import Refusal

EMPTY: dict[str, Any] = {
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
}
"""What an answer says where its request says nothing."""


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class ResponseShape:
    """The one choice of a `/v1/responses` request. Items are opened, filled and closed as their pieces come."""

    def __init__(self, head: Heading, echoed: dict[str, Any]) -> None:
        self._fixed = {"id": head.id, "object": "response", "created_at": head.created, "model": head.model}
        self._fixed |= EMPTY | echoed
        self._num_events = 0
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._finish = "stop"

    def opening(self, index: int) -> bytes:
        """See `Shape`."""
        del index
        begun = self._fixed | {"status": "in_progress", "output": [], "usage": None}
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def event(self, index: int, delta: Delta) -> bytes:
        """See `Shape`."""
        del index
        events = b""
        if delta.thoughts:
            events += self._piece("reasoning", delta.thoughts)
        if delta.text:
            events += self._piece("message", delta.text)
        events += b"".join(map(self._call, delta.calls))
        if delta.finish:
            self._finish = delta.finish
            events += self._close()
        return events

    def closing(self, usage: Usage, *, with_usage: bool) -> bytes:
        """See `Shape`."""
        del with_usage
        whole = self._whole(usage)
        return self._event(f"response.{whole['status']}", response=whole)

    def error(self, refusal: Refusal) -> bytes:
        """See `Shape`."""
        said = reworded(refusal, NAMES)
        return self._event("error", code=said.code, message=said.message, param=said.param)

    def whole(self, choices: Sequence[Finished], usage: Usage) -> bytes:
        """See `Shape`."""
        (choice,) = choices
        for kind, text in (("reasoning", choice.thoughts), ("message", choice.text)):
            if text:
                self._piece(kind, text)
        for part in choice.calls:
            self._call(part)
        self._finish = choice.finish
        self._close()
        return json.dumps(self._whole(usage)).encode()

    def _whole(self, usage: Usage) -> dict[str, Any]:
        cut = self._finish == "length"
        details = {"reason": "max_output_tokens"} if cut else None
        status = "incomplete" if cut else "completed"
        ended = {"status": status, "output": self._output, "usage": _usage(usage)}
        return self._fixed | ended | {"incomplete_details": details}

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._num_events} | fields
        self._num_events += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps(data).encode())

    def _where(self, item: dict[str, Any], *, part: bool = True) -> dict[str, Any]:
        where = {"item_id": item["id"], "output_index": len(self._output)}
        return where | {"content_index": 0} if part else where

    def _piece(self, kind: str, text: str) -> bytes:
        """Some text of the open message or thought; another kind closes what is open."""
        events = b""
        if self._open is None or self._open["type"] != kind:
            events = self._close() + self._begin(_ITEMS[kind]()) + self._begin_part(_PARTS[kind])
        item = self._open
        if item is None:
            raise RuntimeError("an item was begun and is not open")
        item["content"][0]["text"] += text
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        return events + self._event(_DELTAS[kind], **self._where(item), delta=text, **more)

    def _call(self, part: CallPart) -> bytes:
        events = b""
        if part.id is not None:
            item = {"id": _id("fc"), "type": "function_call", "call_id": part.id, "name": part.name}
            events = self._close() + self._begin(item | {"arguments": "", "status": "in_progress"})
        if part.arguments and self._open is not None:
            self._open["arguments"] += part.arguments
            where = self._where(self._open, part=False)
            events += self._event("response.function_call_arguments.delta", **where, delta=part.arguments)
        return events

    def _begin(self, item: dict[str, Any]) -> bytes:
        self._open = item
        return self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _begin_part(self, empty: dict[str, Any]) -> bytes:
        """The one part of the open item, which came without: clients add it to what they have."""
        item = self._open
        if item is None:
            raise RuntimeError("a part belongs to an open item")
        item["content"].append(part := dict(empty))
        return self._event("response.content_part.added", **self._where(item), part=part)

    def _close(self) -> bytes:
        """The events that end the open item, which then is part of the output."""
        item, self._open = self._open, None
        if item is None:
            return b""
        item["status"] = "incomplete" if self._finish == "length" else "completed"
        events = _ENDINGS[item["type"]](self, item)
        events += self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        return events

    def end_message(self, item: dict[str, Any]) -> bytes:
        """The last events of a message's text."""
        part, where = item["content"][0], self._where(item)
        done = self._event("response.output_text.done", **where, text=part["text"], logprobs=[])
        return done + self._event("response.content_part.done", **where, part=part)

    def end_reasoning(self, item: dict[str, Any]) -> bytes:
        """The last events of thoughts."""
        part, where = item["content"][0], self._where(item)
        done = self._event("response.reasoning_text.done", **where, text=part["text"])
        return done + self._event("response.content_part.done", **where, part=part)

    def end_call(self, item: dict[str, Any]) -> bytes:
        """The last event of a call's arguments."""
        where = self._where(item, part=False)
        said = {"name": item["name"], "arguments": item["arguments"]}
        return self._event("response.function_call_arguments.done", **where, **said)


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _message_item() -> dict[str, Any]:
    return {"id": _id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def _reasoning_item() -> dict[str, Any]:
    return {"id": _id("rs"), "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}


_ITEMS = {"message": _message_item, "reasoning": _reasoning_item}
_PARTS: dict[str, dict[str, Any]] = {
    "message": {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    "reasoning": {"type": "reasoning_text", "text": ""},
}
_DELTAS = {"message": "response.output_text.delta", "reasoning": "response.reasoning_text.delta"}
_ENDINGS = {
    "message": ResponseShape.end_message,
    "reasoning": ResponseShape.end_reasoning,
    "function_call": ResponseShape.end_call,
}


class ResponsesReply(ChatReply):
    """`/v1/responses`."""

    def __init__(
        self, host: Host, visit: Visit, revision_id: str | None, asked: ResponseRequest, children: Children
    ) -> None:
        super().__init__(host, visit, revision_id, asked.chat, children)
        self._echoed = asked.echoed

    def _shape(self, model: ResidentModel, job: Job) -> ResponseShape:
        del job
        return ResponseShape(heading("resp_", model, self._model), self._echoed)

    async def refuse(self, outlet: Outlet, refusal: Refusal) -> None:
        """See `Reply`."""
        await super().refuse(outlet, reworded(refusal, NAMES))
