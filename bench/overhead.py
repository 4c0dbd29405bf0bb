"""What edge and gateway add to the time to first token of a warm model, in milliseconds.

The same streaming request goes, in turn, through the edge (TLS, key, choice, relay, gateway) and straight to the
node's private API, each over one kept connection. The difference of the medians is the platform's own share.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bench import stage
from bench.caller import Caller
from bench.rows import Row, compare, quantile
from deploy import secrets
from deploy.up import Running
from wire.dial import split_address

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
        through_ms, straight_ms = asyncio.run(_run(folder, Path(scratch), options.requests, say))
    return _rows(through_ms, straight_ms), [
        f"{options.requests} requests each way, interleaved, one kept connection each, max_tokens 1",
        "one machine: edge, gateway, node, engine and this client share its cores",
    ]


async def _run(
    folder: Path, scratch: Path, num_requests: int, say: stage.Say
) -> tuple[list[float], list[float]]:
    async with stage.platform(scratch, say) as running:
        return await asyncio.to_thread(_interleave, running, folder, num_requests, say)


def _interleave(
    running: Running, folder: Path, num_requests: int, say: stage.Say
) -> tuple[list[float], list[float]]:
    revision = stage.push_until_live(running.credentials, folder, MODEL, say)
    through, straight = _through(running), _straight(running, revision)
    through_ms, straight_ms = list[float](), list[float]()
    for number in range(NUM_WARM_UP + num_requests):
        turns = ((through, through_ms), (straight, straight_ms))
        for caller, found in turns if number % 2 else reversed(turns):
            first_ms = 1000 * caller.stream("/v1/chat/completions", _body()).first_text_s
            if number >= NUM_WARM_UP:
                found.append(first_ms)
    through.close()
    straight.close()
    return through_ms, straight_ms


def _body() -> dict[str, object]:
    question = {"role": "user", "content": "What is the capital of France?"}
    return {"model": MODEL, "messages": [question], "max_tokens": 1, "temperature": 0}


def _through(running: Running) -> Caller:
    address = urlsplit(running.credentials.base_url)
    key = {"authorization": f"Bearer {running.credentials.api_key}"}
    return Caller((address.hostname or "", address.port or 443), key, running.credentials.ca)


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
