"""Steps whose every number is bitwise the same at any batch size: `deterministic = true`.

A float's last bits come from the order of its sums, and that order follows the shapes of the products: a row
computed alone, beside others or in a longer chunk of its prompt is rounded differently. So here each pass has one
shape, `TILE_TOKENS` tokens, filled up with tokens that belong to nobody; and each token attends alone, over
positions cut where its own position says (`span`), whatever else runs. What remains is that the products must not
care which row of a tile a token is, and who lies beside it: that is tried on the model itself before its first
answer (`FixedModel.width`), and a model of which it is not true is computed one token a pass, which needs no such
trust. (For the trouble, and fixed shapes and splits as its cure: Thinking Machines Lab, "Defeating Nondeterminism
in LLM Inference", 2025.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from inference.engine.attend.attention import SlotCache
from inference.engine.attend.layout import CPU
from inference.engine.attend.registered import registered
from inference.engine.attend.scores import Scores
from inference.engine.choose.sample import choose_all
from inference.engine.gpu.device import device_of
from inference.engine.steps.pages import PAGE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedConfig, PreTrainedModel

    from inference.engine.attend.layout import Chunk
    from inference.engine.choose.sample import Broken, Sampled, Sampler
    from inference.engine.steps.events import Segment, Step
    from inference.engine.steps.slots import SlotPlan

TILE_TOKENS = 16
"""A full batch of a usual engine in one pass; a lonely stream pays for it by padding (`bench engine`)."""
SPAN_POSITIONS = 64
"""Keys are looked at in whole blocks of so many: a token's shape changes only every so often."""
NO_SLOT = -1


@dataclass(frozen=True, slots=True)
class Place:
    """One token of a tile: its row's slot and where in it. Padding has no slot."""

    token: int
    slot: int = NO_SLOT
    position: int = 0


def span(position: int, window: int, max_len: int) -> tuple[int, int]:
    """The positions that a token's attention is computed over: a function of the token's own place alone."""
    first = max(0, position + 1 - window) // SPAN_POSITIONS * SPAN_POSITIONS
    end = (position // SPAN_POSITIONS + 1) * SPAN_POSITIONS
    return first, min(end, max_len)


@dataclass(slots=True)
class Tile:
    """Tokens of one pass, the padding last; what `SlotCache` asks of a layout."""

    places: Sequence[Place]
    device: torch.device
    single_slots: torch.Tensor = field(init=False)
    single_positions: torch.Tensor = field(init=False)
    chunks: tuple[Chunk, ...] = ()
    _masks: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = self.own
        self.single_slots = self._tensor([each.slot for each in own])
        self.single_positions = self._tensor([each.position for each in own])

    @property
    def own(self) -> list[Place]:
        """Those that are no padding."""
        return [each for each in self.places if each.slot != NO_SLOT]

    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model's classes are given: ids and positions, [1, tokens]."""
        ids = self._tensor([each.token for each in self.places])
        positions = self._tensor([each.position for each in self.places])
        return {"input_ids": ids[None], "position_ids": positions[None]}

    def mask(self, position: int, window: int, max_len: int) -> torch.Tensor:
        """True where that token may look, [1, 1, 1, positions of its span]."""
        if (position, window) not in self._masks:
            seen = torch.arange(*span(position, window, max_len), device=self.device)
            may = (seen <= position) & (seen > position - window)
            self._masks[position, window] = may[None, None, None]
        return self._masks[position, window]

    def _tensor(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)


class FixedAttention:
    """The attention function of one engine, registered under a name of its own: one token at a time."""

    def __init__(self) -> None:
        self.tile = Tile((), CPU)
        self.name = registered("fixed", self.attend)

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
        """Attend for one layer; shapes and arguments are those of `SlotAttention.attend`."""
        num_heads, num_tokens, head_size = query.shape[1:]
        num_kv, max_len, value_size = value.shape[1:]
        window = sliding_window or max_len
        scores = Scores(scaling or head_size**-0.5, softcap, s_aux)
        out = torch.zeros(num_tokens, num_heads, value_size, dtype=query.dtype, device=query.device)
        for row, place in enumerate(self.tile.own):
            seen = slice(*span(place.position, window, max_len))
            own = query[0, :, row].clone().view(1, num_kv, -1, head_size)  # in memory of its own: aligned
            keys, values = key[place.slot, None, :, seen], value[place.slot, None, :, seen]
            found = scores.attend(own, keys, values, self.tile.mask(place.position, window, max_len))
            out[row] = found.reshape(num_heads, value_size)
        return out[None], None


class FixedModel:
    """`StepModel` over slots in passes of one shape. Tokens of a step may share tiles in any way."""

    def __init__(self, model: PreTrainedModel, room: SlotPlan) -> None:
        self._model = model
        self._max_len = room.max_len
        self._device = device_of(model)
        self._cache = SlotCache(room, model.config.num_hidden_layers)
        self._attention = FixedAttention()
        self._width: int | None = None
        model.set_attn_implementation(self._attention.name)

    @property
    def width(self) -> int:
        """Tokens of each pass; found out by a few passes when it is first asked for, before any row has a slot."""
        if self._width is None:
            fits = self._max_len >= TILE_TOKENS and not has_experts(self._model.config)
            self._width = TILE_TOKENS if fits and self._is_blind_to_neighbours() else 1
        return self._width

    def forward(self, step: Step) -> tuple[list[str], torch.Tensor]:
        """See `StepModel`."""
        width = self.width
        for part in step:
            if part.pages:
                self._cache.restore(part.slot, part.start - len(part.pages) * PAGE_TOKENS, part.pages)
        wanted = {row: part.id for part, row in zip(step, _last_rows(step), strict=True) if part.samples}
        places, found = [place for part in step for place in _places(part)], []
        for start in range(0, len(places), width):
            rows = [row - start for row in wanted if start <= row < start + width]
            logits = self._pass(_padded(places[start : start + width], width), keeps=bool(rows))
            found += [logits[row].float().cpu() for row in rows]
        return list(wanted.values()), torch.stack(found) if found else torch.empty(0, 0)

    def choose(self, logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Sampled | Broken]:
        """See `StepModel`."""
        return choose_all(logits, samplers)

    def store(self, slot: int, start: int, pages: tuple[int, ...]) -> None:
        """See `StepModel`."""
        self._cache.keep(slot, start, pages)

    def release(self, slot: int, *, scrub: bool) -> None:
        """See `StepModel`."""
        self._cache.release(slot, scrub=scrub)

    def _pass(self, places: Sequence[Place], *, keeps: bool) -> torch.Tensor:
        """Logits of all tokens of a tile, [tokens, vocabulary]; of the first alone where nobody wants them."""
        tile = Tile(places, self._device)
        self._cache.layout = self._attention.tile = tile
        kept = torch.arange(len(places) if keeps else 1, device=self._device)
        with torch.inference_mode():
            out = self._model(
                **tile.inputs(), past_key_values=self._cache, use_cache=True, logits_to_keep=kept
            )
        logits: torch.Tensor = out.logits[0]
        return logits

    def _is_blind_to_neighbours(self) -> bool:
        """Whether tokens come out the same in other rows of a tile, and with half of it empty."""
        vocab_size, half = self._model.config.vocab_size, TILE_TOKENS // 2
        tokens = [Place((3 + 7 * number) % vocab_size, 0, number) for number in range(TILE_TOKENS)]
        straight = self._by_position(tokens)
        turned = self._by_position([*tokens[5:], *tokens[:5]])
        apart = [self._by_position(tokens[:half]), self._by_position(tokens[half:])]
        return torch.equal(straight, turned) and torch.equal(straight, torch.cat(apart))

    def _by_position(self, places: Sequence[Place]) -> torch.Tensor:
        order = torch.tensor([each.position for each in places]).argsort()
        return self._pass(_padded(places, TILE_TOKENS), keeps=True)[order.to(self._device)]


def has_experts(config: PreTrainedConfig) -> bool:
    """Whether tokens are sorted to experts: then how many go to one of them is its product's shape."""
    return any(
        "experts" in name and type(value) is int and value > 1 for name, value in config.to_dict().items()
    )


def _places(part: Segment) -> Iterator[Place]:
    return (Place(token, part.slot, part.start + number) for number, token in enumerate(part.tokens))


def _last_rows(step: Step) -> Iterator[int]:
    end = 0
    for part in step:
        end += len(part.tokens)
        yield end - 1


def _padded(places: Sequence[Place], width: int) -> list[Place]:
    return [*places, *[Place(0)] * (width - len(places))]
