"""One answer in the making: token ids in, text to show out, until a stop; no I/O.

Order of work on each token: is it an end token, what text does it complete, does a stop string end there.
Probabilities travel with the text they belong to, so a client never sees those of text that a stop cut off.
"""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.api.text.stops import StopGate
from inference.api.text.toolcalls import AnswerReader, Parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.api.request.sampling import Sampling
    from inference.api.text.tokens import TextStream, Vocabulary
    from inference.api.text.toolcalls import CallPart, Markers

Finish = str
"""`stop`, `length` or `tool_calls`, as OpenAI names them."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A chosen token with its log probability (natural), the best alternatives, and where its text starts."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step adds: text (may be ""), the scores of tokens whose text is now out, and the end, if it is."""

    text: str
    scores: tuple[TokenScore, ...] = ()
    finish: Finish | None = None
    thoughts: str = ""
    calls: tuple[CallPart, ...] = ()
    stop: str | None = None
    """With `finish`: the stop string that ended the answer."""
    num_tokens: int = 0
    """Generated for this choice so far, those of this delta with them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers of a request are taken apart. `marks` are the special tokens whose text the reader must see."""

    markers: Markers | None
    marks: frozenset[int] = frozenset()
    thinks: bool = False
    thinking: bool = False
    is_single: bool = False
    only_first: bool = False
    """Marks count before the first word only: the text of a structure may hold what looks like one."""

    def reader(self) -> AnswerReader:
        """One for one answer."""
        how = {"thinks": self.thinks, "thinking": self.thinking, "only_first": self.only_first}
        return AnswerReader(self.markers, _call_id, **how)


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class Choice:
    """One of the answers of a request. `num_tokens` counts what was generated, the end token with it.

    With a reader the text is taken apart first: stop strings concern the words only, never thoughts or calls.
    """

    __slots__ = (
        "_gate",
        "_is_single",
        "_num_made",
        "_num_shown",
        "_reader",
        "_scores",
        "_stop_ids",
        "_text",
        "finish",
        "num_reasoning",
        "num_tokens",
    )

    def __init__(
        self,
        stream: TextStream,
        sampling: Sampling,
        stop_ids: frozenset[int],
        reader: AnswerReader | None = None,
        *,
        is_single: bool = False,
    ) -> None:
        self._text = stream
        self._reader = reader
        self._is_single = is_single
        self._gate = StopGate(sampling.stop, include=sampling.include_stop)
        self._stop_ids = stop_ids
        self._scores: deque[tuple[int, TokenScore]] = deque()
        self._num_made = 0
        self._num_shown = 0
        self.num_tokens = 0
        self.num_reasoning = 0
        """Of `num_tokens`, those between the marks of thoughts."""
        self.finish: Finish | None = None

    def receive(self, tokens: Sequence[int], scores: Sequence[TokenScore] | None = None) -> Delta:
        """Take the next tokens (`scores` runs beside them, if asked for). After a stop the rest is ignored."""
        parts = Parts()
        for index, token in enumerate(tokens):
            if self.finish is not None:
                break
            self.num_tokens += 1
            if token in self._stop_ids:
                continue
            text = self._text.receive(token)
            self._note(scores[index] if scores else None, len(text))
            if text:
                self._show(text, parts)
        return self._delta(parts)

    def _show(self, text: str, parts: Parts) -> None:
        found = self._reader.receive(text) if self._reader else Parts(text)
        if self._reader is not None:
            self.num_reasoning += self._reader.is_thinking
        parts.words += self._gate.receive(found.words)
        if self._gate.hit is not None:
            self.finish = "stop"
            return
        parts.thoughts += found.thoughts
        parts.calls += found.calls
        if self._is_single and self._reader is not None and self._reader.has_whole_call:
            self.finish = "tool_calls"

    def end(self, finish: Finish, num_tokens: int = 0) -> Delta:
        """The engine ended the answer: what was held comes out, unless a stop string ended it before.

        `num_tokens` is the engine's own count, with an end token that was not sent.
        """
        if self.finish is not None:
            return Delta("")
        self.num_tokens = max(self.num_tokens, num_tokens)
        parts = Parts()
        self._show(self._text.finish(), parts)
        if self._reader is not None and self.finish is None:
            rest = self._reader.finish()
            parts.words += self._gate.receive(rest.words)
            parts.thoughts += rest.thoughts
        parts.words += self._gate.finish() if self._gate.hit is None else ""
        called = self._reader is not None and self._reader.num_calls > 0 and finish == "stop"
        ended = "stop" if self._gate.hit is not None else self.finish or finish
        self.finish = "tool_calls" if called and ended == "stop" else ended
        return self._delta(parts)

    def _note(self, score: TokenScore | None, num_characters: int) -> None:
        start, self._num_made = self._num_made, self._num_made + num_characters
        if score is not None:
            placed = TokenScore(score.token, score.logprob, score.top, start)
            self._scores.append((self._num_made, placed))

    def _delta(self, parts: Parts) -> Delta:
        """Scores go out with the end of their text; at the end, with its beginning (a stop may cut a token).

        An answer that is taken apart has them as its tokens come: marks are tokens too, and no text.
        """
        self._num_shown = self._num_made if self._reader else self._num_shown + len(parts.words)
        out = []
        while self._scores and self._is_out(*self._scores[0]):
            out.append(self._scores.popleft()[1])
        hit, num_tokens = self._gate.hit, self.num_tokens
        return Delta(parts.words, tuple(out), self.finish, parts.thoughts, parts.calls, hit, num_tokens)

    def _is_out(self, end: int, score: TokenScore) -> bool:
        return end <= self._num_shown or (self.finish is not None and score.offset < self._num_shown)


def make_choice(
    vocabulary: Vocabulary,
    sampling: Sampling,
    eos_ids: tuple[int, ...],
    *,
    follows_text: bool,
    reading: Reading | None = None,
) -> Choice:
    """A fresh answer; the ids that end it are the model's own, unless ignored, and the request's."""
    marks = reading.marks if reading else frozenset()
    stream = vocabulary.text_stream(
        keep_special=sampling.keep_special, follows_text=follows_text, marks=marks
    )
    own = () if sampling.ignore_eos else eos_ids
    reader = reading.reader() if reading else None
    is_single = reading is not None and reading.is_single
    return Choice(stream, sampling, frozenset((*sampling.stop_ids, *own)), reader, is_single=is_single)
