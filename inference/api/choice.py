"""One answer in the making: token ids in, text to show out, until a stop; no I/O.

Order of work on each token: is it an end token, what text does it complete, does a stop string end there.
Probabilities travel with the text they belong to, so a client never sees those of text that a stop cut off.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.api.stops import StopGate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.api.sampling import Sampling
    from inference.api.tokens import TextStream, Vocabulary

Finish = str
"""`stop` or `length`, as OpenAI names them."""


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


class Choice:
    """One of the answers of a request. `num_tokens` counts what was generated, the end token with it."""

    __slots__ = ("_gate", "_num_made", "_num_shown", "_scores", "_stop_ids", "_text", "finish", "num_tokens")

    def __init__(self, stream: TextStream, sampling: Sampling, stop_ids: frozenset[int]) -> None:
        self._text = stream
        self._gate = StopGate(sampling.stop, include=sampling.include_stop)
        self._stop_ids = stop_ids
        self._scores: deque[tuple[int, TokenScore]] = deque()
        self._num_made = 0
        self._num_shown = 0
        self.num_tokens = 0
        self.finish: Finish | None = None

    def receive(self, tokens: Sequence[int], scores: Sequence[TokenScore] | None = None) -> Delta:
        """Take the next tokens (`scores` runs beside them, if asked for). After a stop the rest is ignored."""
        shown = []
        for index, token in enumerate(tokens):
            if self.finish is not None:
                break
            self.num_tokens += 1
            if token in self._stop_ids:
                continue
            text = self._text.receive(token)
            self._note(scores[index] if scores else None, len(text))
            if text:
                shown.append(self._gate.receive(text))
            if self._gate.hit is not None:
                self.finish = "stop"
        return self._delta("".join(shown))

    def end(self, finish: Finish) -> Delta:
        """The engine ended the answer: what was held comes out, unless a stop string ended it before."""
        if self.finish is not None:
            return Delta("")
        tail = self._gate.receive(self._text.finish())
        self.finish = "stop" if self._gate.hit is not None else finish
        return self._delta(tail + self._gate.finish())

    def _note(self, score: TokenScore | None, num_characters: int) -> None:
        start, self._num_made = self._num_made, self._num_made + num_characters
        if score is not None:
            placed = TokenScore(score.token, score.logprob, score.top, start)
            self._scores.append((self._num_made, placed))

    def _delta(self, text: str) -> Delta:
        """Scores go out with the end of their text; at the end, with its beginning (a stop may cut a token)."""
        self._num_shown += len(text)
        out = []
        while self._scores and self._is_out(*self._scores[0]):
            out.append(self._scores.popleft()[1])
        return Delta(text, tuple(out), self.finish)

    def _is_out(self, end: int, score: TokenScore) -> bool:
        return end <= self._num_shown or (self.finish is not None and score.offset < self._num_shown)


def make_choice(
    vocabulary: Vocabulary, sampling: Sampling, eos_ids: tuple[int, ...], *, follows_text: bool
) -> Choice:
    """A fresh answer; the ids that end it are the model's own, unless ignored, and the request's."""
    stream = vocabulary.text_stream(keep_special=sampling.keep_special, follows_text=follows_text)
    own = () if sampling.ignore_eos else eos_ids
    return Choice(stream, sampling, frozenset((*sampling.stop_ids, *own)))
