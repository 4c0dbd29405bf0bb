"""Text to token ids and back: encoding, and decoding token by token without ever splitting a character.

The whole answer is by definition the pieces that were streamed, joined: both ways of answering run the same
`TextStream`. Half a character is held until the rest arrives, and dropped if it never does; U+FFFD appears
only where the model really made bytes that are not UTF-8.
"""

from __future__ import annotations

import base64
import codecs
import json
from typing import TYPE_CHECKING, Any, Protocol

from tokenizers import Tokenizer

from inference.api.text.pairing import Pairing
from inference.api.text.pieces import PieceReader, piece_reader

if TYPE_CHECKING:
    from inference.link import Message

MAX_WINDOW_TOKENS = 64
"""Of a decoder chain we do not know: tokens kept as context before a text is taken as it stands."""
TRIAL = "a"
"""A text that is joined to itself, to see what a tokenizer puts around a pair."""
REPLACEMENT = "\ufffd"


class TokenizerError(ValueError):
    """These bytes are not a tokenizer that can be used; the message says why."""


class TextStream(Protocol):
    """Token ids in, text out, in order."""

    def receive(self, token: int) -> str:
        """The text that `token` completes: often a word, "" while a character is still in parts."""

    def finish(self) -> str:
        """What was complete and still held. Half a character is dropped."""


class Vocabulary:
    """One model's tokenizer. Immutable; safe to use from any thread."""

    __slots__ = ("_added", "_pieces", "_read_piece", "_special", "_tokenizer", "num_ids")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = frozenset(added)
        self._special = frozenset(token for token, entry in added.items() if entry.special)
        self._read_piece: PieceReader | None = piece_reader(_decoder_config(tokenizer))
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self.num_ids: int = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> Vocabulary:
        """The tokenizer in `tokenizer.json`; its own truncation and padding are switched off.

        Raises:
            TokenizerError: the bytes are not a tokenizer.
        """
        try:
            tokenizer = Tokenizer.from_buffer(data)
        except ValueError as cause:
            raise TokenizerError(f"tokenizer.json cannot be read: {cause}") from cause
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer)

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """The ids of `text`. `add_special` lets the tokenizer add its begin/end tokens; a rendered chat has its own."""
        return list(self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special)[0].ids)

    def encode_all(self, texts: list[str], *, add_special: bool) -> list[list[int]]:
        """`encode` of each text; the binding works without the interpreter's lock."""
        return [
            list(found.ids)
            for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special)
        ]

    def pairing(self) -> Pairing | None:
        """How it joins two texts; None if it does not show that."""
        found = self._tokenizer.encode(TRIAL, TRIAL)
        return Pairing.seen(found.ids, found.type_ids, found.sequence_ids)

    def names_of(self, tokens: list[int]) -> list[str]:
        """The tokens as the tokenizer's own file writes them; "" for an id that is none."""
        return [self._tokenizer.id_to_token(token) or "" for token in tokens]

    def text_of(self, tokens: list[int]) -> str:
        """The text of ids as the tokenizer itself gives it, special tokens too; half a character is U+FFFD."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))

    def token_of(self, text: str) -> int | None:
        """The id of a token by its exact text."""
        found: int | None = self._tokenizer.token_to_id(text)
        return found

    def is_special(self, token: int) -> bool:
        """True for tokens such as the end of a turn, which are not text."""
        return token in self._special

    def piece(self, token: int, *, first: bool = False) -> bytes:
        """The bytes `token` adds to a text; may be part of a character. Unknown ids add nothing."""
        key = (token, first)
        if (known := self._pieces.get(key)) is None:
            known = self._pieces[key] = self._make_piece(token, first)
        return known

    def _make_piece(self, token: int, first: bool) -> bytes:
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._read_piece is None:
            return str(self._tokenizer.decode([token], skip_special_tokens=False)).encode()
        return self._read_piece(text, token in self._added, first)

    @property
    def is_pieced(self) -> bool:
        """Whether each token's text is known by itself; without that no grammar can be followed."""
        return self._read_piece is not None

    def lesson(self) -> Message:
        """What an engine must know to follow grammars (`engine.orders.asked.Vocabulary`); about 2 us a token."""
        pieces = [self._make_piece(token, False) for token in range(self.num_ids)]
        data = b"".join([len(piece).to_bytes(2, "big") + piece for piece in pieces])
        special = sorted(token for token in self._special if token < self.num_ids)
        return {"op": "vocabulary", "pieces": base64.b64encode(data).decode(), "special": special}

    def text_stream(
        self, *, keep_special: bool = False, follows_text: bool = False, marks: frozenset[int] = frozenset()
    ) -> TextStream:
        """A fresh decoder of one answer.

        `follows_text`: the answer goes on from a text, so a word's leading space is kept (legacy completions);
        otherwise it stands alone, as `tokenizer.decode(ids)` would give it. `marks`: special tokens that are kept.
        """
        if self._read_piece is None:
            return _Windowed(self._tokenizer, keep_special)
        return _Pieced(self, frozenset() if keep_special else self._special - marks, follows_text)

    def decode(self, tokens: list[int], *, keep_special: bool = False) -> str:
        """The text of a whole sequence, by the same rules as a stream of it."""
        stream = self.text_stream(keep_special=keep_special)
        return "".join(map(stream.receive, tokens)) + stream.finish()


def _decoder_config(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The decoder chain as `tokenizer.json` has it; writing the whole tokenizer out takes half a second."""
    if tokenizer.decoder is None:
        return None
    config: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    return config


class _Pieced:
    """Decoding by pieces: bytes are joined and read as UTF-8 as far as they are whole."""

    __slots__ = ("_decode", "_first", "_skipped", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary, skipped: frozenset[int], follows_text: bool) -> None:
        self._vocabulary = vocabulary
        self._skipped = skipped
        self._first = not follows_text
        self._decode: Any = codecs.getincrementaldecoder("utf-8")("replace").decode

    def receive(self, token: int) -> str:
        if token in self._skipped:
            return ""
        piece = self._vocabulary.piece(token, first=self._first)
        self._first = False
        text: str = self._decode(piece)
        return text

    def finish(self) -> str:
        return ""


class _Windowed:
    """Decoding of chains we do not know: what the newest token adds to the decoding of the last few.

    After "stable" tokens whose text is out, the window restarts; a decoding that ends in U+FFFD waits.
    """

    __slots__ = ("_keep_special", "_num_read", "_tokenizer", "_tokens")

    def __init__(self, tokenizer: Tokenizer, keep_special: bool) -> None:
        self._tokenizer = tokenizer
        self._keep_special = keep_special
        self._tokens: list[int] = []
        self._num_read = 0

    def receive(self, token: int) -> str:
        self._tokens.append(token)
        before, after = self._decode(self._tokens[: self._num_read]), self._decode(self._tokens)
        waiting = after.endswith(REPLACEMENT) and len(self._tokens) - self._num_read < MAX_WINDOW_TOKENS
        if waiting or len(after) <= len(before):
            return ""
        self._tokens = self._tokens[self._num_read :]
        self._num_read = len(self._tokens)
        return after[len(before) :]

    def finish(self) -> str:
        before, after = self._decode(self._tokens[: self._num_read]), self._decode(self._tokens)
        return after[len(before) :].rstrip(REPLACEMENT)

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=not self._keep_special))
