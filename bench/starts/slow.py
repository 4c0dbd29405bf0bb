"""First tokens over slow links, layer by layer, and what a cold start takes of memory."""

import argparse
import time
from pathlib import Path

from bench import stage
from bench.link import Link
from bench.rows import Row, compare
from bench.starts import blob, gated, parts, pss
from bench.starts.limit import USUAL, bare_s
from bench.starts.loaders import Order
from bench.starts.parts import NUM_PROMPT_TOKENS, RATES, Found, Model, Say
from deploy.fleet import SYSTEM_GRANTS
from deploy.roles.runner import endpoint
from deploy.up import Running
from storage.client.sdk import Endpoint
from weights_cache.reading.fetch import BLOB_BUCKET

MIB = 1 << 20
OF_LIMIT = 1 / 1.15  # the issue's: at most max(load, prefill) and 15 %
SPARE_BYTES = 512 * MIB  # the issue's: peak memory beyond the weights
AFTER_S = 4.0  # by then the node has memory again for its next landing


def measure(options: argparse.Namespace, say: Say) -> Found:
    """Over links of the issue's rates, then memory over one without a rate."""
    return parts.behind_link(_over_link, options, say)


def _over_link(running: Running, link: Link, folder: Path, scratch: Path, num_runs: int, say: Say) -> Found:
    model = parts.pushed(running, folder, say)
    parts.first_token(running, model, "region")
    prefill_s = parts.median_s([parts.first_token(running, model, "warm") for _ in range(num_runs)])
    rows, notes = list[Row](), ["links are SIMULATED by a relay of ours between the region and its store"]
    order = _order(endpoint(running.config, stage.REGION, SYSTEM_GRANTS), model, scratch)
    for rate in RATES:
        rows += _gated(running, link, model, order, rate, prefill_s, num_runs, say)
    rows += _logits(link, order, model, notes)
    found, said = _memory(running, model, num_runs, say)
    return [*rows, *found], [*notes, *said]


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
    answers = [parts.first_token(running, model, "region") for _ in range(num_runs)]
    link.set(0)
    say(
        f"{rate / 1e9:g} GB/s: load {load_s:.3f} s, first token {[round(each.first_text_s, 3) for each in answers]}"
    )
    what = f"first token, layer by layer, over a SIMULATED link of {rate / 1e9:g} GB/s, median of {num_runs}"
    best = max(load_s, prefill_s)
    return [
        compare(
            f"{what}, against max(load, prefill)",
            parts.median_s(answers),
            best,
            "s",
            better="lower",
            target=OF_LIMIT,
        ),
        compare(
            "the same against load, then prefill",
            parts.median_s(answers),
            load_s + prefill_s,
            "s",
            better="lower",
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


def _memory(running: Running, model: Model, num_runs: int, say: Say) -> Found:
    """Of node, shell, template child and engine, during cold starts over the link and a while after."""
    peaks = []
    for _ in range(num_runs):
        stage.cool(running.credentials, model.name, "region")
        time.sleep(pss.SAMPLE_S)
        with pss.Peak(pss.node_pid()) as peak:
            parts.first_token(running, model, "region")
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
