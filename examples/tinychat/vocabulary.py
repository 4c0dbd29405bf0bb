"""The tokenizer: a byte-level BPE trained on the lessons, each digit a token of its own."""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from examples.tinychat.lessons import Lesson, casual

VOCABULARY_TOKENS = 1536  # nearly every word of the lessons is one token; the table is a sixth of the model
BEGIN, PAD, END = "<|begin|>", "<|pad|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('tinychat knows the roles system, user and assistant') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _corpus(lessons: tuple[Lesson, ...]) -> Iterator[str]:
    for lesson in lessons:
        yield lesson.answer
        for question in lesson.questions:
            yield question
            yield casual(question)


def train(lessons: tuple[Lesson, ...]) -> Tokenizer:
    """A byte-level BPE over the lessons; byte-level so that any text has tokens and comes back exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS,
        special_tokens=[BEGIN, PAD, END, *ROLES.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(lessons), trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, max_len: int) -> None:
    """Write tokenizer.json and tokenizer_config.json; ``max_len`` in tokens."""
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, pad_token=PAD, eos_token=END, model_max_length=max_len
    )
    whole.chat_template = CHAT_TEMPLATE
    whole.save_pretrained(folder)
