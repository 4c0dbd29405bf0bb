"""What answers are made of: usage, headings, the ends of choices, and what each route's shape must say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.api.answer.choice import Delta, TokenScore
    from inference.api.text.toolcalls import CallPart
    from wire.refused.refusal import Refusal

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Predicted:
    """Of a prediction's tokens those that came as foretold, computed beside others, and the rest."""

    num_right: int
    num_wrong: int

    def as_value(self) -> dict[str, int]:
        """As OpenAI has it in a usage's details."""
        return {"accepted_prediction_tokens": self.num_right, "rejected_prediction_tokens": self.num_wrong}


@dataclass(frozen=True, slots=True)
class Usage:
    """Exact token counts of one request: prompts once each, every choice's generated tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    predicted: Predicted | None = None

    def as_value(self) -> dict[str, Any]:
        """OpenAI's `usage`: integers, never null."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning_tokens,
                "audio_tokens": 0,
                **(self.predicted.as_value() if self.predicted else {}),
            },
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """One whole choice: its text, its scores (None when not asked for), and why it ended."""

    text: str
    scores: tuple[TokenScore, ...] | None
    finish: str
    thoughts: str = ""
    calls: tuple[CallPart, ...] = ()
    """Each call whole, in one part."""
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Heading:
    """What every part of one answer repeats. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    fingerprint: str


class Shape(Protocol):
    """One route's way to say an answer."""

    def opening(self, index: int) -> bytes:
        """The events before a choice's first text; may be empty."""

    def event(self, index: int, delta: Delta) -> bytes:
        """One event for `delta` (with its `finish`, if it has one); empty when it says nothing."""

    def closing(self, usage: Usage, *, with_usage: bool) -> bytes:
        """The last events of a stream that went well."""

    def error(self, refusal: Refusal) -> bytes:
        """The last event of a stream that failed after it began."""

    def whole(self, choices: Sequence[Finished], usage: Usage) -> bytes:
        """The body of an answer that does not stream."""


def sse(value: Any) -> bytes:
    """One event with `value` as its data."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def error_event(refusal: Refusal) -> bytes:
    """An error after the stream began: the official client raises it."""
    return b"data: " + refusal.body() + b"\n\n"


def token_text(piece: bytes) -> str:
    r"""A token's bytes as a text; bytes that are no whole character are written as \\xe2, as OpenAI does."""
    return piece.decode("utf-8", "backslashreplace")


def fixed_fields(kind: str, heading: Heading) -> dict[str, Any]:
    """What is the same in each part of an answer, as JSON has it."""
    return {
        "id": heading.id,
        "object": kind,
        "created": heading.created,
        "model": heading.model,
        "system_fingerprint": heading.fingerprint,
    }


def event_head(kind: str, heading: Heading) -> bytes:
    """`data: {...,"choices":[`, ready for a choice."""
    return b"data: " + json.dumps(fixed_fields(kind, heading)).encode()[:-1] + b',"choices":['


def json_text(text: str) -> bytes:
    """A text as JSON has it."""
    return json.dumps(text).encode()
