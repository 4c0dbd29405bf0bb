"""A request as the engine gets it: prompts of token ids, what the model takes, orders.

A sequence is one of `n` choices of one prompt; sequences are numbered prompt by prompt, as OpenAI numbers them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from inference.api.request.sampling import engine_fields
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.api.answer.choice import Reading
    from inference.api.request.kinds import Delivery
    from inference.api.request.sampling import Defaults, Sampling
    from inference.link import Message

SEED_BITS = 64


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a resident model takes: ids below `vocab_size`, `max_len` tokens of prompt and answer together."""

    max_len: int
    vocab_size: int
    eos_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One request, ready for the engine. `follows_text`: the answer goes on from the prompt's text."""

    prompts: tuple[list[int], ...]
    sampling: Sampling
    delivery: Delivery
    follows_text: bool
    grammar: str | None = None
    reading: Reading | None = None
    resumed: tuple[int, ...] = ()
    """The answer's first tokens, made elsewhere and known to the client."""
    held_by: str | None = None
    """The parameter that asked for `grammar`."""
    predicted: tuple[int, ...] | None = None
    """What the caller expects of the answer, if it said that."""

    @property
    def num_prompt_tokens(self) -> int:
        """Each prompt once, however many choices it has."""
        return sum(map(len, self.prompts))

    @property
    def counted(self) -> list[int]:
        """The prompt tokens of each sequence, if its chunks are to have counts."""
        delivery = self.delivery
        num_each = delivery.num_choices if delivery.continuous_usage else 0
        return [len(prompt) for prompt in self.prompts for _ in range(num_each)]


def check_length(num_tokens: int, max_tokens: int | None, limits: ModelLimits, param: str) -> None:
    """Refuse what the model's context cannot hold, before the engine sees it.

    Raises:
        Refusal: 400 `context_length_exceeded`.
    """
    wanted = 1 if max_tokens is None else max_tokens
    if num_tokens + wanted <= limits.max_len:
        return
    asked = "" if max_tokens is None else f" and {max_tokens:,} more were asked for"
    message = (
        f"This model's context holds {limits.max_len:,} tokens, prompt and answer together; "
        f"the prompt has {num_tokens:,}{asked}. Shorten the prompt or lower max_tokens."
    )
    raise Refusal(400, "context_length_exceeded", message, param=param)


def check_ids(tokens: Sequence[int], limits: ModelLimits, param: str) -> None:
    """Refuse token ids the model does not have. Raises Refusal (400)."""
    if tokens and max(tokens) >= limits.vocab_size:
        message = (
            f"{param!r} holds the token id {max(tokens)}, and this model's ids end at {limits.vocab_size - 1}. "
            "Were the ids made by another model's tokenizer?"
        )
        raise Refusal(400, "invalid_value", message, param=param)


def check_sampling(sampling: Sampling, limits: ModelLimits) -> None:
    """Refuse ids in the sampling fields that the model does not have. Raises Refusal (400)."""
    check_ids(sampling.stop_ids, limits, "stop_token_ids")
    check_ids([token for token, _ in sampling.logit_bias], limits, "logit_bias")


class Whose(NamedTuple):
    """Whose request it is, its weight, and whether it had to wait for its tenant's turn."""

    tenant: str = ""
    weight: int = 1
    has_waited: bool = False


NOBODYS = Whose()


def orders(job: Job, limits: ModelLimits, defaults: Defaults, whose: Whose = NOBODYS) -> list[Message]:
    """The engine's `add` messages, without ids: for each prompt its `n` choices.

    With a seed, choice k has the seed + k: all differ, and the first is what `n = 1` gives.
    """
    sampling = job.sampling
    fixed = engine_fields(sampling, defaults) | {
        "stop_ids": list(sampling.stop_ids),
        "ignore_eos": sampling.ignore_eos,
        "logprobs": job.delivery.logprobs,
        "priority": job.delivery.priority,
        **whose._asdict(),
        "grammar": job.grammar,
    }
    made = []
    for prompt in job.prompts:
        max_tokens = sampling.max_tokens or limits.max_len - len(prompt)
        own: Message = {"op": "add", "tokens": prompt, "max_tokens": max_tokens}
        if job.resumed:
            own["resumed"] = list(job.resumed)
        if job.predicted:
            own["predicted"] = list(job.predicted)
        for number in range(job.delivery.num_choices):
            seed = None if sampling.seed is None else (sampling.seed + number) % 2**SEED_BITS
            made.append(fixed | own | {"seed": seed})
    return made
