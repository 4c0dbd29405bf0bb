"""KV slots and the attention over them, for transformers' own model classes.

A step is one sequence of tokens, [1, num_tokens], whatever requests they belong to: a linear layer sees
one matrix. Only here are the rows apart: each token's keys and values go to its request's slot, and each
request attends to its own slot alone. The classes call us through two seams that they offer:
`past_key_values.update` (`SlotCache`) and a registered attention function (`SlotAttention.attend`). The
function gets no mask (transformers makes none for a function without a registered mask) and masks by the
lengths it knows.
"""

from __future__ import annotations

import itertools
import math
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from inference.engine.slots import side_by_side

if TYPE_CHECKING:
    from inference.engine.scheduler import Segment, Step

NAMES = itertools.count()
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Several tokens of one row; `token` is the index of the first in the step."""

    slot: int
    start: int
    count: int
    token: int


@dataclass(frozen=True, slots=True)
class Run:
    """One token of each of several rows in consecutive slots, the first of them token `token` of the step."""

    slot: int
    token: int
    lengths: tuple[int, ...]  # positions to attend to, the token's own included


class StepLayout:
    """Where each token of a step lies: rows with one token first (by slot), then the chunks.

    `ids` and `positions` are [1, num_tokens]; `sampled` holds the indices of the tokens whose logits are
    wanted, and `sampled_ids` their requests.
    """

    def __init__(self, step: Step, device: torch.device = CPU) -> None:
        singles = sorted((part for part in step if len(part.tokens) == 1), key=lambda part: part.slot)
        chunks = [part for part in step if len(part.tokens) > 1]
        ordered = [*singles, *chunks]
        self._device = device
        self.ids = torch.tensor([[token for part in ordered for token in part.tokens]], device=device)
        positions = [part.start + i for part in ordered for i in range(len(part.tokens))]
        self.positions = torch.tensor([positions], device=device)
        ends = list(itertools.accumulate(len(part.tokens) for part in ordered))
        sampled = [end - 1 for part, end in zip(ordered, ends, strict=True) if part.samples]
        self.sampled = torch.tensor(sampled, dtype=torch.long, device=device)
        self.sampled_ids = [part.id for part in ordered if part.samples]
        self.runs = _runs(singles)
        self.chunks = [
            Chunk(part.slot, part.start, len(part.tokens), end - len(part.tokens))
            for part, end in zip(chunks, ends[len(singles) :], strict=True)
        ]
        self.single_slots = torch.tensor([part.slot for part in singles], dtype=torch.long, device=device)
        self.single_positions = self.positions[0, : len(singles)]
        self._masks: dict[tuple[Run | Chunk, int], torch.Tensor | None] = {}

    def run_mask(self, run: Run, first: int, window: int) -> torch.Tensor | None:
        """[rows, 1, 1, positions from `first`], true where a row may look; None when all look everywhere."""
        if (run, window) not in self._masks:
            self._masks[run, window] = _run_mask(run, first, window, self._device)
        return self._masks[run, window]

    def chunk_mask(self, chunk: Chunk, first: int, window: int) -> torch.Tensor:
        """[tokens, positions from `first`]: causal, and within the window."""
        mask = self._masks.get((chunk, window))
        if mask is None:
            own = torch.arange(chunk.start, chunk.start + chunk.count, device=self._device)[:, None]
            seen = torch.arange(first, chunk.start + chunk.count, device=self._device)[None, :]
            mask = (seen <= own) & (seen > own - window)
            self._masks[chunk, window] = mask
        return mask


def _runs(singles: list[Segment]) -> list[Run]:
    slots, lengths = [part.slot for part in singles], [part.start + 1 for part in singles]
    cuts = side_by_side(slots, lengths)
    return [Run(slots[cut.start], cut.start, tuple(lengths[cut.start : cut.stop])) for cut in cuts]


def _run_mask(run: Run, first: int, window: int, device: torch.device) -> torch.Tensor | None:
    longest = max(run.lengths)
    if min(run.lengths) == longest:
        return None
    lengths = torch.tensor(run.lengths, device=device)[:, None]
    seen = torch.arange(first, longest, device=device)[None, :]
    return ((seen < lengths) & (seen >= lengths - window))[:, None, None, :]


class SlotCache:
    """Keys and values of all slots: per layer [slots, KV heads, max_len, head size], made at its first use.

    Stands where transformers expects a cache. Host memory is taken from the system as positions are first
    written, a device's at once.
    """

    def __init__(self, num_slots: int, max_len: int) -> None:
        self._num_slots = num_slots
        self._max_len = max_len
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.layout: StepLayout | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a step's keys and values ([1, KV heads, num_tokens, head size]); gives the whole layer."""
        if layer_idx not in self._layers:
            self._layers[layer_idx] = (self._room(keys), self._room(values))
        stored_keys, stored_values = self._layers[layer_idx]
        self._store(stored_keys, keys[0])
        self._store(stored_values, values[0])
        return stored_keys, stored_values

    def scrub(self, slot: int) -> None:
        """Overwrite a slot: a poisoned row's NaN would reach a neighbour through a zero weight (0 x NaN)."""
        with torch.inference_mode():  # as the pass that made them
            for keys, values in self._layers.values():
                keys[slot].zero_()
                values[slot].zero_()

    def get_seq_length(self, _layer_idx: int = 0) -> int:
        """Never used to place a token: positions are always given."""
        return 0

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        _, num_heads, _, head_size = like.shape
        shape = (self._num_slots, num_heads, self._max_len, head_size)
        if like.device != CPU:
            return torch.zeros(shape, dtype=like.dtype, device=like.device)
        pages = mmap.mmap(-1, math.prod(shape) * like.element_size())  # zeroed by the system, page by page
        return torch.frombuffer(pages, dtype=like.dtype).view(shape)

    def _store(self, stored: torch.Tensor, new: torch.Tensor) -> None:
        layout = self.step()
        if num_singles := len(layout.single_slots):
            stored[layout.single_slots, :, layout.single_positions] = new[:, :num_singles].transpose(0, 1)
        for chunk in layout.chunks:
            end = chunk.token + chunk.count
            stored[chunk.slot, :, chunk.start : chunk.start + chunk.count] = new[:, chunk.token : end]

    def step(self) -> StepLayout:
        """The layout of the step that is being computed.

        Raises:
            RuntimeError: none is.
        """
        if self.layout is None:
            raise RuntimeError("the cache was used outside a step")
        return self.layout


class SlotAttention:
    """The attention function of one engine, registered under a name of its own."""

    def __init__(self, cache: SlotCache) -> None:
        self._cache = cache
        self.name = f"nearfield_slots_{next(NAMES)}"
        AttentionInterface.register(self.name, self.attend)

    def attend(
        self,
        module: torch.nn.Module,  # noqa: ARG002 - transformers passes it
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        _mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend for one layer: gives [1, num_tokens, heads, head size] and no weights.

        `query` is [1, heads, num_tokens, head size] of the step; `key` and `value` are the layer's stored
        ones, as `SlotCache.update` gave them. `scaling` defaults to one over the root of the head size;
        `sliding_window` counts the positions a token sees, its own included; `softcap` is Gemma 2's tanh
        limit of the scores; `s_aux` are GPT-OSS' attention sinks, one per head.
        """
        layout = self._cache.step()
        tokens = query[0].transpose(0, 1)  # [num_tokens, heads, head size]
        out = torch.empty(*tokens.shape[:2], value.shape[-1], dtype=query.dtype, device=query.device)
        scores = Scores(scaling or query.shape[-1] ** -0.5, softcap, s_aux)
        layer = LayerStep(layout, key, value, scores, sliding_window or key.shape[2], tokens, out)
        for run in layout.runs:
            layer.attend_run(run)
        for chunk in layout.chunks:
            layer.attend_chunk(chunk)
        return out[None], None


@dataclass(frozen=True, slots=True)
class Scores:
    """How one layer turns products of queries and keys into weights."""

    scale: float
    softcap: float | None
    sinks: torch.Tensor | None

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """[rows, heads, queries, size] against [rows, heads, positions, size]; `mask` true: may look."""
        if self.softcap is None and self.sinks is None:
            return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        scores = torch.matmul(query, key.transpose(2, 3)) * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return torch.matmul(self._weights(scores).to(value.dtype), value)

    def _weights(self, scores: torch.Tensor) -> torch.Tensor:
        if self.sinks is None:
            return torch.softmax(scores, dim=-1, dtype=torch.float32)
        rows, heads, queries, _ = scores.shape
        per_head = self.sinks.numel() // heads  # packed queries: several heads' queries lie behind each other
        sinks = self.sinks.reshape(heads, per_head, 1).expand(heads, per_head, queries // per_head)
        column = sinks.reshape(1, heads, queries, 1).expand(rows, -1, -1, -1).to(scores.dtype)
        return torch.softmax(torch.cat([scores, column], dim=-1), dim=-1, dtype=torch.float32)[..., :-1]


@dataclass(frozen=True, slots=True)
class LayerStep:
    """One layer's attention in one step; `tokens` and `out` are [num_tokens, heads, head size].

    Query heads that share a KV head are packed as further queries of that head: no key is ever repeated.
    """

    layout: StepLayout
    keys: torch.Tensor
    values: torch.Tensor
    scores: Scores
    window: int
    tokens: torch.Tensor
    out: torch.Tensor

    def attend_run(self, run: Run) -> None:
        """One query per row and head: [rows, KV heads, heads per KV head, head size]."""
        rows = slice(run.slot, run.slot + len(run.lengths))
        own = slice(run.token, run.token + len(run.lengths))
        first = max(0, min(run.lengths) - self.window)
        seen = slice(first, max(run.lengths))
        query = self.tokens[own].reshape(len(run.lengths), self.keys.shape[1], -1, self.tokens.shape[2])
        mask = self.layout.run_mask(run, first, self.window)
        found = self.scores.attend(query, self.keys[rows, :, seen], self.values[rows, :, seen], mask)
        self.out[own] = found.reshape(len(run.lengths), *self.out.shape[1:])

    def attend_chunk(self, chunk: Chunk) -> None:
        """All queries of one row: [1, KV heads, heads per KV head x tokens, head size]."""
        num_kv, head_size = self.keys.shape[1], self.tokens.shape[2]
        own = slice(chunk.token, chunk.token + chunk.count)
        first = max(0, chunk.start + 1 - self.window)
        seen = slice(first, chunk.start + chunk.count)
        query = self.tokens[own].transpose(0, 1).reshape(1, num_kv, -1, head_size)
        mask = self.layout.chunk_mask(chunk, first, self.window)
        mask = mask.repeat(self.tokens.shape[1] // num_kv, 1)
        keys, values = self.keys[chunk.slot, None, :, seen], self.values[chunk.slot, None, :, seen]
        found = self.scores.attend(query, keys, values, mask)
        self.out[own] = found.reshape(-1, chunk.count, self.out.shape[2]).transpose(0, 1)
