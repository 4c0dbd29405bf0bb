"""Cold start, region state: request to first token, against a fresh process that downloads and loads.

Ours: the revision is in the region's store and nowhere nearer; a streaming request comes in over TLS at the edge on
a new connection. The peer: a fresh Python process with boto3, from_pretrained and generate, reading the same files
from the same store at its plain private port. Runs alternate; both must give the same first token. The bare-socket
reader of `bench.starts.limit` says in the same run what moving the bytes alone costs.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import llama, stage
from bench.caller import Answer
from bench.rows import Row, compare
from bench.stage import Broken
from bench.starts import receipts
from bench.starts.limit import USUAL, bare_s
from deploy.fleet import SYSTEM_GRANTS
from deploy.roles.runner import endpoint
from deploy.up import Running
from storage.client.sdk import Endpoint

NOTES = (
    "ours: streaming request through edge (TLS, new connection), gateway and node; peer: a fresh process",
    "the client's thread goes before others on the two cores that it shares with what it times, if the host lets it",
    "the landing pool is as large as the model: a host that serves models of this size is set up so",
    "ours and the peer gave the same first token in every run",
)
TARGET = 8.0  # the issue's: at least 8x sooner to the first token
NUM_PROMPT_TOKENS = 16
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """One run of each, and the limit measured between them. Seconds."""

    ours: Answer
    peer_s: float
    peer_steps: dict[str, float]
    limit_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--runs", type=int, default=3, help="alternating runs of ours and the peer (3)")
    parser.add_argument(
        "--sizes", default="4,8,17", help="layers of the models: 0.25, 0.49 and 1.04 GB (4,8,17)"
    )
    parser.add_argument("--cache", type=Path, default=llama.cache_folder(), help="where the model is kept")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    say("making the models (once)")
    folders = [llama.model_folder(options.cache, int(layers)) for layers in options.sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        found = asyncio.run(_run(folders, Path(scratch), options.runs, say))
    rows = [row for num_bytes, pairs in found.items() for row in _rows(pairs, num_bytes)]
    return rows, [*NOTES, *(note for num_bytes, pairs in found.items() for note in _notes(pairs, num_bytes))]


async def _run(
    folders: Sequence[Path], scratch: Path, num_runs: int, say: stage.Say
) -> dict[int, list[Pair]]:
    """The pairs of each model, by the bytes of its weights."""
    sizes = {folder: (folder / "model.safetensors").stat().st_size for folder in folders}
    async with stage.platform(scratch, say, pool_bytes=max(sizes.values()) + MIB) as running:
        return {
            num_bytes: await asyncio.to_thread(_alternate, running, folder, scratch, num_runs, say)
            for folder, num_bytes in sizes.items()
        }


def _alternate(running: Running, folder: Path, scratch: Path, num_runs: int, say: stage.Say) -> list[Pair]:
    model = f"bench/{folder.name}"
    stage.push_until_live(running.credentials, folder, model, say)
    store = endpoint(running.config, stage.REGION, SYSTEM_GRANTS)
    pairs = []
    for number in range(num_runs + 1):
        ours = stage.first_token(running, model, "region", llama.prompt(NUM_PROMPT_TOKENS))
        peer_s, told = _peer(store, folder, model, scratch / f"download-{number}")
        if ours.text.strip() != told["text"].strip():
            raise Broken(f"first tokens differ: ours {ours.text!r}, the peer's {told['text']!r}")
        pair = Pair(ours, peer_s, told["seconds"], _limit_s(store, folder, model))
        say(f"ours {ours.first_text_s:.2f} s, peer {peer_s:.2f} s, limit {pair.limit_s:.2f} s")
        pairs.append(pair)
    return pairs[1:]  # the first run warms page caches and byte code for both


def _peer(store: Endpoint, folder: Path, model: str, target: Path) -> tuple[float, dict[str, Any]]:
    target.mkdir()
    names = [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    order = {
        "url": store.url,
        "access_key": store.access_key,
        "secret": store.secret,
        "bucket": "models",
        "prefix": f"{model}/",
        "keys": [f"{model}/{name}" for name in names],
        "folder": str(target),
        "prompt": llama.prompt(NUM_PROMPT_TOKENS),
    }
    peer_s, told = _timed(json.dumps(order))
    shutil.rmtree(target)
    return peer_s, told


def _timed(order: str) -> tuple[float, dict[str, Any]]:
    """Seconds from starting the peer's process to the line that says its token, and that line."""
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.starts.fresh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process:
            line, rest = "", process.stdin
            if rest and process.stdout:
                rest.write(order)
                rest.close()
                line = process.stdout.readline()
            elapsed_s = time.perf_counter() - started
        if process.returncode or not line:
            errors.seek(0)
            raise Broken(f"the peer failed: {errors.read()[-2000:]}")
    told: dict[str, Any] = json.loads(line)
    return elapsed_s, told


def _limit_s(store: Endpoint, folder: Path, model: str) -> float:
    """Seconds that a bare socket reader needs for the weight file, into memory that is there already."""
    num_bytes = (folder / "model.safetensors").stat().st_size
    return bare_s(store, "models", f"{model}/model.safetensors", num_bytes)[USUAL]


def _rows(pairs: Sequence[Pair], num_bytes: int) -> list[Row]:
    ours = [pair.ours.first_text_s for pair in pairs]
    peer = [pair.peer_s for pair in pairs]
    limit = [pair.limit_s for pair in pairs]
    gb = num_bytes / 1e9
    return [
        compare(
            f"first token, cold from the region's store, {gb:.2f} GB, median of {len(pairs)}",
            median(ours),
            median(peer),
            "s",
            better="lower",
            target=TARGET,
        ),
        compare(
            "the same, slowest run of ours, fastest of the peer", max(ours), min(peer), "s", better="lower"
        ),
        compare(
            "the same against moving the bytes alone (bare socket, no checks)",
            median(ours),
            median(limit),
            "s",
            better="lower",
        ),
        *receipts.rows([pair.ours for pair in pairs], f"{gb:.2f} GB"),
    ]


def _notes(pairs: Sequence[Pair], num_bytes: int) -> list[str]:
    size = f"{num_bytes / 1e9:.2f} GB"
    steps = {name: median(pair.peer_steps[name] for pair in pairs) for name in pairs[0].peer_steps}
    told = [receipt for receipt in pairs[-1].ours.receipts if receipt.get("phases")]
    phases = [f"{receipt['hop']} {_figures(receipt['phases'])}" for receipt in told]
    starts = [receipt["start_phases"] for receipt in pairs[-1].ours.receipts if receipt.get("start_phases")]
    return [
        f"{size}: peer's steps (s): {_figures(steps)}",
        f"{size}: ours, last run, ms by hop: {'; '.join(phases)}",
        *(f"{size}: ours, last run, start phases (ms): {_figures(start)}" for start in starts[:1]),
        *receipts.notes([pair.ours for pair in pairs], size),
    ]


def _figures(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
