"""Can this tokenizer be read? Answered by a process of its own, which a hostile file may cost.

`python -m inference.api.text.tokenizer_check < tokenizer.json` writes {"num_ids": n} or {"error": "why"}. Reading holds
the interpreter's lock (0.8 s for 128,000 tokens, measured), so the node does not try it beside running streams.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from inference.api.text.tokens import TokenizerError, Vocabulary

CHECK_S = 30.0
"""By the clock; the largest public tokenizers take about 2 s."""
CHECK_CPU_S = 20
"""Processor time, held by the kernel."""
MAX_MEMORY_BYTES = 4 << 30
"""Address space; a tokenizer of 35 MB takes under 1 GiB."""
TRIAL_TEXT = "Hello, world"


async def tokenizer_fault(data: bytes) -> str | None:
    """Why `tokenizer.json` cannot be used; None if it can."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference.api.text.tokenizer_check"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": os.defpath},
    )
    try:
        async with asyncio.timeout(CHECK_S):
            answer, _ = await process.communicate(data)
    except TimeoutError:
        return "reading tokenizer.json takes too long"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        return "reading tokenizer.json takes too much time or memory"
    value: dict[str, Any] = json.loads(answer)
    return value.get("error")


def check(data: bytes) -> dict[str, Any]:
    """The answer for one file: it is read, and a short text goes there and back."""
    try:
        vocabulary = Vocabulary.from_bytes(data)
    except TokenizerError as cause:
        return {"error": str(cause)[:500]}
    vocabulary.decode(vocabulary.encode(TRIAL_TEXT, add_special=True))
    return {"num_ids": vocabulary.num_ids}


def main() -> None:
    """One file in, one line out."""
    resource.setrlimit(resource.RLIMIT_CPU, (CHECK_CPU_S, CHECK_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(json.dumps(check(sys.stdin.buffer.read())))


if __name__ == "__main__":
    main()
