"""vLLM's CPU build as a peer of `bench engine`, where NEARFIELD_VLLM names its Python (`python -m bench.vllm_setup`).

Its own server, asked at its own port over loopback by streamed completions: prompts are token ids, end tokens are off,
and a crowd's time goes from its first question to its last token, as ours does. Left to itself vLLM keeps one core for
its API server: of two it would compute on one. It is given all of them, as ours is, and the OpenMP that its pages
recommend; what the environment says of either (`VLLM_CPU_OMP_THREADS_BIND=auto`) comes first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Self

from inference.outside import keeper
from inference.outside.site import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "NEARFIELD_VLLM"
START_S, ANSWER_S = 900.0, 600.0
KV_GIB = "2"
NAME = "peer"


def vllm_python() -> Path | None:
    """The Python of an environment that has vLLM, if there is one."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named and Path(named).with_name("vllm").exists() else None


def _environment(python: Path) -> dict[str, str]:
    """The best of its kind on this machine, where nothing else is said."""
    openmp = python.parents[1] / "lib" / "libiomp5.so"
    best = {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "VLLM_CPU_KVCACHE_SPACE": KV_GIB,
        **({"LD_PRELOAD": str(openmp)} if openmp.exists() else {}),
    }
    path = f"{python.parent}:{os.environ['PATH']}"
    return {**best, **os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}


class Vllm:
    """A running server of one model's folder; all it started ends with this."""

    def __init__(self, python: Path, model: str, max_len: int) -> None:
        self._port = free_port()
        self._work = tempfile.TemporaryDirectory()
        log = Path(self._work.name) / "log"
        words = [str(python), str(python.with_name("vllm")), "serve", model, "--served-model-name", NAME]
        words += [
            "--host",
            HOST,
            "--port",
            str(self._port),
            "--max-model-len",
            str(max_len),
            "--dtype",
            "float32",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, "15", "20", *words],
            stdin=subprocess.PIPE,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            env=_environment(python),
            cwd=self._work.name,
        )
        self._wait(log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input ends everything
        self._work.cleanup()

    def crowd_s(self, prompts: Sequence[list[int]], new: int) -> float:
        """Seconds from the first question until every prompt has its `new` tokens."""
        ends: list[float] = []
        threads = [
            threading.Thread(target=lambda one=one: ends.append(self._ask(one, new))) for one in prompts
        ]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(ends) < len(prompts):
            raise RuntimeError("vLLM did not answer all of a crowd")
        return max(ends) - started

    def _ask(self, prompt: list[int], new: int) -> float:
        """When its last token was here."""
        body = {"model": NAME, "prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        connection = HTTPConnection(HOST, self._port, timeout=ANSWER_S)
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        last, num_tokens = 0.0, 0
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                last = time.perf_counter() if event["choices"] else last
                num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
        if num_tokens != new:
            raise RuntimeError(f"vLLM made {num_tokens} tokens of {new}")
        return last

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + START_S
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.communicate()
                raise RuntimeError(f"vLLM did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.5)

    def _is_healthy(self) -> bool:
        connection = HTTPConnection(HOST, self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
