"""Weights at the speed of the bytes: from the store, from the host, over a slow link, for a crowd, in bounded memory.

Each part says what it measures against; the limit of a read is measured by a bare socket reader in the same run.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import llama
from bench.rows import Row
from bench.starts import crowd, fromstore, host, slow

Say = Callable[[str], None]
Found = tuple[list[Row], list[str]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--runs", type=int, default=3, help="rounds of every measurement (3)")
    parser.add_argument(
        "--sizes", default="256,512,1024", help="MiB of the models that are read (256,512,1024)"
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}, with commas")
    parser.add_argument(
        "--cache", type=Path, default=llama.cache_folder(), help="where models and a peer are kept"
    )


def measure(options: argparse.Namespace, say: Say) -> Found:
    """Rows and notes."""
    rows: list[Row] = []
    notes: list[str] = []
    for part in options.only.split(","):
        say(part)
        found, said = PARTS[part](options, say)
        rows += found
        notes += said
    return rows, notes


def _read(options: argparse.Namespace, say: Say) -> Found:
    sizes = [int(size) for size in options.sizes.split(",")]
    return fromstore.measure(sizes, options.runs, options.cache, say)


PARTS: Mapping[str, Callable[[argparse.Namespace, Say], Found]] = {
    "read": _read,
    "host": host.measure,
    "link": slow.measure,
    "crowd": crowd.measure,
}
