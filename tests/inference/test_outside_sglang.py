"""`kind = "sglang"` with the command that it has by itself, against a server that has SGLang's words and shapes.

SGLang itself does not start on these machines (docs/engines.md says why); its flags and shapes are those of 0.5.23.
"""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inference.outside.definition import EngineEntry
from tests.inference.test_outside_node import TEXT, Outside, outside
from wire.timing import parse_receipt

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPTED = Path(__file__).with_name("scripted")
SGLANG = EngineEntry(
    kind="sglang",
    args=("--device", "cpu", "--attention-backend", "torch_native"),
    variables={"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(SCRIPTED)},
    memory_bytes=1 << 20,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sglang(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outside]:
    async with outside(tmp_path_factory.mktemp("n"), peer=SGLANG) as running:
        line = await running.load()
        assert line["phase"] == "ready", line
        yield running


async def test_it_takes_every_word_it_is_started_with(sglang: Outside) -> None:
    door = sglang.node.node.host.workers[0]._start.engine._door  # type: ignore[union-attr]
    told = json.loads(await door.get("/server_info", 5) or b"{}")

    assert told["served_model_name"] == "acme/m"
    assert (told["host"], told["context_length"]) == ("127.0.0.1", "128")
    assert (told["enable_metrics"], told["enable_cache_report"]) == (True, True)
    assert Path(told["model_path"]).name == "model"


async def test_a_chat_whole_and_streamed(sglang: Outside) -> None:
    whole = (await sglang.chat()).json()
    events = (await sglang.chat(stream=True)).text.removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    receipt: Any = parse_receipt(events[-1])

    assert whole["choices"][0]["message"]["content"] == TEXT
    assert (whole["model"], whole["usage"]["completion_tokens"]) == ("acme/m", 4)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == TEXT
    assert events[-2] == "data: [DONE]"
    assert (receipt["prompt_tokens"], receipt["completion_tokens"], receipt["cached"]) == (7, 4, 3)


async def test_its_errors_are_ours(sglang: Outside) -> None:
    hot, broken = await sglang.chat(temperature=2), await sglang.chat("broken")

    assert (hot.status_code, hot.json()["error"]["code"]) == (400, "bad_request")
    assert "temperature must be at most 1.5" in hot.json()["error"]["message"]
    assert (broken.status_code, broken.json()["error"]["code"]) == (502, "engine_failed")
    assert "acme/m is gone" in broken.json()["error"]["message"], "our name, not its folder"


async def test_its_figures_stand_beside_ours(sglang: Outside) -> None:
    page = (await sglang.get("/metrics")).text

    assert 'sglang:num_running_reqs{engine="peer",served="acme/m",engine_type="unified"' in page
