"""No request can hurt another: a corpus of poison over HTTP beside healthy streams, on a real engine."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.workers.residency.life import State
from tests.evidence import IS_WHOLE
from tests.inference import poison
from tests.inference.conftest import LivingShell
from tests.inference.fake_engine import TEMPLATE, VOCABULARY
from tests.inference.poisoned import Healthy, leave, moments, poisoned
from tests.inference.test_node_real import PROMPT, RealNode, make_folder, real_node

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODEL = "acme/p"
MAX_LEN = 256
POISON = "Größe!"
"""One token of the vocabulary, whose embedding is NaN."""
OFFERS = "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}"


def make_poisoned(folder: Path) -> int:
    """The tiny model with one embedding of NaN, and a template that can do harm; the token's id."""
    model = make_folder(folder)
    token = VOCABULARY.token_of(POISON)
    assert token is not None
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = torch.nan
        model.lm_head.weight[token] = 0  # never the likeliest by itself
    model.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(poison.TEMPLATE + OFFERS + TEMPLATE)
    return token


def healthy(node: RealNode) -> Healthy:
    plain: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    chat: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    held = {"guided_regex": "[a-z]{5}( [a-z]{5}){2}"}
    return Healthy(
        node.http,
        node.url,
        [
            ("/v1/completions", plain),
            (
                "/v1/completions",
                plain | {"temperature": 1, "seed": 5, "n": 2, "max_tokens": 12, "logit_bias": {"1": -5}},
            ),
            ("/v1/completions", plain | held | {"seed": 7, "temperature": 1}),
            ("/v1/chat/completions", chat | {"max_tokens": 12, "seed": 3}),
        ],
    )


async def test_poison_hurts_nobody(tmp_path: Path, living_shell: LivingShell) -> None:
    """Each gets one clear answer; the healthy get theirs, to the letter; the engine is the same process after it.

    Clients that leave at every moment are among them: nothing of theirs is left on the engine.
    """
    token = make_poisoned(tmp_path / "model")
    poisons = [*poison.corpus(MODEL, MAX_LEN, (POISON, token)), *poison.template_poisons(MODEL)]
    taken = poisons if IS_WHOLE else [one for one in poisons if not one.is_slow][::2]
    assert len(taken) >= 200
    async with real_node(tmp_path, living_shell) as node:
        revision = await node.commit(tmp_path / "model", MODEL)
        assert (await node.load(revision))["phase"] == "ready"
        worker = node.node.host.find(revision.id, MODEL)
        pid, well = worker.pid, healthy(node)
        async with well.beside():
            faults, *_ = await asyncio.gather(
                poisoned(node.http, node.url, taken),
                *(leave(node.url, *moment) for moment in moments(MODEL)),
            )
        held = ("running", "waiting")
        while worker.num_requests or any(map(worker.stats.get, held)):  # noqa: ASYNC110 - told once a second
            await asyncio.sleep(0.01)

        assert faults == []
        assert well.faults == []
        assert well.num_rounds >= 2 * len(well.bodies)
        assert (worker.pid, worker.state) == (pid, State.RESIDENT)
