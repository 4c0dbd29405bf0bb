"""KV slots and the attention over them, for transformers' own model classes.

A step is one sequence of tokens, [1, num_tokens], whatever requests they belong to: a linear layer sees
one matrix. Only here are the rows apart: each token's keys and values go to its request's slot, and each
request attends to its own slot alone. The classes call us through two seams that they offer:
`past_key_values.update` (`SlotCache`) and a registered attention function (`SlotAttention.attend`). The
function gets no mask (transformers makes none for a function without a registered mask) and masks by the
lengths it knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from inference.engine.attend.layout import CPU, StepLayout
from inference.engine.attend.registered import registered
from inference.engine.attend.scores import Scores
from inference.engine.attend.slot_memory import Form, SlotMemory
from inference.engine.steps.pages import PAGE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inference.engine.attend.layout import Chunk, Run
    from inference.engine.linear.last_layer import LastLayer
    from inference.engine.steps.slots import SlotPlan


class Placing(Protocol):
    """Where the tokens of a pass go: the first ones singly, then each chunk of neighbours in one slot."""

    @property
    def single_slots(self) -> torch.Tensor:
        """Their slots; as many as there are single tokens."""

    @property
    def single_positions(self) -> torch.Tensor:
        """And their places in these."""

    @property
    def chunks(self) -> Sequence[Chunk]:
        """The others."""


class SlotCache:
    """Keys and values of all slots: per layer [slots, KV heads, max_len, head size], made at its first use.

    Stands where transformers expects a cache. Host memory is taken from the system as positions are first written, a
    device's at once. Beside the slots it has the pages of kept prefixes, [pages, KV heads, page tokens, head size]:
    a prefix is copied, not shared, because attention over a slot needs its positions side by side.

    Where its `room` lends, the slots share less memory than all of them may need: a row's goes back to the system when
    it ends.
    """

    def __init__(self, room: SlotPlan, num_layers: int = 1) -> None:
        self._room, self._num_layers = room, num_layers
        self._memory: list[SlotMemory] = []
        self._used: dict[int, None] = {}
        """The layers that have something in here, in the order of their first use."""
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._pages: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.layout: Placing | None = None
        self._placed: tuple[Placing, tuple[int, int], torch.Tensor] | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a step's keys and values ([1, KV heads, num_tokens, head size]); gives the whole layer."""
        if layer_idx not in self._used:
            self._use(layer_idx, keys, values)
        stored_keys, stored_values = self._layers[layer_idx]
        self._store(stored_keys, keys[0])
        self._store(stored_values, values[0])
        return stored_keys, stored_values

    def keep(self, slot: int, start: int, pages: tuple[int, ...]) -> None:
        """Copy a slot's keys and values from position `start` on to pages."""
        where = _together(pages)
        for row, page in self._beside(slot, start, len(pages)):
            page[where] = row.transpose(0, 1)

    def restore(self, slot: int, start: int, pages: tuple[int, ...]) -> None:
        """Copy pages to a slot, from position `start` on."""
        where = _together(pages)
        for row, page in self._beside(slot, start, len(pages)):
            row.copy_(page[where].transpose(0, 1))

    def release(self, slot: int, *, scrub: bool) -> None:
        """A slot's row has ended; `scrub` if what it left may not be finite."""
        if scrub:
            self._scrub(slot)
        for memory in self._memory if self._room.lends else ():
            memory.give_back(slot)

    def _scrub(self, slot: int) -> None:
        """Overwrite a slot: a poisoned row's NaN would reach a neighbour through a zero weight (0 x NaN)."""
        with torch.inference_mode():  # as the pass that made them
            for keys, values in (self._layers[number] for number in self._used):
                keys[slot].zero_()
                values[slot].zero_()

    def get_seq_length(self, _layer_idx: int = 0) -> int:
        """Never used to place a token: positions are always given."""
        return 0

    def _beside(self, slot: int, start: int, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of each layer, keys then values: a slot's part as [KV heads, count, page tokens, size], and all pages."""
        end = start + count * PAGE_TOKENS
        with torch.inference_mode():  # as the pass that made them
            for number in self._used:
                for room, pages in zip(self._layers[number], self._pages[number], strict=True):
                    yield room[slot, :, start:end].view(-1, count, PAGE_TOKENS, room.shape[3]), pages

    def _use(self, layer_idx: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Have room for a layer with such keys and values, and at the first one for those that will be like it."""
        self._used[layer_idx] = None
        if keys.device != CPU:
            slots, pages = (self._room.num_slots, self._room.max_len), (self._room.num_pages, PAGE_TOKENS)
            self._layers[layer_idx] = _on_device(keys, *slots), _on_device(values, *slots)
            self._pages[layer_idx] = _on_device(keys, *pages), _on_device(values, *pages)
        elif not self._is_ready(layer_idx, keys, values):
            alike = [n for n in range(self._num_layers) if n not in self._used] if not self._layers else []
            numbers = [layer_idx, *alike]
            memory = SlotMemory(self._room, Form.of(keys), Form.of(values), len(numbers))
            self._memory.append(memory)
            for place, number in enumerate(numbers):
                made = memory.layer(place)
                self._layers[number], self._pages[number] = made.slots, made.pages

    def _is_ready(self, layer_idx: int, keys: torch.Tensor, values: torch.Tensor) -> bool:
        """Whether what was made ahead for this layer is what it needs."""
        made = self._layers.get(layer_idx)
        return made is not None and [*map(Form.of, made)] == [Form.of(keys), Form.of(values)]

    def _store(self, stored: torch.Tensor, new: torch.Tensor) -> None:
        layout = self.placing()
        if num_singles := len(layout.single_slots):
            rows = new[:, :num_singles].transpose(0, 1)
            stored.view(-1, stored.shape[3]).index_put_((self._places(layout, stored),), rows)
        for chunk in layout.chunks:
            end = chunk.token + chunk.count
            stored[chunk.slot, :, chunk.start : chunk.start + chunk.count] = new[:, chunk.token : end]

    def _places(self, layout: Placing, stored: torch.Tensor) -> torch.Tensor:
        """[singles, KV heads], where in [slots x KV heads x max_len, size] single tokens go; once for all layers.

        Slots and positions as they are, with all heads between them, take twice as long to store by: 59 and 24 us for
        16 rows, cold.
        """
        shape = stored.shape[1], stored.shape[2]
        if self._placed is None or self._placed[:2] != (layout, shape):
            heads = torch.arange(shape[0], device=stored.device)
            firsts = (layout.single_slots[:, None] * shape[0] + heads) * shape[1]
            self._placed = layout, shape, firsts + layout.single_positions[:, None]
        return self._placed[2]

    def placing(self) -> Placing:
        """Where the tokens of the pass that is being computed go.

        Raises:
            RuntimeError: none is.
        """
        if self.layout is None:
            raise RuntimeError("the cache was used outside a step")
        return self.layout


def _together(pages: tuple[int, ...]) -> slice | list[int]:
    """Pages as torch is asked for them: as a span if they are one.

    A list is copied on all threads, however short. Of a prompt of one page in 33 layers that woke the second thread 66
    times: 2 ms on idle cores, 10 to 40 beside other work (1.7 to 2.1 as a span), for which the next request waited.
    """
    span = slice(pages[0], pages[0] + len(pages))
    return span if pages == (*range(span.start, span.stop),) else list(pages)


def _on_device(like: torch.Tensor, count: int, length: int) -> torch.Tensor:
    shape = (count, like.shape[1], length, like.shape[3])
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


class SlotAttention:
    """The attention function of one engine, registered under a name of its own."""

    def __init__(self, last: LastLayer) -> None:
        self.layout = StepLayout(())
        """Of the step that is being computed."""
        self._last = last
        self.name = registered("slots", self.attend)

    def attend(
        self,
        module: torch.nn.Module,
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
        limit of the scores; `s_aux` are GPT-OSS' attention sinks, one per head. In the last layer tokens that do not
        sample get zeros.
        """
        layout = self.layout
        is_last = self._last.is_of(module)
        tokens = query[0].transpose(0, 1)  # [num_tokens, heads, head size]
        make = torch.zeros if is_last else torch.empty
        out = make(*tokens.shape[:2], value.shape[-1], dtype=query.dtype, device=query.device)
        scores = Scores(scaling or query.shape[-1] ** -0.5, softcap, s_aux)
        layer = LayerStep(layout, key, value, scores, sliding_window or key.shape[2], tokens, out)
        for run in layout.runs:
            layer.attend_run(run)
        for chunk in layout.sampling_chunks if is_last else layout.chunks:
            for piece in chunk.pieces():
                layer.attend_chunk(piece)
        if is_last:
            self._last.attended(layout.sampled, len(tokens))
        return out[None], None


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
        dtype = query.dtype if self.scores.adds_masks else None
        mask = self.layout.run_mask(run, first, self.window, self.keys.shape[1], dtype)
        found = self.scores.attend(query, self.keys[rows, :, seen], self.values[rows, :, seen], mask)
        self.out[own] = found.reshape(len(run.lengths), *self.out.shape[1:])

    def attend_chunk(self, chunk: Chunk) -> None:
        """All queries of one row: [1, KV heads, heads per KV head x tokens, head size]."""
        num_kv, head_size = self.keys.shape[1], self.tokens.shape[2]
        own = slice(chunk.token, chunk.token + chunk.count)
        first = max(0, chunk.start + 1 - self.window)
        seen = slice(first, chunk.start + chunk.count)
        query = self.tokens[own].transpose(0, 1).reshape(1, num_kv, -1, head_size)
        copies, dtype = self.tokens.shape[1] // num_kv, query.dtype if self.scores.adds_masks else None
        mask = self.layout.chunk_mask(chunk, first, self.window, copies, dtype)
        keys, values = self.keys[chunk.slot, None, :, seen], self.values[chunk.slot, None, :, seen]
        found = self.scores.attend(query, keys, values, mask)
        self.out[own] = found.reshape(-1, chunk.count, self.out.shape[2]).transpose(0, 1)
