"""One tenant's clients: streams begun at moments that are drawn beforehand, whatever became of those before.

`python -m bench.fair_load SETTINGS`, SETTINGS a JSON object; the last line on stdout is a list of what happened.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

import uvloop

from wire.dial import DialError, Pool
from wire.secured.tls import client_context
from wire.timing import parse_receipt

MAX_ANSWER_S = 60.0
PATH = "/v1/chat/completions"
TAIL_BYTES = 8192  # the receipts of three hops, and the end of the events


@dataclass(frozen=True, slots=True)
class Load:
    """Streams of `tokens` from `model`, `per_s` of them a second on average for `seconds`, by one key.

    The moments follow from `seed` alone; `prompts` makes them other prompts at the same moments.
    """

    host: str
    port: int
    ca: str
    key: str
    model: str
    per_s: float
    seconds: float
    tokens: int
    seed: int
    prompts: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its status (0: no answer), seconds to its first event and to its end, and whether it was whole.

    `phases` are milliseconds by hop and phase (`node.queue`), as the receipts of a stream say.
    """

    status: int
    first_s: float
    total_s: float
    is_whole: bool
    phases: Mapping[str, float]


async def clients(load: Load) -> list[Asked]:
    """Every request of `load`, when all have ended."""
    draws, numbers = random.Random(load.seed), random.Random(f"{load.prompts}, {load.seed}")
    pool = Pool(load.host, load.port, tls=client_context(Path(load.ca)), max_idle=1024)
    loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[Asked]]()
    began = due = loop.time()
    while (due := due + draws.expovariate(load.per_s)) < began + load.seconds:
        await asyncio.sleep(max(0.0, due - loop.time()))
        tasks.append(loop.create_task(_stream(pool, load, numbers.getrandbits(64))))
    asked = await asyncio.gather(*tasks)
    await pool.close()
    return asked


async def _stream(pool: Pool, load: Load, number: int) -> Asked:
    """A prompt that begins as no other does, so that none is computed for another."""
    asked = {"role": "user", "content": f"{number}: how does the edge choose a region for a request?"}
    body = {
        "model": load.model,
        "messages": [asked],
        "max_tokens": load.tokens,
        "stream": True,
        "ignore_eos": True,
    }
    sent = json.dumps(body).encode()
    headers = (("authorization", f"Bearer {load.key}"), ("content-type", "application/json"))
    now = time.perf_counter  # the loop of uvloop counts milliseconds
    began, first, seen, status = now(), 0.0, b"", 0
    try:
        answer = await pool.request("POST", PATH, headers, sent, head_s=MAX_ANSWER_S)
        status = answer.head.status
        while data := await answer.next(MAX_ANSWER_S):
            if not first and b"data:" in data:
                first = now()
            seen = (seen + data)[-TAIL_BYTES:]
    except DialError:
        pass
    is_whole = status == HTTPStatus.OK and b"data: [DONE]" in seen
    return Asked(status, first - began, now() - began, is_whole, _phases(seen))


def _phases(tail: bytes) -> dict[str, float]:
    """Of the receipts at the end of a stream."""
    receipts = [receipt for line in tail.splitlines() if (receipt := parse_receipt(line)) is not None]
    return {
        f"{receipt['hop']}.{name}": ms
        for receipt in receipts
        if isinstance(phases := receipt.get("phases"), dict)
        for name, ms in phases.items()
    }


async def _main() -> None:
    asked = await clients(Load(**json.loads(sys.argv[1])))
    print(json.dumps([asdict(each) for each in asked]), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
