"""Small tokenizers of each family, trained here, so that nothing is downloaded."""

from functools import cache

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.",
    "Nearfield keeps the weights, the store and the edge on one host: no egress, no wait.",
    "Größe, naïve café, señor, Żółć, Привет мир, 你好世界, こんにちは, مرحبا, 👩‍👩‍👧 😀 🚀 e\u0301",
    "def f(x):\n    return x ** 2  # square\n\n",
    "What is 12 + 30? It isn't 41, it's 42. Don't you think so?",
] * 4
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>"]


def _added() -> list[AddedToken]:
    return [AddedToken(text, special=True, normalized=False) for text in SPECIAL]


@cache
def byte_level() -> bytes:
    """GPT-2's kind: every byte has a token, characters may be split over several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(_added())
    tokenizer.add_tokens([AddedToken("Größe!", normalized=False)])
    return tokenizer.to_str().encode()


@cache
def sentencepiece() -> bytes:
    """Llama 2's kind: words start with a mark, unknown characters are byte tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        limit_alphabet=60,
    )
    tokenizer.train_from_iterator([text for text in TEXTS if text.isascii()], trainer)
    state = tokenizer.to_str()
    plain = Tokenizer.from_str(_without_byte_specials(state))
    plain.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    plain.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    plain.add_special_tokens(_added())
    return plain.to_str().encode()


def _without_byte_specials(state: str) -> str:
    """Byte tokens are ordinary tokens; only the trainer had to be told of them as special ones."""
    import json

    value = json.loads(state)
    value["added_tokens"] = [one for one in value["added_tokens"] if not one["content"].startswith("<0x")]
    return json.dumps(value)


@cache
def metaspace() -> bytes:
    """T5's kind: the same mark, made by the pre-tokenizer."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"]
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(_added())
    return tokenizer.to_str().encode()


@cache
def wordpiece() -> bytes:
    """BERT's kind: continuations are marked."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, show_progress=False, special_tokens=["[UNK]", "[CLS]", "[SEP]"]
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    return tokenizer.to_str().encode()


@cache
def suffixed() -> bytes:
    """CLIP's kind, whose decoder we do not know by heart: words end with a mark."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, end_of_word_suffix="</w>", special_tokens=["<unk>"]
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(_added())
    return tokenizer.to_str().encode()


FAMILIES = {
    "byte_level": byte_level,
    "sentencepiece": sentencepiece,
    "metaspace": metaspace,
    "wordpiece": wordpiece,
    "suffixed": suffixed,
}
