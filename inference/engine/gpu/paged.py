"""Keys and values in blocks on a device, and the attention over them, for transformers' own model classes.

The same seams as on the CPU (`inference.engine.attend.attention`): a cache that the classes update, and a registered
attention function. Here a row's positions are wherever its table says, so nothing is padded, masked or gathered: the
kernels read the table. They read no position that a query may not see, so what a block held before is never read.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from inference.engine.attend.registered import registered
from inference.engine.gpu.norms import NormKernel
from inference.engine.steps.pages import PAGE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from inference.engine.gpu.blocks import BlockPool
    from inference.engine.steps.events import Segment, Step
    from inference.engine.steps.slots import SlotPlan


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens `span` of a step, row by row: row i has `counts[i]` of them, of which the first is number `firsts[i]`.

    Attributes:
        span: Which of the step's tokens.
        slots: Each row's line in the tables.
        firsts: Where in the span its tokens begin.
        counts: How many it has.
        starts: The position of its first token.
        most: No row has more tokens than this.
    """

    span: slice
    slots: torch.Tensor
    firsts: torch.Tensor
    counts: torch.Tensor
    starts: torch.Tensor
    most: int


@dataclass(frozen=True, slots=True)
class Queries:
    """What one layer asks of `Rows`, and how it turns products into weights (`SlotAttention.attend`)."""

    tables: torch.Tensor
    slots: torch.Tensor
    firsts: torch.Tensor
    counts: torch.Tensor
    starts: torch.Tensor
    most: int
    scale: float
    softcap: float | None
    window: int
    sinks: torch.Tensor | None


class Kernels(NormKernel, Protocol):
    """A device's own part. `pages` are keys and values, each [blocks, KV heads, PAGE_TOKENS, size]."""

    def write(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        pages: tuple[torch.Tensor, torch.Tensor],
        tables: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        """Store keys and values, each [KV heads, tokens, size], each token's at its position of its slot's table."""

    def attend(
        self,
        tokens: torch.Tensor,
        pages: tuple[torch.Tensor, torch.Tensor],
        asked: Queries,
        out: torch.Tensor,
    ) -> None:
        """Fill `out`, [tokens, heads, value size], for the queries `tokens`, [tokens, heads, key size]."""


class PagedStep:
    """One step where it is computed: `ids` and `positions` are [1, num_tokens], `slots` is [num_tokens].

    `sampled` holds the indices of the tokens whose logits are wanted; 0, as the classes have it, wants all.
    """

    def __init__(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        rows: Sequence[Rows],
        sampled: torch.Tensor | int,
    ) -> None:
        self.ids, self.positions, self.slots = ids, positions, slots
        self.rows, self.sampled = rows, sampled

    @classmethod
    def of(cls, ordered: Step, put: Callable[[torch.Tensor], torch.Tensor]) -> PagedStep:
        """The step of these segments, those of one token first. All its numbers go over in one copy."""
        tokens = [token for part in ordered for token in part.tokens]
        positions = [part.start + i for part in ordered for i in range(len(part.tokens))]
        slots = [part.slot for part in ordered for _ in part.tokens]
        ends = list(itertools.accumulate(len(part.tokens) for part in ordered))
        num_singles = sum(len(part.tokens) == 1 for part in ordered)
        groups = [
            _group(ordered[:num_singles], 0),
            _group(ordered[num_singles:], num_singles),
        ]
        sampled = [end - 1 for part, end in zip(ordered, ends, strict=True) if part.samples]
        lists = [tokens, positions, slots, sampled, *(each for group in groups for each in group[1:])]
        moved = put(torch.tensor([number for each in lists for number in each], dtype=torch.long))
        cut = torch.split(moved, [len(each) for each in lists])
        rows = [
            Rows(span, cut[at], cut[at + 1], cut[at + 2], cut[at + 3], max(counts))
            for at, (span, _, _, counts, _) in ((4, groups[0]), (8, groups[1]))
            if counts
        ]
        return cls(cut[0][None], cut[1][None], cut[2], rows, cut[3])

    @classmethod
    def of_singles(cls, packed: torch.Tensor) -> PagedStep:
        """The step of rows with one token each: [ids, positions, slots] of them, which may be filled anew later."""
        ids, positions, slots = packed
        firsts = torch.arange(len(ids), device=packed.device)
        rows = Rows(slice(len(ids)), slots, firsts, torch.ones_like(firsts), positions, 1)
        return cls(ids[None], positions[None], slots, [rows], 0)


def _group(parts: Sequence[Segment], token: int) -> tuple[slice, list[int], list[int], list[int], list[int]]:
    counts = [len(part.tokens) for part in parts]
    firsts = [end - count for end, count in zip(itertools.accumulate(counts), counts, strict=True)]
    span = slice(token, token + sum(counts))
    return span, [part.slot for part in parts], firsts, counts, [part.start for part in parts]


class PagedCache:
    """Keys and values of all blocks: the rows' own, the kept pages behind them, and last the block that is nobody's.

    Stands where transformers expects a cache. Each slot has a line in the tables, and behind the last one is
    nobody's.
    """

    def __init__(
        self,
        pool: BlockPool,
        room: SlotPlan,
        kernels: Kernels,
        put: Callable[[torch.Tensor], torch.Tensor],
        memory: torch.Tensor,
    ) -> None:
        self._pool, self._kernels, self._put = pool, kernels, put
        self._num_blocks = room.num_blocks + room.num_pages + 1
        self._memory = memory
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.nobody = pool.num_slots
        most = max(1, -(-room.max_len // PAGE_TOKENS))
        lines = torch.full((pool.num_slots + 1, most), self._num_blocks - 1, dtype=torch.int32)
        self.tables = put(lines)
        self._told: dict[int, tuple[int, ...]] = {}
        self.step: PagedStep | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a step's keys and values ([1, KV heads, num_tokens, head size]); gives the whole layer."""
        if layer_idx not in self._layers:
            self._layers[layer_idx] = self._room(keys), self._room(values)
        pages, step = self._layers[layer_idx], self.current()
        self._kernels.write(keys[0], values[0], pages, self.tables, step.slots, step.positions[0])
        return pages

    def set_tables(self, slots: Iterable[int]) -> None:
        """Have these slots' lines say what blocks they have now. What was told before does not read the new lines."""
        for slot in slots:
            blocks = self._pool.blocks(slot)
            if self._told.get(slot) != blocks:
                self._told[slot] = blocks
                self.tables[slot, : len(blocks)] = self._put(torch.tensor(blocks, dtype=torch.int32))

    def keep(self, slot: int, start: int, pages: tuple[int, ...]) -> None:
        """Copy a slot's keys and values from position `start` on to kept pages."""
        self._copy(self._blocks(slot, start, len(pages)), self._kept(pages))

    def restore(self, slot: int, start: int, pages: tuple[int, ...]) -> None:
        """Copy kept pages to a slot, from position `start` on."""
        self._copy(self._kept(pages), self._blocks(slot, start, len(pages)))

    def get_seq_length(self, _layer_idx: int = 0) -> int:
        """Never used to place a token: positions are always given."""
        return 0

    def current(self) -> PagedStep:
        """The step that is being computed.

        Raises:
            RuntimeError: none is.
        """
        if self.step is None:
            raise RuntimeError("the cache was used outside a step")
        return self.step

    def _blocks(self, slot: int, start: int, count: int) -> tuple[int, ...]:
        first = start // PAGE_TOKENS
        return self._pool.blocks(slot)[first : first + count]

    def _kept(self, pages: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self._pool.num_blocks + page for page in pages)

    def _copy(self, sources: tuple[int, ...], targets: tuple[int, ...]) -> None:
        source, target = self._put(torch.tensor([sources, targets], dtype=torch.long))
        with torch.inference_mode():  # as the pass that made them
            for room in itertools.chain.from_iterable(self._layers.values()):
                room[target] = room[source]

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        """One layer's keys or values, of the memory that was taken at the start."""
        _, num_heads, _, head_size = like.shape
        shape = (self._num_blocks, num_heads, PAGE_TOKENS, head_size)
        num_bytes = torch.Size(shape).numel() * like.element_size()
        if num_bytes > len(self._memory):  # the class computes in more bytes than the weights' dtype says
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        own, self._memory = self._memory[:num_bytes], self._memory[num_bytes:]
        return own.view(like.dtype).view(shape)


class PagedAttention:
    """The attention function of one engine, registered under a name of its own."""

    def __init__(self, cache: PagedCache, kernels: Kernels) -> None:
        self._cache, self._kernels = cache, kernels
        self.name = registered("paged", self.attend)

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
        """See `SlotAttention.attend`; `key` and `value` are the layer's blocks, as `PagedCache.update` gave them."""
        tokens, tables = query[0].transpose(0, 1), self._cache.tables
        scale, window = scaling or query.shape[-1] ** -0.5, sliding_window or tables.shape[1] * PAGE_TOKENS
        out = torch.empty(*tokens.shape[:2], value.shape[-1], dtype=query.dtype, device=query.device)
        for rows in self._cache.current().rows:
            asked = Queries(
                *(tables, rows.slots, rows.firsts, rows.counts, rows.starts, rows.most),
                *(scale, softcap, window, s_aux),
            )
            self._kernels.attend(tokens[rows.span], (key, value), asked, out[rows.span])
        return out[None], None
