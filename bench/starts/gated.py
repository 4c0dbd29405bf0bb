"""A model that runs while its bytes still arrive, against from_pretrained: are the logits the same bits?

Run as `python -m bench.starts.gated` in a process of its own: the order on standard input, one line of JSON the answer.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.starts.loaders import Order
from weights_cache.cache import HostTier
from weights_cache.memory.view import LandingView, open_landing
from weights_cache.model.revision import Revision
from weights_cache.model.strict import parse

MAX_ANSWER_BYTES = 4096
PROMPT_STEP = 7  # as the prompt of `bench.llama`: token ids spread over its words


class Failed(Exception):
    """The comparison could not be made."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Of `num_values` logits `num_equal` are the same bits. `num_landed` of `num_extents` were there when it began."""

    num_values: int
    num_equal: int
    num_landed: int
    num_extents: int
    forward_s: float


def compare(order: Order, folder: Path, num_tokens: int) -> Compared:
    """Ask a process of its own. Raises: Failed."""
    line = json.dumps({"order": asdict(order), "folder": str(folder), "num_tokens": num_tokens})
    command = [sys.executable, "-m", "bench.starts.gated"]
    done = subprocess.run(command, input=line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"the gated run failed: {done.stderr[-2000:]}")
    answer: Any = parse(done.stdout.strip().encode(), MAX_ANSWER_BYTES)
    return Compared(**answer)


def main() -> None:
    """The reference first, then ours, over whatever link the order names."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from inference.engine.attach.weights import attach
    from inference.engine.classes import class_of

    asked = json.load(sys.stdin)
    order, folder = Order(**asked["order"]), asked["folder"]
    config = AutoConfig.from_pretrained(folder)
    ids = torch.tensor([[2 + n * PROMPT_STEP % (config.vocab_size - 2) for n in range(asked["num_tokens"])]])
    with torch.inference_mode():
        reference: Any = AutoModelForCausalLM.from_pretrained(folder)
        expected = reference.eval()(input_ids=ids).logits
        revision = Revision.from_json(Path(order.revision).read_bytes())
        tier = HostTier(order.store, 2 * order.num_bytes)
        view = _view(tier, revision)
        attached = attach(revision, view, class_of(config, "generate"), config, dtype="auto", gated=True)
        num_landed, started = view.num_landed, time.perf_counter()
        found = attached.model(input_ids=ids).logits
        forward_s = time.perf_counter() - started
    same = found.view(torch.int32) == expected.view(torch.int32)
    told = Compared(same.numel(), int(same.sum()), num_landed, len(revision.extents), forward_s)
    print(json.dumps(asdict(told)), flush=True)
    tier.close()


def _view(tier: HostTier, revision: Revision) -> LandingView:
    landing = tier.land(revision)
    return open_landing(revision, landing.fd, landing.ready_fd, landing.event_fd)


if __name__ == "__main__":
    main()
