"""The engine by itself, over its link: batches, kept prefixes, a long prompt among streams, a peer, and fixed shapes.

Our engine is the process that a node forks, less the shell and the landing: step loop, scheduler, slots, sampling.
The peer is transformers' continuous batching of the same weights in a process of its own. Every figure of ours is
taken by a client in this process from the moment the bytes of a token were here.
"""

import argparse
import itertools
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from bench import engine_gpu
from bench.engine_client import Engine, batched, int8_cosine, stop_note
from bench.engine_schema import schema_rows
from bench.engine_vllm import Vllm, vllm_python
from bench.llama import cache_folder, model_folder
from bench.rows import Row, compare, middle, quantile
from inference.devices import CPU, parse_device

PREFIX_TOKENS = 2000
FIXED_PROMPT = 512
CROWD, CROWD_PROMPT = 32, 1024  # what the issue names
PEER_S = 120.0
DECODERS = 8
PLAIN_GAPS = 30  # of each stream, before the long prompt comes
VLLM_PROMPT = 128
REST_S = 2.0
"""Before each crowd beside vLLM, ours or its own: for a second after its last step its worker polls for the next order,
on one core of two (`SpinCondition` in its `shm_broadcast`), and who is measured in that second has the other one."""
ENDLESS = 1 << 20  # the engine cuts it to the room there is
PARTS = ("batch", "prefix", "gap", "peer", "fixed", "int8", "recorded", "schema")
NUM_DECODED = 48  # tokens of each stream, float32 and int8
VLLM_CPU = {(1, 16): 5.8, (8, 32): 25.2, (16, 32): 31.2}
"""Tokens a second of vLLM's CPU build at (streams, new tokens), the 244 M Llama, prompt about 128, on two such cores:
measured once and recorded. Where NEARFIELD_VLLM names its Python it is run again beside ours, in turns."""


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
        return engine_gpu.measure(options.device, options.runs, options.peer_s, say)
    models = ["tiny", *([str(model_folder(cache_folder(), 16))] if options.large else [])]
    rows: list[Row] = []
    for part in options.only.split(","):
        for model in models if part in {"prefix", "fixed"} else models[:1]:
            found = MEASURES[part](model, options)
            rows += found
            say(", ".join(f"{row.what}: {row.ours:.4g} against {row.peer:.4g} {row.unit}" for row in found))
    return rows, _notes()


def _engine(model: str, slots: int, max_len: int = 2048, **options: Any) -> Engine:
    room = {"slots": slots, "max_len": max_len, "pages": 4 * max_len // 16}
    return Engine(model=model, threads=_cores(), **room, **options)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _prompt(number: int, num_tokens: int) -> list[int]:
    """Prompts that differ from their first token on."""
    return [2 + (7 * place + 13 * number + number * number) % 500 for place in range(num_tokens)]


def _rate(engine: Engine, streams: int, prompt: int, new: int, seed: int = 0) -> float:
    """Tokens a second of all streams together, `new` tokens of each, from when the last of them had begun."""
    moments = _begun(engine, [_prompt(seed * 100 + number, prompt) for number in range(streams)])
    started, wanted = _latest(moments), _count(moments) + new * streams
    engine.read_until(lambda: _count(moments) >= wanted, moments)
    took_s = _latest(moments) - started
    engine.cancel(*moments)
    return new * streams / took_s


def _begun(engine: Engine, prompts: Sequence[list[int]]) -> dict[str, list[float]]:
    """Streams without an end, all of which have given a token."""
    moments: dict[str, list[float]] = {engine.start(prompt, ENDLESS): [] for prompt in prompts}
    engine.read_until(lambda: all(moments.values()), moments)
    return moments


def _latest(moments: Mapping[str, list[float]]) -> float:
    return max(times[-1] for times in moments.values())


def _count(moments: Mapping[str, list[float]]) -> int:
    return sum(map(len, moments.values()))


def _batch(model: str, options: argparse.Namespace) -> list[Row]:
    with _engine(model, 16, 512) as engine:
        _rate(engine, 16, 8, 8)  # first touch of every slot
        rounds = [
            (_rate(engine, 16, 128, 48, 11 + n), _rate(engine, 1, 128, 48, 1 + n))
            for n in range(options.runs)
        ]
    what = "tokens a second at 16 streams against 1, prompt 128, tiny model"
    return [compare(what, *middle(rounds), "tok/s", better="higher", target=8.0)]


def _prefix(model: str, options: argparse.Namespace) -> list[Row]:
    cold, kept = [], []
    with _engine(model, 4) as engine:
        engine.finish(engine.start(_prompt(9, 64), 2))
        for number in range(1 if model != "tiny" else options.runs):
            cold.append(_first_ms(engine, number))
            kept.append(_first_ms(engine, number))
    name = "tiny model" if model == "tiny" else "244 M Llama"
    what = f"first token of a prompt of {PREFIX_TOKENS} tokens, kept against new, {name}"
    return [compare(what, median(kept), median(cold), "ms", better="lower", target=8.0)]


def _first_ms(engine: Engine, number: int, num_tokens: int = PREFIX_TOKENS) -> float:
    started = time.perf_counter()
    moments = engine.finish(name := engine.start(_prompt(number, num_tokens), 1))
    return (moments[name][0] - started) * 1000


def _gap(model: str, _: argparse.Namespace) -> list[Row]:
    """Eight streams; when all run, a long prompt comes. p50 of their gaps before it, p99 while it is computed."""
    with _engine(model, DECODERS + 1) as engine:
        _rate(engine, DECODERS, 8, 8)
        engine.finish(engine.start(_prompt(77, 300), 2))
        streams = _begun(engine, [_prompt(number, 64) for number in range(DECODERS)])
        began, wanted = _latest(streams), _count(streams) + PLAIN_GAPS * DECODERS
        engine.read_until(lambda: _count(streams) >= wanted, streams)
        came, late = _latest(streams), engine.start(_prompt(99, PREFIX_TOKENS), 1)
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
    *alone, stopped = batched(model, _cores(), [*[lone] * options.runs, crowd], options.peer_s)
    with _engine(model, options.crowd, CROWD_PROMPT + 64) as engine:
        _rate(engine, 1, 8, 8)
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
    return _answers_s(engine, [_prompt(seed + streams + row, prompt) for row in range(streams)], new)


def _answers_s(engine: Engine, prompts: Sequence[list[int]], new: int) -> float:
    started = time.perf_counter()
    moments = engine.finish(*[engine.start(prompt, new) for prompt in prompts])
    return _latest(moments) - started


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
    with _engine(model, 16, 1024, deterministic=deterministic) as engine:
        _rate(engine, 16, 8, 4)  # first touch of every slot
        one = median(_rate(engine, 1, 128, 16, 1 + run) for run in range(runs))
        many = median(_rate(engine, 16, 32, 16, 11 + run) for run in range(runs))
        first_ms = median(_first_ms(engine, 50 + run, FIXED_PROMPT) for run in range(runs))
    return one, many, first_ms


def _int8(_: str, options: argparse.Namespace) -> list[Row]:
    """Decode in 8 bits against as stored, in turns, and how far the logits are apart."""
    model = str(model_folder(cache_folder(), 16))
    rates: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with _engine(model, 16, 512) as stored, _engine(model, 16, 512, quantize=True) as quantised:
        for turn in range(options.runs + 1):
            rates[False].append(_decode_rates(stored, turn))
            rates[True].append(_decode_rates(quantised, turn))
    rounds = [zip(*pair, strict=True) for pair in zip(rates[True][1:], rates[False][1:], strict=True)]
    rows = [
        compare(f"tokens a second of {streams} streams, int8 against float32, 244 M Llama", *middle(pairs), "tok/s",
                better="higher", target=2.0)
        for streams, pairs in zip((1, 16), zip(*rounds, strict=True), strict=True)
    ]  # fmt: skip
    cosine = int8_cosine(model, _cores(), _prompt(5, 128))
    what = "least cosine of 128 positions' logits, int8 against float32, 244 M Llama"
    return [*rows, compare(what, cosine, 1.0, "", better="higher", target=0.999)]


def _decode_rates(engine: Engine, turn: int) -> tuple[float, float]:
    """By so many steps that one of them on one thread, which an engine tries now and then, weighs little."""
    return _rate(engine, 1, 32, NUM_DECODED, 1 + turn), _rate(engine, 16, 32, NUM_DECODED, 11 + turn)


def _recorded(_: str, options: argparse.Namespace) -> list[Row]:
    """Whole answers of the 244 M Llama, prompts of 128 tokens included; vLLM's of this run, or as recorded."""
    model, python = str(model_folder(cache_folder(), 16)), vllm_python()
    with _engine(model, 16, 512) as engine:
        _rate(engine, 16, 8, 4)
        if python is None:
            pairs = [(_crowd_rate(engine, *run), VLLM_CPU[run]) for run in VLLM_CPU]
        else:
            with Vllm(python, model, 512) as theirs:
                pairs = _in_turns(engine, theirs, options.runs)
    whose = "as recorded" if python is None else "in the same run"
    return [
        compare(f"answers of {new} tokens, {streams} streams, 244 M Llama, against vLLM's CPU build {whose}",
                *pair, "tok/s", better="higher", target=1.2)
        for (streams, new), pair in zip(VLLM_CPU, pairs, strict=True)
    ]  # fmt: skip


def _crowd_rate(engine: Engine, streams: int, new: int, seed: int = 0) -> float:
    return streams * new / _answers_s(engine, _crowd_prompts(streams, seed), new)


def _crowd_prompts(streams: int, seed: int) -> list[list[int]]:
    """Prompts that nobody has asked in another round: of a series as `_prompt`'s some come again."""
    draws = random.Random(f"{streams} {seed}")
    return [[draws.randrange(2, 502) for _ in range(VLLM_PROMPT)] for _ in range(streams)]


def _in_turns(engine: Engine, theirs: Vllm, num_runs: int) -> list[tuple[float, float]]:
    """Of each crowd the round with the middle quotient; prompts are new to both in every round, and both had a rest."""
    rounds: dict[tuple[int, int], list[tuple[float, float]]] = {run: [] for run in VLLM_CPU}
    theirs.crowd_s([_prompt(900 + row, VLLM_PROMPT) for row in range(16)], 4)  # first touch
    for turn in range(num_runs):
        for streams, new in VLLM_CPU:
            time.sleep(REST_S)
            peer = streams * new / theirs.crowd_s(_crowd_prompts(streams, turn), new)
            time.sleep(REST_S)
            rounds[streams, new].append((_crowd_rate(engine, streams, new, turn), peer))
    return [middle(found) for found in rounds.values()]


MEASURES: Mapping[str, Callable[[str, argparse.Namespace], list[Row]]] = {
    "batch": _batch,
    "prefix": _prefix,
    "gap": _gap,
    "peer": _peer,
    "fixed": _fixed,
    "int8": _int8,
    "recorded": _recorded,
    "schema": schema_rows,
}


def _notes() -> list[str]:
    return [
        "weights lie in huge pages where the kernel makes them, as a node's landings do; vLLM's as it lays them",
        f"tiny model: 25 M random Llama, 8 layers, fp32, {_cores()} threads at most; greedy; end tokens off",
        "rates at 1 and 16 streams count decode only, from when the last of them had its first token",
        "beside the peer: whole answers, prompts included, all asked for at once",
        "a kept prompt is copied from its pages up to its last whole block of 16 tokens, the rest is computed",
    ]
