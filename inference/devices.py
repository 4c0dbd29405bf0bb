"""What an engine may compute on, by name. Standard library only: the configuration and the API process read it."""

from __future__ import annotations

import difflib
import re

CPU = "cpu"
MAX_GPUS = 64
"""More than any host has; a larger number is a slip of the finger."""
MAX_SPARES = 8
"""Processes with a context up that wait for work: each holds about 0.5 GB of the GPU (fastsafetensors: 680 MB)."""
_CUDA = re.compile(r"cuda:(\d{1,2})")


def parse_device(text: str) -> str:
    """The name itself, if it is one: "cpu", or "cuda:" and the number of a GPU.

    Raises:
        ValueError: it is not; the message says what it may have been meant to be.
    """
    numbered = _CUDA.fullmatch(text)
    if text == CPU or (numbered and text == f"cuda:{int(numbered[1])}" and int(numbered[1]) < MAX_GPUS):
        return text
    raise ValueError(f'a device is "cpu" or "cuda:N", N the number of a GPU; did you mean "{_meant(text)}"?')


def _meant(text: str) -> str:
    digits = re.search(r"\d+", text)
    number = int(digits[0][:4]) if digits else 0
    gpu = f"cuda:{number if number < MAX_GPUS else 0}"
    word = re.sub(r"[^a-z]", "", text.lower())
    near = difflib.get_close_matches(word, (CPU, "cuda", "gpu", "nvidia"), n=1)
    return CPU if near in ([], [CPU]) and not digits else gpu
