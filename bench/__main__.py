"""`python -m bench NAME [--json]`: measure, and print one JSON object as the last line, or a table."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

from bench.machine import describe
from bench.rows import Outcome

Say = Callable[[str], None]

BENCHES: Mapping[str, str] = MappingProxyType(
    {
        "again": "`nearfield up` to the first answer of a model that was pushed before",
        "beats": "what a region's signed rows cost by the number of its models: bytes, and time at either end",
        "choice": "what one choice of a region costs the edge, by regions and models",
        "cli": "the command line: how long a shell waits for help, a Tab and a list, beside aws and a bare interpreter",
        "cold": "cold start, region state, against a fresh process with boto3 and from_pretrained",
        "edge": "the edge as a proxy: processor time, latency, streams and memory beside nginx and LiteLLM's proxy",
        "engine": "the engine by itself: batches, kept prefixes, a long prompt among streams, continuous batching",
        "fair": "one tenant at fifty times the load of three others: what those see of it",
        "handoff": "cold landing beside the store: its files mapped, against the same bytes over HTTP",
        "device": "weights to a GPU, from host memory and from the store, against the links alone",
        "dns": "the name server's answers in a second of one core, against other Python servers and NSD",
        "idle": "a platform that nobody asks anything: processor time and wake-ups a second, and what its start takes",
        "report": "the report's client against guidellm, in turn, on one endpoint: whether their figures agree",
        "spread": "how soon edges behind simulated links follow a change that the home region signed",
        "storage": "the store against a bare sendfile loop, hashing, the disk, rclone serve s3 and OpenStack Swift",
        "turns": "what turns between tenants cost the engine's scheduler, a step",
        "weights": "from store, host and slow links to tensors and first tokens, against limits measured beside them",
        "usage": "what counting usage costs, beside an engine's steps and a node's requests",
        "overhead": "what edge and gateway add to the time to first token of a warm model",
    }
)
"""Name -> one line. Module `bench.NAME` has `add_options(parser)` and `measure(options, say) -> (rows, notes)`."""


BEGAN_S = time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark. Exit status: 0 all targets hold, 1 one does not, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    rows, notes = import_module(f"bench.{options.name}").measure(options, _progress)
    outcome = Outcome(options.name, describe(), rows, notes)
    if options.json:
        print(outcome.to_json(), flush=True)
    else:
        from rich.console import Console

        from bench.show import show

        show(outcome, Console())
    return 0 if outcome.holds else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description="Measure ours against a peer.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, line in BENCHES.items():
        one = names.add_parser(name, help=line, description=line)
        one.add_argument("--json", action="store_true", help="one JSON object as the last line of the output")
        import_module(f"bench.{name}").add_options(one)
    return parser


def _progress(line: str) -> None:
    """What is going on, and since when, on standard error: standard output is the outcome's."""
    print(f"{time.perf_counter() - BEGAN_S:6.1f} s  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
