"""What one token adds to the text, for each family of tokenizer, as a pure function of the token.

A tokenizer's `decoder` is a chain of small steps over token strings. Four families cover nearly every public
model: byte-level BPE (each token is bytes, a character may be split over several), sentencepiece with byte
fallback (word starts marked, odd characters as <0xE2> tokens), Metaspace, and WordPiece (## joins). In each,
a token's text depends on the token and on whether it comes first, nothing else; so text can be made token by
token, exactly. `piece_reader` knows these; for other chains `inference.api.text.tokens` compares whole decodings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Step = Callable[[str, bool], str]
"""(token text so far, comes first) -> token text."""
PieceReader = Callable[[str, bool, bool], bytes]
"""(token, is an added token, comes first) -> the UTF-8 bytes it adds, possibly part of a character."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


def byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's characters -> bytes: printable Latin-1 stands for itself, the rest for U+0100 and up.

    The table of GPT-2's `encoder.py` (`bytes_to_unicode`).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def piece_reader(decoder: dict[str, Any] | None) -> PieceReader | None:
    """The reader for a `tokenizer.json` decoder; None when the chain is not one of the families."""
    chain = _chain(decoder)
    if [part.get("type") for part in chain] == ["ByteLevel"]:
        return _byte_level_reader()
    steps: list[Step] = []
    after_fuse: list[Step] = []
    byte_fallback = fused = False
    for part in chain:
        kind = part.get("type")
        if kind == "ByteFallback":
            byte_fallback = True
        elif kind == "Fuse":
            fused = True
        elif byte_fallback and not fused:
            return None  # it would see the characters that byte tokens make together
        elif (step := _step(part, fused)) is not None:
            steps.append(step)
            after_fuse += [step] if fused else []
        else:
            return None
    return _stepped_reader(steps, after_fuse, byte_fallback) if chain else None


def _chain(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [inner for part in decoder.get("decoders", []) for inner in _chain(part)]


def _byte_level_reader() -> PieceReader:
    alphabet = byte_alphabet()

    def read(token: str, added: bool, first: bool) -> bytes:
        """An added token's text is literal; a base token with a strange character is, too (as in tokenizers)."""
        del first
        if added or any(character not in alphabet for character in token):
            return token.encode()
        return bytes(alphabet[character] for character in token)

    return read


def _stepped_reader(steps: list[Step], after_fuse: list[Step], byte_fallback: bool) -> PieceReader:
    """The byte tokens meet only the steps after the Fuse: one that is a blank and comes first is stripped too."""

    def read(token: str, added: bool, first: bool) -> bytes:
        if byte_fallback and not added and (match := _BYTE_TOKEN.match(token)):
            byte = bytes.fromhex(match[1])
            return _through(after_fuse, byte.decode(), first) if byte.isascii() else byte
        return _through(steps, token, first)

    return read


def _through(steps: list[Step], token: str, first: bool) -> bytes:
    for step in steps:
        token = step(token, first)
    return token.encode()


def _step(part: dict[str, Any], fused: bool) -> Step | None:
    """One part of a chain; None for one we do not know. After a Fuse, stripping concerns the first token only."""
    kind = part.get("type")
    if kind == "Replace" and isinstance(part.get("pattern", {}).get("String"), str):
        return _replace(part["pattern"]["String"], str(part.get("content", "")))
    if kind == "Strip" and fused and part.get("stop") == 0:
        return _strip(str(part.get("content", " ")), int(part.get("start", 0)))
    if kind == "Metaspace":
        return _metaspace(str(part["replacement"]), part.get("prepend_scheme") != "never")
    if kind == "WordPiece":
        return _wordpiece(str(part.get("prefix", "##")), bool(part.get("cleanup", True)))
    return None


def _replace(old: str, new: str) -> Step:
    return lambda token, _first: token.replace(old, new)


def _strip(content: str, most: int) -> Step:
    def strip(token: str, first: bool) -> str:
        num_left = most if first else 0
        while num_left and token.startswith(content):
            token, num_left = token[len(content) :], num_left - 1
        return token

    return strip


def _metaspace(mark: str, drop_first: bool) -> Step:
    return lambda token, first: token.replace(mark, "" if first and drop_first else " ")


_CLEANUP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""What the WordPiece decoder of `tokenizers` tidies, in its order (decoders/wordpiece.rs, `cleanup`)."""


def _wordpiece(prefix: str, cleanup: bool) -> Step:
    def join(token: str, first: bool) -> str:
        if not first:
            token = token.removeprefix(prefix) if token.startswith(prefix) else " " + token
        for old, new in _CLEANUP if cleanup else ():
            token = token.replace(old, new)
        return token

    return join
