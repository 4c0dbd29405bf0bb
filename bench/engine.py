"""The engine by itself, over its link: batches, kept prefixes, a long prompt among streams, a peer, and fixed shapes.

Our engine is the process that a node forks, less the shell and the landing: step loop, scheduler, slots, sampling.
The peer is transformers' continuous batching of the same weights in a process of its own. Every figure of ours is
taken by a client in this process from the moment the bytes of a token were here.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Mapping
from statistics import median

from bench.engines import gpu
from bench.engines.client import Engine, batched, int8_cosine, stop_note
from bench.engines.drafts import draft_rows
from bench.engines.rates import (
    answers_s,
    begun,
    count_of,
    decode_rate,
    engine_of,
    latest,
    num_cores,
    prompt_of,
)
from bench.engines.recorded import recorded_rows
from bench.engines.schema import schema_rows
from bench.llama import cache_folder, model_folder
from bench.rows import Row, compare, middle, quantile
from inference.devices import CPU, parse_device

PREFIX_TOKENS = 2000
FIXED_PROMPT = 512
CROWD, CROWD_PROMPT = 32, 1024  # what the issue names
PEER_S = 120.0
DECODERS = 8
PLAIN_GAPS = 30  # of each stream, before the long prompt comes
PARTS = ("batch", "prefix", "gap", "peer", "fixed", "int8", "drafts", "recorded", "schema")
NUM_DECODED = 48  # tokens of each stream, float32 and int8


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run, of {','.join(PARTS)} (all)")
    parser.add_argument(
        "--device", type=parse_device, default=CPU, help="a GPU: its own rows, of an 8B-shaped model (cpu)"
    )
    parser.add_argument("--large", action="store_true", help="the 244 M Llama as well, where it matters")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of each short figure, the median counts (3)"
    )
    parser.add_argument("--new", type=int, default=32, help="new tokens of each stream beside the peer (32)")
    parser.add_argument(
        "--peer-s", type=float, default=PEER_S, help=f"when the peer's crowd is stopped ({PEER_S})"
    )
    parser.add_argument("--crowd", type=int, default=CROWD, help=f"streams beside the peer ({CROWD})")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    if options.device != CPU:
        return gpu.measure(options.device, options.runs, options.peer_s, say)
    models = ["tiny", *([str(model_folder(cache_folder(), 16))] if options.large else [])]
    rows: list[Row] = []
    for part in options.only.split(","):
        for model in models if part in {"prefix", "fixed", "drafts"} else models[:1]:
            found = MEASURES[part](model, options)
            rows += found
            say(", ".join(f"{row.what}: {row.ours:.4g} against {row.peer:.4g} {row.unit}" for row in found))
    return rows, _notes()


def _batch(model: str, options: argparse.Namespace) -> list[Row]:
    with engine_of(model, 16, 512) as engine:
        decode_rate(engine, 16, 8, 8)  # first touch of every slot
        rounds = [
            (decode_rate(engine, 16, 128, 48, 11 + n), decode_rate(engine, 1, 128, 48, 1 + n))
            for n in range(options.runs)
        ]
    what = "tokens a second at 16 streams against 1, prompt 128, tiny model"
    return [compare(what, *middle(rounds), "tok/s", better="higher", target=8.0)]


def _prefix(model: str, options: argparse.Namespace) -> list[Row]:
    cold, kept = [], []
    with engine_of(model, 4) as engine:
        engine.finish(engine.start(prompt_of(9, 64), 2))
        for number in range(1 if model != "tiny" else options.runs):
            cold.append(_first_ms(engine, number))
            kept.append(_first_ms(engine, number))
    name = "tiny model" if model == "tiny" else "244 M Llama"
    what = f"first token of a prompt of {PREFIX_TOKENS} tokens, kept against new, {name}"
    return [compare(what, median(kept), median(cold), "ms", better="lower", target=8.0)]


def _first_ms(engine: Engine, number: int, num_tokens: int = PREFIX_TOKENS) -> float:
    started = time.perf_counter()
    moments = engine.finish(name := engine.start(prompt_of(number, num_tokens), 1))
    return (moments[name][0] - started) * 1000


def _gap(model: str, _: argparse.Namespace) -> list[Row]:
    """Eight streams; when all run, a long prompt comes. p50 of their gaps before it, p99 while it is computed."""
    with engine_of(model, DECODERS + 1) as engine:
        decode_rate(engine, DECODERS, 8, 8)
        engine.finish(engine.start(prompt_of(77, 300), 2))
        streams = begun(engine, [prompt_of(number, 64) for number in range(DECODERS)])
        began, wanted = latest(streams), count_of(streams) + PLAIN_GAPS * DECODERS
        engine.read_until(lambda: count_of(streams) >= wanted, streams)
        came, late = latest(streams), engine.start(prompt_of(99, PREFIX_TOKENS), 1)
        moments = streams | {late: []}
        engine.read_until(lambda: bool(moments[late]), moments)
        until = moments[late][0]
        engine.cancel(*streams)
    plain = _gaps(streams, began, came)
    beside = _gaps(streams, came, until)
    what = f"p99 gap of {DECODERS} streams while a prompt of {PREFIX_TOKENS} tokens comes, against their p50 before"
    row = compare(what, quantile(beside, 0.99), quantile(plain, 0.5), "ms", better="lower", target=1 / 3)
    return [row]


def _gaps(moments: Mapping[str, list[float]], start: float, end: float) -> list[float]:
    """Milliseconds between two tokens of one stream, the second of which came in that time."""
    pairs = [pair for times in moments.values() for pair in itertools.pairwise(times)]
    return [1000 * (after - before) for before, after in pairs if start < after <= end]


def _peer(model: str, options: argparse.Namespace) -> list[Row]:
    """Whole crowds, from the first byte of a request to the last token; the peer's stopped when its time is up.

    What is left of a stopped one is taken to go as fast as what was done. It would not: prompts behind others and the
    answers' steps take longer than the first prompts.
    """
    lone, crowd = ((streams, CROWD_PROMPT, options.new) for streams in (1, options.crowd))
    *alone, stopped = batched(model, num_cores(), [*[lone] * options.runs, crowd], options.peer_s)
    with engine_of(model, options.crowd, CROWD_PROMPT + 64) as engine:
        decode_rate(engine, 1, 8, 8)
        alone_s = [_crowd_s(engine, *lone, 200 + run) for run in range(options.runs)]
        ours_s = [median(alone_s), _crowd_s(engine, *crowd)]
    theirs = [sorted(alone)[len(alone) // 2], stopped]
    return [
        compare(
            f"answers of {new} tokens at {streams} x {prompt} prompt, transformers' continuous batching"
            f"{stop_note(took_s, done)}, tiny model",
            streams * new / ours,
            streams * new * done / took_s,
            "tok/s",
            better="higher",
            target=5.0 if streams > 1 else 1.0,
        )
        for (streams, prompt, new), ours, (took_s, done) in zip((lone, crowd), ours_s, theirs, strict=True)
    ]


def _crowd_s(engine: Engine, streams: int, prompt: int, new: int, seed: int = 0) -> float:
    return answers_s(engine, [prompt_of(seed + streams + row, prompt) for row in range(streams)], new)


def _fixed(model: str, options: argparse.Namespace) -> list[Row]:
    """What `deterministic = true` costs: tokens of one stream and of sixteen, and the first token of a new prompt."""
    plain, fixed = (_paces(model, options, deterministic=each) for each in (False, True))
    name = "tiny model" if model == "tiny" else "244 M Llama"
    rates = [
        compare(f"tokens a second of {streams} streams, deterministic against not, {name}", ours, peer, "tok/s",
                better="higher")
        for streams, ours, peer in zip((1, 16), fixed, plain, strict=False)
    ]  # fmt: skip
    what = f"first token of a new prompt of {FIXED_PROMPT} tokens, deterministic against not, {name}"
    return [*rates, compare(what, fixed[2], plain[2], "ms", better="lower")]


def _paces(model: str, options: argparse.Namespace, *, deterministic: bool) -> tuple[float, float, float]:
    runs = options.runs if model == "tiny" else 1
    with engine_of(model, 16, 1024, deterministic=deterministic) as engine:
        decode_rate(engine, 16, 8, 4)  # first touch of every slot
        one = median(decode_rate(engine, 1, 128, 16, 1 + run) for run in range(runs))
        many = median(decode_rate(engine, 16, 32, 16, 11 + run) for run in range(runs))
        first_ms = median(_first_ms(engine, 50 + run, FIXED_PROMPT) for run in range(runs))
    return one, many, first_ms


def _int8(_: str, options: argparse.Namespace) -> list[Row]:
    """Decode in 8 bits against as stored, in turns, and how far the logits are apart."""
    model = str(model_folder(cache_folder(), 16))
    rates: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with engine_of(model, 16, 512) as stored, engine_of(model, 16, 512, quantize=True) as quantised:
        for turn in range(options.runs + 1):
            rates[False].append(_decode_rates(stored, turn))
            rates[True].append(_decode_rates(quantised, turn))
    rounds = [zip(*pair, strict=True) for pair in zip(rates[True][1:], rates[False][1:], strict=True)]
    rows = [
        compare(f"tokens a second of {streams} streams, int8 against float32, 244 M Llama", *middle(pairs), "tok/s",
                better="higher", target=2.0)
        for streams, pairs in zip((1, 16), zip(*rounds, strict=True), strict=True)
    ]  # fmt: skip
    cosine = int8_cosine(model, num_cores(), prompt_of(5, 128))
    what = "least cosine of 128 positions' logits, int8 against float32, 244 M Llama"
    return [*rows, compare(what, cosine, 1.0, "", better="higher", target=0.999)]


def _decode_rates(engine: Engine, turn: int) -> tuple[float, float]:
    """By so many steps that one of them on one thread, which an engine tries now and then, weighs little."""
    return decode_rate(engine, 1, 32, NUM_DECODED, 1 + turn), decode_rate(
        engine, 16, 32, NUM_DECODED, 11 + turn
    )


MEASURES: Mapping[str, Callable[[str, argparse.Namespace], list[Row]]] = {
    "batch": _batch,
    "prefix": _prefix,
    "gap": _gap,
    "peer": _peer,
    "fixed": _fixed,
    "int8": _int8,
    "drafts": draft_rows,
    "recorded": recorded_rows,
    "schema": schema_rows,
}


def _notes() -> list[str]:
    return [
        "weights lie in huge pages where the kernel makes them, as a node's landings do; vLLM's as it lays them",
        f"tiny model: 25 M random Llama, 8 layers, fp32, {num_cores()} threads at most; greedy; end tokens off",
        "rates at 1 and 16 streams count decode only, from when the last of them had its first token",
        "no drafts but where a row says so; vLLM's are off as they are by default",
        "beside the peer: whole answers, prompts included, all asked for at once",
        "a kept prompt is copied from its pages up to its last whole block of 16 tokens, the rest is computed",
    ]
