"""A device's chunks of prompts: as everywhere (`engine.steps.pace`), and never so small that more is no slower."""

from __future__ import annotations

from inference.engine.steps.pace import Pace

LEAST_TOKENS = 256
"""A pass over fewer takes as long: until there it waits for the weights to be read, not for arithmetic. (An H200 does
some 200 operations in the time it reads one byte, and a token takes one operation for each byte of bfloat16.)"""


class DevicePace(Pace):
    """What a prompt token costs beside running rows is here what the pass costs, however few there are in it."""

    __slots__ = ()

    def prefill_tokens(self, num_decoding: int, num_new: int = 1, patience_s: float = 0.0) -> int:
        """See `Pace`."""
        return max(LEAST_TOKENS, super().prefill_tokens(num_decoding, num_new, patience_s))
