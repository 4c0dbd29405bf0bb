"""Sentence vectors and scores of pairs: rows of many requests share a pass, under a budget of padded tokens.

`Batcher` (plain Python) chooses which rows of which orders go next; `Encoder` computes them with the
class' own forward pass and pools, `Scorer` with the class' own head. Rows are padded to the longest of their pass
and masked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING

import torch

from inference.engine.gpu.device import device_of
from inference.engine.orders.asked import NUM_SEGMENTS
from inference.engine.steps.embed_turns import Lines, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from inference.engine.orders.asked import Embed
    from inference.engine.steps.embed_turns import Line

MAX_PASS_TOKENS = 4096
"""Rows times the longest of them, in one pass: about 0.3 s for a 110 M encoder on one core, and a cancel
waits for no more than one pass."""
MAX_WAITING_ROWS = 16_384
"""Rows of all orders together; the node refuses earlier by its own limit."""

FAR_LONGER = 2
"""Rows of two tenants whose lengths differ by more are not padded to one another."""

UNSEGMENTED = frozenset({"camembert", "roberta", "xlm-roberta"})
"""Families trained without segments: their tokenizers in transformers give none, whatever the sizes in the config."""


@dataclass(slots=True)
class _Asked:
    order: Embed
    vectors: dict[int, bytes] = field(default_factory=dict)


class Batcher:
    """Which rows the next pass computes: orders in the order they came, rows of like length together.

    Tenants take turns (`engine.steps.embed_turns`). One whose rows are far longer or shorter has a pass of its own:
    short rows would be padded to long ones, and would wait for them.
    """

    def __init__(self, max_pass_tokens: int = MAX_PASS_TOKENS) -> None:
        self._max_pass_tokens = max_pass_tokens
        self._asked: dict[str, _Asked] = {}
        self._lines = Lines()

    @property
    def num_orders(self) -> int:
        """Orders not yet answered."""
        return len(self._asked)

    @property
    def num_rows(self) -> int:
        """Rows not yet computed."""
        return self._lines.num_rows

    def add(self, order: Embed) -> bool:
        """Take an order in; False if its id is in use or too many rows wait."""
        if order.id in self._asked or self.num_rows + len(order.rows) > MAX_WAITING_ROWS:
            return False
        self._asked[order.id] = _Asked(order)
        segments = order.segments or ((),) * len(order.rows)
        rows = zip(order.rows, segments, strict=True)
        places = [Place(order.id, number, row, parts) for number, (row, parts) in enumerate(rows)]
        self._lines.add(order.tenant, order.weight, sorted(places, key=lambda place: len(place.tokens)))
        return True

    def drop(self, order_id: str) -> bool:
        """Forget an order; False if it is not here."""
        if self._asked.pop(order_id, None) is None:
            return False
        self._lines.drop(order_id)
        return True

    def plan(self) -> list[Place]:
        """The rows of the next pass; at least one if any waits."""
        chosen: list[Place] = []
        lengths: list[int] = []
        last: Line | None = None
        while (line := self._lines.next()) is not None:
            num = len(line.rows[0].tokens)
            longest = max(num, *lengths) if lengths else num
            is_full = longest * (len(chosen) + 1) > self._max_pass_tokens
            if chosen and (is_full or (line is not last and longest > FAR_LONGER * min(num, *lengths))):
                break
            chosen.append(self._lines.take(line))
            lengths.append(num)
            last = line
        return chosen

    def commit(self, places: Sequence[Place], vectors: Sequence[bytes]) -> list[tuple[Embed, bytes]]:
        """Keep the computed rows; gives the orders that are complete, with all their rows in order."""
        for place, vector in zip(places, vectors, strict=True):
            if place.id in self._asked:
                self._asked[place.id].vectors[place.row] = vector
        complete = [asked for asked in self._asked.values() if len(asked.vectors) == len(asked.order.rows)]
        for asked in complete:
            del self._asked[asked.order.id]
        return [
            (asked.order, b"".join(asked.vectors[row] for row in range(len(asked.order.rows))))
            for asked in complete
        ]


class Encoder:
    """A bidirectional model and its pooling: "mean" over the tokens, or "cls", the first one."""

    def __init__(self, model: PreTrainedModel, pooling: str, *, normalize: bool) -> None:
        self._model = model
        self._device = device_of(model)
        self._pooling = pooling
        self._normalize = normalize
        self._pad_id = model.config.pad_token_id or 0

    def encode(
        self, rows: Sequence[tuple[int, ...]], segments: Sequence[tuple[int, ...]] = ()
    ) -> torch.Tensor:
        """The vectors of token rows: [rows, size] float32. A text that is embedded is one segment."""
        del segments
        ids = torch.tensor(padded(rows, max(map(len, rows)), self._pad_id), device=self._device)
        mask = torch.tensor(mask_of(rows), device=self._device)
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return self._finished(self._pooled(states, mask[:, :, None].float())).cpu()

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._pooling == "cls":
            return states[:, 0]
        return (states * mask).sum(1) / mask.sum(1)

    def _finished(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(vectors, dim=-1) if self._normalize else vectors


class Scorer:
    """A cross-encoder: its head's one number for each row, a query and a document that its tokenizer has joined."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._device = device_of(model)
        self._pad_id = model.config.pad_token_id or 0
        told = "token_type_ids" in signature(model.forward).parameters
        known = getattr(model.config, "type_vocab_size", 0) >= NUM_SEGMENTS
        self._has_segments = told and known and model.config.model_type not in UNSEGMENTED

    def encode(
        self, rows: Sequence[tuple[int, ...]], segments: Sequence[tuple[int, ...]] = ()
    ) -> torch.Tensor:
        """The logits of token rows: [rows, 1] float32. `segments`: each row's, or () where all are 0."""
        longest = max(map(len, rows))
        given = {"input_ids": padded(rows, longest, self._pad_id), "attention_mask": mask_of(rows)}
        if self._has_segments:
            given["token_type_ids"] = padded(segments or [()] * len(rows), longest, 0)
        with torch.inference_mode():
            tensors = {name: torch.tensor(value, device=self._device) for name, value in given.items()}
            logits: torch.Tensor = self._model(**tensors).logits
        return logits.float().cpu()


def padded(rows: Sequence[Sequence[int]], length: int, filler: int) -> list[list[int]]:
    """The rows, each as long as `length`."""
    return [[*row, *[filler] * (length - len(row))] for row in rows]


def mask_of(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """1 where a row has a token, 0 where it is padded."""
    return padded([[1] * len(row) for row in rows], max(map(len, rows)), 0)


def little_endian(vectors: torch.Tensor) -> list[bytes]:
    """Each row of [rows, size] float32 as little-endian bytes, the form OpenAI's base64 has."""
    return [row.numpy().astype("<f4").tobytes() for row in vectors]
