"""What edge and gateway add to the time to first token of a warm model, in milliseconds.

The same streaming request goes, in turn, through the edge (TLS, key, choice, relay, gateway) and straight to the
node's private API, each over one kept connection. The difference of the medians is the platform's own share.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bench import stage
from bench.caller import Answer, Caller
from bench.rows import Row, compare, quantile
from deploy.trust import secrets
from deploy.up import Running
from wire.address import split_address

MODEL = "bench/tinychat"
BUDGET_MS = 1.5  # the issue's: p50 at most 1.5 ms
NUM_WARM_UP = 20
LEAST_MS = 0.001  # a difference of nothing is this, not a division by zero


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--requests", type=int, default=300, help="requests each way, interleaved (300)")
    parser.add_argument("--model", type=Path, default=None, help="a model folder (examples/tinychat/model)")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    folder = options.model or Path(__file__).parents[1] / "examples" / "tinychat" / "model"
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        through, straight = asyncio.run(_run(folder, Path(scratch), options.requests, say))
    rows = _rows(*([1000 * answer.first_text_s for answer in way] for way in (through, straight)))
    return rows, [
        f"{options.requests} requests each way, interleaved, one kept connection each, max_tokens 1",
        "one machine: edge, gateway, node, engine and this client share its cores",
        f"through the edge, medians in ms: {_where(through)}",
        f"straight to the node, medians in ms: {_where(straight)}",
    ]


async def _run(
    folder: Path, scratch: Path, num_requests: int, say: stage.Say
) -> tuple[list[Answer], list[Answer]]:
    async with stage.platform(scratch, say) as running:
        return await asyncio.to_thread(_interleave, running, folder, num_requests, say)


def _interleave(
    running: Running, folder: Path, num_requests: int, say: stage.Say
) -> tuple[list[Answer], list[Answer]]:
    revision = stage.push_until_live(running.credentials, folder, MODEL, say)
    ways = (stage.caller(running), list[Answer]()), (_straight(running, revision), list[Answer]())
    for number in range(NUM_WARM_UP + num_requests):
        for caller, answers in ways if number % 2 else reversed(ways):
            answer = caller.stream("/v1/chat/completions", _body())
            if number >= NUM_WARM_UP:
                answers.append(answer)
    for caller, _ in ways:
        caller.close()
    return ways[0][1], ways[1][1]


def _body() -> dict[str, object]:
    question = {"role": "user", "content": "What is the capital of France?"}
    return {"model": MODEL, "messages": [question], "max_tokens": 1, "temperature": 0}


def _straight(running: Running, revision: str) -> Caller:
    node = next(iter(running.config.nodes.values()))
    token = secrets.hop_token(secrets.root_key(running.config.secrets))
    headers = {"authorization": f"Bearer {token}", "x-nearfield-revision": revision}
    return Caller(split_address(node.listen), headers)


def _rows(through_ms: Sequence[float], straight_ms: Sequence[float]) -> list[Row]:
    rows = []
    for name, share, target in (("p50", 0.5, 1.0), ("p99", 0.99, None)):
        through, straight = quantile(through_ms, share), quantile(straight_ms, share)
        added = max(LEAST_MS, through - straight)
        what = f"added to the first token by edge and gateway, {name}, against the budget"
        rows.append(compare(what, added, BUDGET_MS, "ms", better="lower", target=target))
        what = f"first token, {name}: through the edge against straight to the node"
        rows.append(compare(what, through, straight, "ms", better="lower"))
    return rows


def _where(answers: Sequence[Answer]) -> str:
    """The median of every hop's phases, as the receipts of the answers say them."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        for receipt in answer.receipts:
            for phase, ms in receipt.get("phases", {}).items():
                found.setdefault(f"{receipt['hop']}.{phase}", []).append(ms)
    return ", ".join(f"{name} {median(ms):.2f}" for name, ms in found.items())
