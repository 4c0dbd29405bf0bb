"""A loader's process as its user has it: it is sent orders and answers with seconds."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.starts.loaders import Order
from weights_cache.model.strict import parse

MAX_ANSWER_BYTES = 4096


class Broken(Exception):
    """A loader failed, or loaded other bytes than the others."""


class Contestant:
    """A loader's process: `load` sends an order and waits for its answer."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", errors: Any) -> None:
        self.name = name
        self._process, self._errors = process, errors

    def load(self, order: Order) -> tuple[float, str]:
        """Seconds, and the digest of the last tensor. Raises: Broken with its last words."""
        told = self._process
        if told.stdin is None or told.stdout is None:
            raise Broken(f"{self.name} has no pipes")
        try:
            told.stdin.write(order.line())
            told.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: there is no answer either
        line = told.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise Broken(f"{self.name} failed: {self._errors.read()[-1000:]}")
        answer: Any = parse(line.encode(), MAX_ANSWER_BYTES)
        return float(answer["seconds"]), str(answer["digest"])


@contextmanager
def contestant(name: str, packages: Path | None = None) -> Iterator[Contestant]:
    """A loader's process for the block; `packages` comes before all else on its path."""
    path = os.pathsep.join(str(each) for each in (packages, *sys.path) if each)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.starts.loaders", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        with process:
            yield Contestant(name, process, errors)
            if process.stdin is not None:
                process.stdin.close()
