"""An engine in a process of its own, asked over its link; every token with the moment it came."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Self

from inference.link import FrameReader, frame_bytes, link_pair
from inference.zygote import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inference.link import Message

READ_BYTES = 1 << 16
SILENT_S = 600.0  # an engine that says nothing for so long is not slow, it is broken
QUIET_ENV = {name: ENVIRONMENT[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE")}


class EngineFailed(Exception):
    """A request failed, or the engine ended."""


class Engine:
    """One engine; `run` sends requests and reads until each has ended."""

    def __init__(self, **order: Any) -> None:
        self._socket, theirs = link_pair()
        self._socket.settimeout(SILENT_S)
        self._frames = FrameReader()
        self._num = 0
        command = [
            sys.executable,
            "-m",
            "bench.engines.child",
            "ours",
            json.dumps(order),
            str(theirs.fileno()),
        ]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=os.environ | QUIET_ENV, stderr=subprocess.DEVNULL
        )
        theirs.close()
        self._until("ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait()

    def start(self, tokens: Sequence[int], num_new: int, **fields: Any) -> str:
        """Send one greedy request; its id."""
        self._num += 1
        order = {
            "op": "add",
            "id": str(self._num),
            "tokens": list(tokens),
            "max_tokens": num_new,
            "temperature": 0,
        }
        self._socket.sendall(frame_bytes(order | fields))
        return str(self._num)

    def tell(self, message: Message) -> None:
        """Send something that is no request."""
        self._socket.sendall(frame_bytes(message))

    def finish(self, *ids: str) -> Mapping[str, list[float]]:
        """Read until all of them have ended; the moments of each one's tokens."""
        moments: dict[str, list[float]] = defaultdict(list)
        waiting = set(ids)
        while waiting:
            for message in self._heard():
                waiting -= self._note(message, moments)
        return moments

    def read_until(self, is_enough: Callable[[], bool], moments: dict[str, list[float]]) -> None:
        """Read, noting the moments of tokens in `moments`, until it is enough."""
        while not is_enough():
            for message in self._heard():
                self._note(message, moments)

    def cancel(self, *ids: str) -> None:
        """Drop these requests, and read until they have ended."""
        for name in ids:
            self._socket.sendall(frame_bytes({"op": "cancel", "id": name}))
        self.finish(*ids)

    def _note(self, message: Message, moments: dict[str, list[float]]) -> set[str]:
        if message["op"] == "failed":
            raise EngineFailed(str(message))
        if message["op"] == "tokens":
            moments[message["id"]].append(time.perf_counter())
        return {message["id"]} if message["op"] == "done" else set()

    def _heard(self) -> list[Message]:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise EngineFailed("the engine ended")
        return self._frames.receive(data)

    def _until(self, op: str) -> None:
        while op not in {message["op"] for message in self._heard()}:
            pass


def int8_cosine(model: str, threads: int, tokens: Sequence[int]) -> float:
    """The least cosine of a model's logits in 8 bits with those as stored, over the prefixes of `tokens`."""
    return float(_printed("cosine", {"model": model, "threads": threads, "tokens": list(tokens)}))


def batched(
    model: str, threads: int, runs: Sequence[tuple[int, int, int]], limit_s: float | None = None, **where: str
) -> list[tuple[float, float]]:
    """Of each crowd (streams, prompt, new tokens) the seconds it takes transformers' continuous batching.

    They are `limit_s` at most; and how much of it was done then, 1 for all.
    """
    order = {"model": model, "threads": threads, "runs": [list(run) for run in runs], "limit_s": limit_s}
    found: list[tuple[float, float]] = json.loads(_printed("theirs", order | where))
    return found


def stop_note(took_s: float, done: float) -> str:
    """What a row says of a crowd whose time was up before it was done."""
    return f" (stopped after {took_s:.0f} s, {done:.0%} of its tokens with their prompts)" if done < 1 else ""


def _printed(whose: str, order: Mapping[str, Any]) -> str:
    """The last line that such a child prints."""
    command = [sys.executable, "-m", "bench.engines.child", whose, json.dumps(order)]
    done = subprocess.run(command, env=os.environ | QUIET_ENV, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineFailed(done.stderr[-2000:])
    return done.stdout.splitlines()[-1]
