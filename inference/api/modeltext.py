"""What the API process needs of a model: its tokenizer, chat template, and sampling defaults. No weights."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.api.request.sampling import Defaults
from inference.api.text.template import ChatTemplate, TemplateChild, find_template, json_file
from inference.api.text.tokens import TokenizerError, Vocabulary
from inference.workers.board import LoadFailure

if TYPE_CHECKING:
    from collections.abc import Mapping


TOKENIZER_MISSING = (
    "tokenizer_missing",
    "the model has no tokenizer.json",
    "save it with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), and push again",
)
TOKENIZER_BAD = "tokenizer_bad"
NEWER_TOKENIZER = "push a tokenizer.json of tokenizers 0.20 or later"
MAX_TEXTS = 16
"""Models whose text is kept; a large tokenizer takes about 100 MB, and 0.8 s to read again (measured)."""


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
            raise LoadFailure(*TOKENIZER_MISSING)
        try:
            vocabulary = Vocabulary.from_bytes(files["tokenizer.json"])
        except TokenizerError as cause:
            raise LoadFailure(TOKENIZER_BAD, str(cause), NEWER_TOKENIZER) from cause
        defaults = Defaults.from_config(json_file(files, "generation_config.json"))
        return cls(vocabulary, find_template(files), defaults)


class TextShelf:
    """The texts of models that were resident lately: the next load of one need not read it again."""

    def __init__(self, child: TemplateChild) -> None:
        self.child = child
        self._texts: OrderedDict[str, ModelText] = OrderedDict()
        self._compiling: set[asyncio.Task[None]] = set()

    async def text_of(self, revision_id: str, files: Mapping[str, bytes]) -> ModelText:
        """The revision's text; its template is compiled in the child meanwhile. Raises LoadFailure."""
        if (text := self._texts.get(revision_id)) is None:
            text = self._texts[revision_id] = await asyncio.to_thread(ModelText.read, files)
        self._texts.move_to_end(revision_id)
        while len(self._texts) > MAX_TEXTS:
            self._texts.popitem(last=False)
        if text.template is not None:
            task = asyncio.create_task(self.child.compile(text.template))
            self._compiling.add(task)
            task.add_done_callback(self._compiling.discard)
        return text
