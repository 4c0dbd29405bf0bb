"""`stream_options`: OpenAI's `include_usage`, and vLLM's `continuous_usage_stats`, which load clients send.

`continuous_usage_stats` means what it does there: each chunk has the counts of its own choice so far (its prompt's
tokens, the tokens made for it), the last one, without choices, those of the request. It wants `include_usage`, and asks
for it where that is not said.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from inference.api.fields import bad, boolean, mapping, unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEUTRAL = (False, None)
"""Of `include_obfuscation`: asks for nothing."""


class StreamOptions(NamedTuple):
    """Whether a stream ends with counts, and whether each of its chunks has some."""

    include_usage: bool = False
    continuous_usage: bool = False


def read_stream_options(value: Any, param: str) -> StreamOptions:
    """The field's value. Raises Refusal (400, `param` set)."""
    known = ("include_usage", "continuous_usage_stats")
    for key, option in mapping(value, param).items():
        if key == "include_obfuscation" and option not in NEUTRAL:
            raise unsupported(f"{param}.{key}", "streams are not padded.")
        if key not in (*known, "include_obfuscation"):
            raise bad(f"{param}.{key[:64]}", f"Unknown field {key[:64]!r} in {param!r}.", "unknown_parameter")
    said = {key: boolean(value[key], f"{param}.{key}") for key in known if value.get(key) is not None}
    continuous = said.get("continuous_usage_stats", False)
    included = said.get("include_usage", continuous)
    if continuous and not included:
        raise bad(f"{param}.continuous_usage_stats", "'continuous_usage_stats' needs 'include_usage': true.")
    return StreamOptions(included, continuous)


def chunk_tail(*, with_usage: bool, counted: Sequence[int]) -> Callable[[int, int], bytes]:
    """What ends a chunk of a choice (its index, its tokens so far).

    `counted`: the prompt tokens of each choice, if chunks have counts; else each ends alike.
    """

    def counts(index: int, num_tokens: int) -> bytes:
        num_prompt = counted[index]
        usage = {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_tokens,
            "total_tokens": num_prompt + num_tokens,
        }
        return b'}],"usage":%b}\n\n' % json.dumps(usage).encode()

    fixed = b'}],"usage":null}\n\n' if with_usage else b"}]}\n\n"
    return counts if counted else lambda _index, _num_tokens: fixed
