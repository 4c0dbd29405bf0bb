"""What the API process needs of a model: its tokenizer, chat template, and sampling defaults. No weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.board import LoadFailure
from inference.sampling import Defaults
from inference.template import ChatTemplate, find_template, json_file
from inference.tokens import TokenizerError, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weights_cache.revision import ModelFacts


@dataclass(frozen=True, slots=True)
class ModelText:
    """Everything between a request's words and token ids, both ways."""

    vocabulary: Vocabulary
    template: ChatTemplate | None
    defaults: Defaults

    @classmethod
    def read(cls, files: Mapping[str, bytes]) -> ModelText:
        """From the model's small files.

        Raises:
            LoadFailure: there is no tokenizer that can be used.
        """
        if "tokenizer.json" not in files:
            raise LoadFailure(
                "tokenizer_missing",
                "the model has no tokenizer.json",
                "save it with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), and push again",
            )
        try:
            vocabulary = Vocabulary.from_bytes(files["tokenizer.json"])
        except TokenizerError as cause:
            raise LoadFailure(
                "tokenizer_bad", str(cause), "push a tokenizer.json of tokenizers 0.20 or later"
            ) from cause
        return cls(
            vocabulary, find_template(files), Defaults.from_config(json_file(files, "generation_config.json"))
        )


def context_tokens(facts: ModelFacts) -> int:
    """The longest input the model itself takes: an embedding model's own cut, else its positions."""
    return min(facts.max_len, facts.max_seq_len or facts.max_len)
