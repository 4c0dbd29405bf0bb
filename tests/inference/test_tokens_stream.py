"""Text made token by token is the text of the whole, in every family of tokenizer."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders

from inference.api.text.pieces import byte_alphabet, piece_reader
from inference.api.text.tokens import REPLACEMENT, TokenizerError, Vocabulary
from tests.evidence import count
from tests.inference.tokenizers_made import FAMILIES, SPECIAL, TEXTS

EXACT = ["byte_level", "sentencepiece", "metaspace", "wordpiece"]


@cache
def vocabulary(family: str) -> Vocabulary:
    return Vocabulary.from_bytes(FAMILIES[family]())


@cache
def reference(family: str) -> Tokenizer:
    tokenizer = Tokenizer.from_buffer(FAMILIES[family]())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def streamed(family: str, ids: list[int]) -> list[str]:
    stream = vocabulary(family).text_stream()
    return [*map(stream.receive, ids), stream.finish()]


@pytest.mark.parametrize("family", list(FAMILIES))
@settings(max_examples=count(25, 150), deadline=None)
@given(
    text=st.text(max_size=40)
    | st.sampled_from(TEXTS)
    | st.lists(st.sampled_from(TEXTS), max_size=2).map(" ".join)
)
def test_a_text_comes_back_as_tokenizers_would_decode_it(family: str, text: str) -> None:
    ids = vocabulary(family).encode(text, add_special=False)

    assert "".join(streamed(family, ids)) == reference(family).decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_whole_words_come_with_their_tokens_and_nothing_is_left_for_the_end(family: str) -> None:
    """A stream that says all of it at its end says the same, and nobody would want it."""
    ids = vocabulary(family).encode("the dog the dog the dog", add_special=False)
    *parts, rest = streamed(family, ids)

    assert rest == ""
    assert sum(map(bool, parts)) >= min(len(ids), 6) - 1


@pytest.mark.parametrize("tokens", [["<0x20>"], ["<0x20>", "<0x20>", "<0x41>"], ["<0xC3>", "<0xA9>"]])
def test_a_blank_of_bytes_that_comes_first_is_stripped_like_any_other(tokens: list[str]) -> None:
    ids = [reference("sentencepiece").token_to_id(token) for token in tokens]

    assert "".join(streamed("sentencepiece", ids)) == reference("sentencepiece").decode(ids)


@pytest.mark.parametrize("family", list(FAMILIES))
@settings(max_examples=count(25, 150), deadline=None)
@given(data=st.data())
def test_any_tokens_stream_to_what_they_decode_to(family: str, data: st.DataObject) -> None:
    """Random ids: nothing is lost, repeated or taken back, whatever bytes they make."""
    ids = data.draw(st.lists(st.integers(0, vocabulary(family).num_ids - 1), max_size=24))
    pieces = streamed(family, ids)
    whole = "".join(pieces)

    assert whole == vocabulary(family).decode(ids)
    # A run of bytes with a bad one in it: tokenizers gives U+FFFD for every byte of the run, we for the bad ones.
    theirs = reference(family).decode(ids, skip_special_tokens=True)
    if REPLACEMENT not in whole and REPLACEMENT not in theirs:
        assert whole == theirs


@pytest.mark.parametrize("family", ["byte_level", "sentencepiece"])
@settings(max_examples=count(25, 150), deadline=None)
@given(text=st.text(st.characters(codec="utf-8", min_codepoint=0x80), min_size=1, max_size=12))
def test_no_piece_holds_half_a_character(family: str, text: str) -> None:
    pieces = streamed(family, vocabulary(family).encode(text, add_special=False))

    assert "".join(pieces) == text
    assert (REPLACEMENT in "".join(pieces)) == (REPLACEMENT in text)


@pytest.mark.parametrize("family", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("num_left_out", [1, 2, 3])
def test_half_a_character_at_the_end_is_dropped(family: str, num_left_out: int) -> None:
    ids = vocabulary(family).encode("ok 🛸", add_special=False)

    assert (
        "".join(streamed(family, ids[:-num_left_out])).rstrip(" ") == "ok"
    )  # the space may be in the lost token


def test_bytes_that_are_no_character_show_as_such_and_harm_no_neighbour() -> None:
    vocab = vocabulary("sentencepiece")
    euro = [vocab.token_of(f"<0x{byte:02X}>") or 0 for byte in "€".encode()]
    bad = vocab.token_of("<0xFF>") or 0

    assert vocab.decode([*euro, bad, *euro]) == "€" + REPLACEMENT + "€"


@pytest.mark.parametrize("family", ["byte_level", "sentencepiece", "metaspace", "suffixed"])
def test_special_tokens_are_no_text_unless_asked_for(family: str) -> None:
    vocab = vocabulary(family)
    ids = vocab.encode("hello" + SPECIAL[0], add_special=False)

    assert vocab.is_special(ids[-1])
    assert SPECIAL[0] not in vocab.decode(ids)
    assert SPECIAL[0] in vocab.decode(ids, keep_special=True)


def test_an_added_token_is_its_own_text() -> None:
    """tokenizers 0.23 decodes added tokens through the byte table, which breaks them if they are not ASCII."""
    vocab = vocabulary("byte_level")
    token = vocab.token_of("Größe!")

    assert vocab.decode([token or 0]) == "Größe!"


def test_a_text_that_goes_on_keeps_its_leading_space() -> None:
    vocab = vocabulary("sentencepiece")
    ids = vocab.encode("the dog", add_special=False)
    follows = vocab.text_stream(follows_text=True)

    assert vocab.decode(ids) == "the dog"
    assert "".join(map(follows.receive, ids)) == " the dog"


def test_truncation_and_padding_of_the_file_are_off() -> None:
    vocab = vocabulary("wordpiece")

    assert len(vocab.encode("the dog " * 40, add_special=True)) > 16
    assert len(vocab.encode("dog", add_special=True)) < 16
    assert vocab.encode_all(["dog", "the dog"], add_special=True)[0] == vocab.encode("dog", add_special=True)


@pytest.mark.parametrize("family", EXACT)
def test_the_known_families_are_known(family: str) -> None:
    assert vocabulary(family)._read_piece is not None


def test_other_decoder_chains_are_not_guessed_at() -> None:
    assert piece_reader(None) is None
    assert piece_reader({"type": "CTC"}) is None
    assert (
        piece_reader({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "x"}}]})
        is None
    )
    assert (
        piece_reader(
            {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
        )
        is None
    )
    assert piece_reader({"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}) is not None


@pytest.mark.parametrize(
    "steps",
    [
        [decoders.Replace("_", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)],
        [decoders.Replace("_", " "), decoders.Fuse(), decoders.Strip(" ", 2, 0)],
        [decoders.Replace("_", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)],
        [decoders.ByteFallback(), decoders.Replace("_", " "), decoders.Fuse()],
    ],
    ids=["strips one", "strips two", "bytes", "bytes before all"],
)
@pytest.mark.parametrize(
    "tokens", [["___a", "_b"], ["<0x20>", "_a"], ["a", "<0x41>", "<0xC3>", "<0xA9>"], ["<0x5F>", "_"], ["_"]]
)
def test_a_chain_says_what_the_tokenizers_own_decoder_says(steps: list[Any], tokens: list[str]) -> None:
    """Its pieces, joined; whatever of its steps there are, and in which order."""
    chain = decoders.Sequence(steps)
    read = piece_reader(json.loads(chain.__getstate__()))

    assert (read is None) == (steps[0].__class__ is decoders.ByteFallback)
    if read is not None:
        pieces = [read(token, False, number == 0) for number, token in enumerate(tokens)]
        assert b"".join(pieces).decode() == chain.decode(tokens)


def test_the_byte_alphabet_is_one_to_one() -> None:
    alphabet = byte_alphabet()

    assert sorted(alphabet.values()) == list(range(256))
    assert (alphabet["A"], alphabet["Ġ"], alphabet["Ċ"]) == (0x41, 0x20, 0x0A)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}'],
)
def test_what_is_no_tokenizer_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(TokenizerError):
        Vocabulary.from_bytes(data)


def test_ids_beyond_the_vocabulary_add_nothing() -> None:
    assert vocabulary("byte_level").decode([10**6]) == ""
