"""Which of a step's drafts stand: tokens are chosen as without drafts, up to the first that was not guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.engine.choose.sample import Broken, Sampled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from inference.engine.choose.sample import Sampler


def chosen(
    ids: Sequence[str],
    logits: torch.Tensor,
    drafts: Mapping[str, Sequence[int]],
    samplers: Mapping[str, Sampler],
    choose: Callable[[torch.Tensor, Sequence[Sampler]], list[Sampled | Broken]],
) -> dict[str, list[Sampled | Broken]]:
    """By request its tokens in order, or what broke it as the last of them.

    `ids` are those of [rows, vocabulary] logits: of one with drafts as many rows more, one behind another. A random
    number is drawn for each token that is chosen, and for none that is dropped.
    """
    firsts = {order_id: row for row, order_id in reversed([*enumerate(ids)])}
    found: dict[str, list[Sampled | Broken]] = {order_id: [] for order_id in dict.fromkeys(ids)}
    going, depth = [*found], 0
    while going:
        rows = [firsts[order_id] + depth for order_id in going]
        part = logits if len(rows) == len(ids) else logits[rows]
        for order_id, one in zip(going, choose(part, [samplers[each] for each in going]), strict=True):
            found[order_id].append(one)
        going = [each for each in going if _stands(found[each][depth], drafts.get(each, ()), depth)]
        depth += 1
    return found


def _stands(one: Sampled | Broken, drafts: Sequence[int], depth: int) -> bool:
    return depth < len(drafts) and isinstance(one, Sampled) and one.token == drafts[depth]
