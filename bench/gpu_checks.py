"""Every check of `bench/GPU.md` by one command: `python -m bench.gpu_checks`, on a machine with a GPU.

One after another, each with its own bound and all within `--minutes`; what did not fit is said, and counts as not had.
`--rehearse` runs what of them runs without a GPU: the same ways on the pretended device, and the platform's check on
the CPU. Exit status: 0 all held, 1 not. The whole output of each is a file under `--out`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PYTEST = ("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider")
REHEARSE = "NEARFIELD_REHEARSE"
"""Set for the checks that know both ways."""
PLATFORM = (*PYTEST, "tests/e2e/test_gpu_platform.py")


@dataclass(frozen=True, slots=True)
class Check:
    """One row: the words after Python's, and what it may take."""

    name: str
    words: tuple[str, ...]
    most_s: float


ON_A_GPU = (
    Check("tests", (*PYTEST, "tests/inference/test_gpu.py"), 240),
    Check("platform", PLATFORM, 150),
    Check("device", ("-m", "bench", "device", "--json"), 180),
    Check("engine", ("-m", "bench", "engine", "--device", "cuda:0", "--peer-s", "90", "--json"), 330),
)
REHEARSALS = (
    Check("weights", (*PYTEST, "tests/inference/test_device_attach.py"), 300),
    Check(
        "engine", (*PYTEST, "tests/inference/test_device_engine.py", "tests/inference/test_spares.py"), 300
    ),
    Check("kernels", (*PYTEST, "tests/inference/test_paged_kernels.py"), 600),
    Check("device", (*PYTEST, "tests/bench/test_device.py"), 300),
    Check("platform", PLATFORM, 300),
)


def main() -> int:
    """Run them; a line for each."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    began, held = time.monotonic(), True
    for check in REHEARSALS if options.rehearse else ON_A_GPU:
        left_s = 60 * options.minutes - (time.monotonic() - began)
        said = _run(check, min(check.most_s, left_s), options) if left_s > 0 else "not had: the time was up"
        held = held and said.startswith("held")
        print(f"{time.monotonic() - began:6.0f} s  {check.name}: {said}", flush=True)
    return 0 if held else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.gpu_checks", description="Every check on a GPU.")
    parser.add_argument("--rehearse", action="store_true", help="what runs without a GPU")
    parser.add_argument("--minutes", type=float, default=15.0, help="for all of them together (15)")
    parser.add_argument("--out", type=Path, default=Path("gpu-checks"), help="where outputs go (gpu-checks)")
    return parser.parse_args()


def _run(check: Check, most_s: float, options: argparse.Namespace) -> str:
    """What came of it, in a few words; its last line with it."""
    path = options.out / f"{check.name}.txt"
    rehearsing = {REHEARSE: "1", "NEARFIELD_EVIDENCE": "0.01"} if options.rehearse else {}
    with path.open("w") as output:
        try:
            done = subprocess.run(
                [sys.executable, *check.words],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | rehearsing,
                timeout=most_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"not had: it took more than {most_s:.0f} s; {path}"
    last = path.read_text().rstrip().rpartition("\n")[2][:200]
    return f"{'held' if done.returncode == 0 else 'DID NOT HOLD'}; {last}"


if __name__ == "__main__":
    sys.exit(main())
