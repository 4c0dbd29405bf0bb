"""Answers that follow a grammar: llguidance says which tokens may come next, row by row.

A request's grammar is compiled in a thread beside the step loop, under fixed limits of size (`LIMITS`), and was
tried by the node in a child that could be killed; equal grammars are compiled once. The mask of one row is made of
that row's own place in its own grammar and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference.grammar_limits import LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llguidance import LLMatcher, LLTokenizer

    from inference.engine.orders.asked import Generate, Vocabulary

MAX_COMPILED = 64
"""Grammars kept compiled; one of a large schema takes about a MiB."""
MAX_WHY_CHARS = 400
"""Of an error message: it quotes the grammar."""
WORDS = {"NoExtensionBias": "it lets no answer begin, or go on from here"}
"""llguidance's own names for why it stopped, where they say nothing to whoever wrote the grammar."""
PENDING_S = 0.002
"""Between two looks at what the thread does, while nothing else is to be done."""


class GrammarFault(RuntimeError):
    """This grammar cannot be followed (any further); the message says why. Its own request's fault."""


def _why(matcher: LLMatcher) -> str:
    """What is wrong, in words. llguidance puts its parser's state behind it, which is nobody's but ours."""
    said: str = matcher.get_error().partition("\n<state>")[0].strip()[:MAX_WHY_CHARS]
    return WORDS.get(said, said)


class Follower:
    """One answer's place in its grammar. Not shared: each answer has its own."""

    __slots__ = ("_matcher", "vocab_size")

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self.vocab_size = vocab_size

    def allows(self, token: int) -> bool:
        """Whether `token` may come next; much cheaper than the whole mask."""
        return self._matcher.validate_tokens([token]) == 1

    def mask(self) -> bytes:
        """A bit for each token of the vocabulary, the first token's the lowest of the first byte: may it come next?

        Raises:
            GrammarFault: the grammar has become too complex.
        """
        bits: bytes = self._matcher.compute_bitmask()
        self._check()
        return bits

    def only_allowed(self, logits: torch.Tensor) -> torch.Tensor:
        """A copy of [vocabulary] logits with minus infinity for every token that may not come next.

        Raises:
            GrammarFault: the grammar has become too complex, or nothing may come next.
        """
        found, faults = only_allowed(logits[None], [self])
        if faults:
            raise faults[0]
        return found[0]

    def take(self, token: int) -> None:
        """Go on by a token that was chosen. Raises GrammarFault if it may not come here."""
        if not self._matcher.consume_token(token):
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarFault(_why(self._matcher))


def only_allowed(
    logits: torch.Tensor, followers: Sequence[Follower]
) -> tuple[torch.Tensor, dict[int, Exception]]:
    """A copy of [rows, vocabulary] logits, each with minus infinity where its own follower lets no token come next.

    And by row what failed: nothing may come next, or the grammar has become too complex.
    """
    num_words, faults = followers[0].vocab_size, dict[int, Exception]()
    bits = np.zeros((len(followers), -(-num_words // 8)), np.uint8)
    for row, follower in enumerate(followers):
        try:
            bits[row] = np.frombuffer(follower.mask(), np.uint8, bits.shape[1])
        except (RuntimeError, ValueError) as fault:  # whatever it is, it is this row's
            faults[row] = fault
    allowed = np.unpackbits(bits, axis=1, count=num_words, bitorder="little").view(np.bool_)
    for row in np.flatnonzero(~allowed.any(axis=1)).tolist():
        faults.setdefault(row, GrammarFault("the grammar allows no token here"))
    mask = torch.ones(logits.shape, dtype=torch.bool)  # of those beyond the vocabulary none may come
    mask[:, :num_words] = torch.from_numpy(~allowed)
    return logits.masked_fill(mask.to(logits.device), -torch.inf), faults


class Grammars:
    """The grammars of one engine's requests. One thread, made when the first grammar comes."""

    def __init__(self, vocab_size: int, eos_ids: Iterable[int]) -> None:
        self._vocab_size = vocab_size
        self._eos_ids = sorted(token for token in eos_ids if token < vocab_size)
        self._vocabulary: Vocabulary | None = None
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._thread: ThreadPoolExecutor | None = None
        self._pending: dict[str, tuple[Generate, Future[Follower]]] = {}

    @property
    def num_pending(self) -> int:
        """Requests whose grammar is not compiled yet."""
        return len(self._pending)

    def learn(self, vocabulary: Vocabulary) -> None:
        """What each token writes; told once, before the first grammar."""
        self._vocabulary, self._tokenizer = vocabulary, None
        self._compiled.clear()

    def begin(self, order: Generate) -> None:
        """Compile the order's grammar beside everything else; `finished` gives it back."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "grammar")
        self._pending[order.id] = (order, self._thread.submit(self._follower, order.grammar or ""))

    def cancel(self, order_id: str) -> Generate | None:
        """Forget an order that still waits for its grammar, and give it back, if it does."""
        if (pending := self._pending.pop(order_id, None)) is None:
            return None
        pending[1].cancel()
        return pending[0]

    def finished(self) -> list[tuple[Generate, Follower | GrammarFault]]:
        """The orders whose grammar is compiled, or cannot be; each is given back once."""
        found: list[tuple[Generate, Follower | GrammarFault]] = []
        for order, future in [each for each in self._pending.values() if each[1].done()]:
            del self._pending[order.id]
            fault = future.exception()
            if fault is not None and not isinstance(fault, GrammarFault):
                raise fault
            found.append((order, fault or future.result()))
        return found

    def _follower(self, grammar: str) -> Follower:
        """In the thread."""
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compiled[grammar] = self._compile(grammar)
        self._compiled.move_to_end(grammar)
        while len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        return Follower(compiled.deep_copy(), self._vocab_size)

    def _compile(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415 - few engines ever need it

        if self._tokenizer is None:
            self._tokenizer = self._read_vocabulary()
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LLParserLimits(**LIMITS))
        if matcher.is_error():
            raise GrammarFault(_why(matcher))
        return matcher

    def _read_vocabulary(self) -> LLTokenizer:
        """About 3 ms for each thousand tokens, once an engine (measured)."""
        from llguidance import LLTokenizer, TokenizerWrapper  # noqa: PLC0415 - as above

        if self._vocabulary is None or not self._eos_ids:
            raise GrammarFault("this model's tokens, or the one that ends an answer, are not known")
        words = _Words(self._vocabulary, self._vocab_size, self._eos_ids[0])
        wrapped = TokenizerWrapper(words)
        return LLTokenizer(wrapped, self._vocab_size, self._eos_ids, LLTokenizer.json_slices())


class _Words:
    """A vocabulary in the form that llguidance reads.

    Text that a grammar leaves no choice about is cut into the longest tokens there are, which for the byte-pair
    vocabularies in use is nearly always what their own tokenizer does.
    """

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, eos_id: int) -> None:
        self.eos_token_id = eos_id
        self.bos_token_id = None
        self.tokens = [*vocabulary.pieces, *[b""] * (vocab_size - len(vocabulary.pieces))]
        self.special_token_ids = sorted(vocabulary.special)
        ids = reversed([*enumerate(vocabulary.pieces)])
        self._ids = {piece: token for token, piece in ids if piece and token not in vocabulary.special}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """The token ids of UTF-8 text; ends where no token fits."""
        found, at = [], 0
        while at < len(text):
            lengths = range(min(self._longest, len(text) - at), 0, -1)
            length = next((length for length in lengths if text[at : at + length] in self._ids), 0)
            if not length:
                break
            found.append(self._ids[text[at : at + length]])
            at += length
        return found
