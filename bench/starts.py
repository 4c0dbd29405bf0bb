"""First tokens of a whole platform: from the host, over slow links, for a crowd at once, and the memory they take.

Every request comes in over TLS at the edge: what it takes there is more than what it takes from the gateway on.
"""

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import blob, gated, llama, pss, receipts, stage
from bench.caller import Answer, Caller
from bench.limit import USUAL, bare_s
from bench.link import Link
from bench.loaders import Order
from bench.rows import Row, compare, quantile
from deploy.fleet import SYSTEM_GRANTS
from deploy.roles import endpoint
from deploy.up import Running
from storage.client.sdk import Endpoint
from weights_cache.fetch import BLOB_BUCKET

MIB = 1 << 20
NUM_PROMPT_TOKENS = 16
NUM_CROWD = 64
LAYERS = {"0.5 GB": 8, "1 GB": 16, "2 GB": 33}  # of `bench.llama`'s model: 0.49, 0.98 and 2.00 GB
RATES = (0.25e9, 0.5e9)  # the links, bytes a second
HOST_S = 1.0  # the issue's, for the 1 GB model
OF_LIMIT = 1 / 1.15  # the issue's: at most max(load, prefill) and 15 %
CROWD_BYTES = 1.02  # the issue's: bytes read by 64 waiting requests, against the model's
OF_SINGLE = 1 / 1.3  # the issue's: their p99 against a single one
SPARE_BYTES = 512 * MIB  # the issue's: peak memory beyond the weights
AFTER_S = 4.0  # by then the node has memory again for its next landing
LEAST_S = 0.001

Say = Callable[[str], None]
Found = tuple[list[Row], list[str]]


@dataclass(frozen=True, slots=True)
class Model:
    """One of `bench.llama`'s models, pushed."""

    name: str
    folder: Path

    @property
    def num_bytes(self) -> int:
        """Of its weight file."""
        return (self.folder / "model.safetensors").stat().st_size


def host(options: argparse.Namespace, say: Say) -> Found:
    """First tokens from the host, three sizes."""
    folders = {size: llama.model_folder(options.cache, layers) for size, layers in LAYERS.items()}
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        return asyncio.run(_host(folders, Path(scratch), options.runs, say))


async def _host(folders: dict[str, Path], scratch: Path, num_runs: int, say: Say) -> Found:
    async with stage.platform(scratch, say) as running:
        return await asyncio.to_thread(_from_host, running, folders, num_runs, say)


def _from_host(running: Running, folders: dict[str, Path], num_runs: int, say: Say) -> Found:
    starts, warm, rows = dict[str, float](), dict[str, float](), list[Row]()
    notes = ["host state: the weights are in the host's memory, and no process of the model is up"]
    for size, folder in folders.items():
        model = _pushed(running, folder, say)
        answers = [_from(running, model, "host") for _ in range(num_runs + 1)][1:]
        rows += receipts.rows(answers, f"{size} from the host")
        again = [_from(running, model, "warm") for _ in range(num_runs)]
        firsts = [_from(running, model, "resident") for _ in range(num_runs)]
        rows += receipts.rows(firsts, f"{size} resident, the first request of a process that was pre-warmed")
        starts[size], warm[size] = _median_s(answers), _median_s(again)
        say(f"{size}: host {starts[size]:.3f} s, warm {warm[size]:.3f} s")
        notes.append(f"{size}, from the host, last run (ms): {_phases(answers[-1])}")
    return [*_host_rows(starts, warm, num_runs), *rows], notes


def _host_rows(starts: dict[str, float], warm: dict[str, float], num_runs: int) -> list[Row]:
    told = f"first token from the host through the edge, {NUM_PROMPT_TOKENS} tokens of prompt, median of {num_runs}"
    limit = [
        compare(
            f"{told}, {size}", seconds, HOST_S, "s", better="lower", target=1.0 if size == "1 GB" else None
        )
        for size, seconds in starts.items()
    ]
    longer, prefill = starts["2 GB"] - starts["0.5 GB"], max(LEAST_S, warm["2 GB"] - warm["0.5 GB"])
    what = "how much longer 2 GB take than 0.5 GB from the host, against how much longer when warm (prefill)"
    return [*limit, compare(what, max(LEAST_S, longer), prefill, "s", better="lower", target=1.0)]


def linked(options: argparse.Namespace, say: Say) -> Found:
    """Over links of the issue's rates, then memory over one without a rate."""
    return _behind_link(_over_link, options, say)


def crowd(options: argparse.Namespace, say: Say) -> Found:
    """Many at once for one cold model, over loopback and a slow link."""
    return _behind_link(_crowds, options, say)


OnLink = Callable[[Running, Link, Path, Path, int, Say], Found]


def _behind_link(measure: OnLink, options: argparse.Namespace, say: Say) -> Found:
    folder = llama.model_folder(options.cache, LAYERS["1 GB"])

    async def measured(scratch: Path) -> Found:
        async with stage.linked(scratch, say) as (running, link):
            return await asyncio.to_thread(measure, running, link, folder, scratch, options.runs, say)

    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        return asyncio.run(measured(Path(scratch)))


def _over_link(running: Running, link: Link, folder: Path, scratch: Path, num_runs: int, say: Say) -> Found:
    model = _pushed(running, folder, say)
    _from(running, model, "region")
    prefill_s = _median_s([_from(running, model, "warm") for _ in range(num_runs)])
    rows, notes = list[Row](), ["links are SIMULATED by a relay of ours between the region and its store"]
    order = _order(endpoint(running.config, stage.REGION, SYSTEM_GRANTS), model, scratch)
    for rate in RATES:
        rows += _gated(running, link, model, order, rate, prefill_s, num_runs, say)
    rows += _logits(link, order, model, notes)
    found, said = _memory(running, model, num_runs, say)
    return [*rows, *found], [*notes, *said]


def _crowds(running: Running, link: Link, folder: Path, _: Path, num_runs: int, say: Say) -> Found:
    model = _pushed(running, folder, say)
    _from(running, model, "region")
    rows = [row for rate in (0.0, RATES[0]) for row in _crowd(running, link, model, rate, num_runs, say)]
    notes = ["links are SIMULATED by a relay of ours between the region and its store"]
    return rows, [*notes, "the crowd's prompts have one token each, so that 64 prefills do not hide the load"]


def _gated(
    running: Running,
    link: Link,
    model: Model,
    order: Order,
    rate: float,
    prefill_s: float,
    num_runs: int,
    say: Say,
) -> list[Row]:
    link.set(rate)
    load_s = _bare_s(order)
    starts = [_from(running, model, "region") for _ in range(num_runs)]
    link.set(0)
    say(
        f"{rate / 1e9:g} GB/s: load {load_s:.3f} s, first token {[round(each.first_text_s, 3) for each in starts]}"
    )
    what = f"first token, layer by layer, over a SIMULATED link of {rate / 1e9:g} GB/s, median of {num_runs}"
    best = max(load_s, prefill_s)
    return [
        compare(
            f"{what}, against max(load, prefill)",
            _median_s(starts),
            best,
            "s",
            better="lower",
            target=OF_LIMIT,
        ),
        compare(
            "the same against load, then prefill", _median_s(starts), load_s + prefill_s, "s", better="lower"
        ),
    ]


def _logits(link: Link, order: Order, model: Model, notes: list[str]) -> list[Row]:
    link.set(RATES[1])
    found = gated.compare(order, model.folder, NUM_PROMPT_TOKENS)
    link.set(0)
    if found.num_landed >= found.num_extents:
        raise stage.Broken("every byte was there before the gated run began: nothing was gated")
    notes.append(f"the gated forward pass began with {found.num_landed} of {found.num_extents} extents there")
    what = "logits of the gated pass that are bit for bit from_pretrained's, against all"
    return [
        compare(what, float(found.num_equal), float(found.num_values), "values", better="higher", target=1.0)
    ]


def _crowd(running: Running, link: Link, model: Model, rate: float, num_runs: int, say: Say) -> list[Row]:
    singles, lasts, shares = [], [], []
    link.set(rate)
    for _ in range(num_runs):
        singles.append(_at_once(running, model, 1)[0].first_text_s)
        link.set(rate)
        answers = _at_once(running, model, NUM_CROWD)
        shares.append(link.set(rate) / model.num_bytes)
        lasts.append(quantile([answer.first_text_s for answer in answers], 0.99))
        say(f"crowd: {shares[-1]:.4f}x of the bytes, single {singles[-1]:.3f} s, p99 of 64 {lasts[-1]:.3f} s")
    link.set(0)
    over = f"a SIMULATED link of {rate / 1e9:g} GB/s" if rate else "loopback"
    what = f"{NUM_CROWD} requests that wait for one cold model over {over}"
    read = f"{what}: bytes read against the model's, worst of {num_runs}"
    last = f"{what}: p99 of their first tokens against a single one's, median of {num_runs}"
    return [
        compare(read, max(shares), CROWD_BYTES, "x", better="lower", target=1.0),
        compare(last, median(lasts), median(singles), "s", better="lower", target=OF_SINGLE),
    ]


def _at_once(running: Running, model: Model, count: int) -> list[Answer]:
    """So many requests of one token at the same moment, each on a connection that is there."""
    stage.cool(running.credentials, model.name, "region")
    callers = [stage.caller(running) for _ in range(count)]
    for each in callers:
        each.connect()
    gate = threading.Barrier(count)

    def ask(speaker: Caller) -> Answer:
        gate.wait()
        return speaker.stream("/v1/completions", stage.completion(model.name, llama.prompt(1)))

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(ask, callers))
    for each in callers:
        each.close()
    return answers


def _memory(running: Running, model: Model, num_runs: int, say: Say) -> Found:
    """Of node, shell, template child and engine, during cold starts over the link and a while after."""
    peaks = []
    for _ in range(num_runs):
        stage.cool(running.credentials, model.name, "region")
        time.sleep(pss.SAMPLE_S)
        with pss.Peak(pss.node_pid()) as peak:
            _from(running, model, "region")
            time.sleep(AFTER_S)
        peaks.append(peak)
        say(f"peak {peak.num_bytes / MIB:,.0f} MiB: " + _mib(peak.parts))
    most = max(peaks, key=lambda peak: peak.num_bytes)
    what = (
        f"peak memory of a node that starts {model.num_bytes / 1e9:.2f} GB cold, against weights and 512 MiB"
    )
    row = compare(
        what,
        most.num_bytes / MIB,
        (model.num_bytes + SPARE_BYTES) / MIB,
        "MiB",
        better="lower",
        target=1.0,
    )
    return [row], [f"memory is summed PSS; at the peak (MiB): {_mib(most.parts)}"]


def _mib(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {num_bytes / MIB:,.0f}" for name, num_bytes in parts.items())


def _pushed(running: Running, folder: Path, say: Say) -> Model:
    model = Model(f"bench/{folder.name}", folder)
    stage.push_until_live(running.credentials, folder, model.name, say)
    return model


def _from(running: Running, model: Model, start: str) -> Answer:
    return stage.first_token(running, model.name, start, llama.prompt(NUM_PROMPT_TOKENS))


def _median_s(answers: Sequence[Answer]) -> float:
    return median(answer.first_text_s for answer in answers)


def _phases(answer: Answer) -> str:
    found: dict[str, float] = next(
        (each["start_phases"] for each in answer.receipts if "start_phases" in each), {}
    )
    return ", ".join(f"{name} {ms:.4g}" for name, ms in found.items())


def _order(store: Endpoint, model: Model, scratch: Path) -> Order:
    """The model's weight file as the region's store has it as a blob."""
    weights = model.folder / "model.safetensors"
    revision = blob.described(weights, model.name)
    written = scratch / "revision.json"
    written.write_bytes(revision.to_json())
    digest = revision.files[0].blake3
    return Order(
        store.url,
        store.access_key,
        store.secret,
        BLOB_BUCKET,
        digest,
        model.num_bytes,
        str(written),
        str(scratch),
    )


def _bare_s(order: Order) -> float:
    """Seconds of a bare socket reader for the same bytes over the same link."""
    return bare_s(order.store, order.bucket, order.key, order.num_bytes)[USUAL]
