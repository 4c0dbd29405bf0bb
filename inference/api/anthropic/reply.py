"""Anthropic's answers: one message of blocks, whole or as named events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from inference.api.answer.chat import ChatReply
from inference.api.answer.serving import heading
from inference.api.anthropic.request import NAMES, names_of
from inference.api.request.wording import reworded
from wire.dialect import MESSAGES, error_body, error_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.api.answer.choice import Delta
    from inference.api.answer.parts import Finished, Heading, Usage
    from inference.api.answer.sequences import Job
    from inference.api.reply import Outlet
    from inference.api.text.toolcalls import CallPart
    from inference.workers.worker import ResidentModel
    from wire.refused.refusal import Refusal

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def _named(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())


def _usage(usage: Usage) -> dict[str, Any]:
    """Anthropic counts cached tokens beside the others, not among them."""
    cached = usage.cached_tokens
    counts = {"input_tokens": usage.prompt_tokens - cached, "output_tokens": usage.completion_tokens}
    return counts | {"cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}


class MessageShape:
    """The one choice of a `/v1/messages` request. Blocks are opened and closed as their pieces come."""

    def __init__(self, head: Heading, num_prompt_tokens: int) -> None:
        self._head = head
        self._num_prompt = num_prompt_tokens
        self._kind = ""
        self._index = -1
        self._finish = "stop"
        self._stop: str | None = None

    def opening(self, index: int) -> bytes:
        """See `Shape`."""
        del index
        counts = {"input_tokens": self._num_prompt, "output_tokens": 0}
        return _named({"type": "message_start", "message": self._message([], None, None, counts)})

    def event(self, index: int, delta: Delta) -> bytes:
        """See `Shape`."""
        del index
        events = b""
        if delta.thoughts:
            events += self._piece("thinking", {"type": "thinking_delta", "thinking": delta.thoughts})
        if delta.text:
            events += self._piece("text", {"type": "text_delta", "text": delta.text})
        events += b"".join(map(self._call, delta.calls))
        if delta.finish:
            events += self._close()
            self._finish, self._stop = delta.finish, delta.stop
        return events

    def closing(self, usage: Usage, *, with_usage: bool) -> bytes:
        """See `Shape`."""
        del with_usage
        reason, stop = _reason(self._finish, self._stop)
        change = {"stop_reason": reason, "stop_sequence": stop}
        ending = {"type": "message_delta", "delta": change, "usage": _usage(usage)}
        return _named(ending) + _named({"type": "message_stop"})

    def error(self, refusal: Refusal) -> bytes:
        """See `Shape`."""
        return error_event(MESSAGES, reworded(refusal, NAMES).body())

    def whole(self, choices: Sequence[Finished], usage: Usage) -> bytes:
        """See `Shape`."""
        (choice,) = choices
        content: list[dict[str, Any]] = []
        if choice.thoughts:
            content.append({"type": "thinking", "thinking": choice.thoughts, "signature": ""})
        if choice.text:
            content.append({"type": "text", "text": choice.text})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)}
            for call in choice.calls
        ]
        reason, stop = _reason(choice.finish, choice.stop)
        return json.dumps(self._message(content, reason, stop, _usage(usage))).encode()

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, stop: str | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        fixed = {"id": self._head.id, "type": "message", "role": "assistant", "model": self._head.model}
        return fixed | {"content": content, "stop_reason": reason, "stop_sequence": stop, "usage": usage}

    def _piece(self, kind: str, change: dict[str, Any]) -> bytes:
        empty = {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})
        opened = b"" if kind == self._kind else self._open(kind, empty)
        return opened + _named({"type": "content_block_delta", "index": self._index, "delta": change})

    def _call(self, part: CallPart) -> bytes:
        opened = b""
        if part.id is not None:
            opened = self._open(
                "tool_use", {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
            )
        if not part.arguments:
            return opened
        change = {"type": "input_json_delta", "partial_json": part.arguments}
        return opened + _named({"type": "content_block_delta", "index": self._index, "delta": change})

    def _open(self, kind: str, block: dict[str, Any]) -> bytes:
        closed = self._close()
        self._kind, self._index = kind, self._index + 1
        return closed + _named({"type": "content_block_start", "index": self._index, "content_block": block})

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        return _named({"type": "content_block_stop", "index": self._index})


def _reason(finish: str, stop: str | None) -> tuple[str, str | None]:
    return ("stop_sequence", stop) if stop is not None else (STOP_REASONS[finish], None)


def _object(arguments: str) -> dict[str, Any]:
    """Arguments that a model broke off, or nested without end, are no object; they are kept as they are."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"_unfinished": arguments}


class MessagesReply(ChatReply):
    """`/v1/messages`."""

    def _shape(self, model: ResidentModel, job: Job) -> MessageShape:
        return MessageShape(heading("msg_", model, self._model), job.num_prompt_tokens)

    async def refuse(self, outlet: Outlet, refusal: Refusal) -> None:
        """See `Reply`."""
        said = reworded(refusal, names_of(self._request))
        headers = {**self.refusal_headers(), **dict(refusal.headers())}
        await outlet.whole(refusal.status, headers, error_body(MESSAGES, said))
