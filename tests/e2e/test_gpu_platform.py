"""The whole platform with a node that computes on a GPU: a push, a cold chat, and what its receipt says of the copy.

NEARFIELD_REHEARSE=1 runs it on a CPU: all but what only a device has.
"""

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from deploy import fleet
from deploy.trust import pki
from tests.e2e.platform import CHAT, TINYCHAT, RunningPlatform, questions, start, tls, wait_live
from wire.timing import parse_receipt

HAS_GPU = torch.cuda.is_available()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_GPU and not os.environ.get("NEARFIELD_REHEARSE"), reason="no CUDA device"),
]
DEVICE = "cuda:0" if HAS_GPU else "cpu"


def test_a_chat_on_the_device_and_what_its_receipt_says(tmp_path: Path):
    state = tmp_path / "s"
    authority = pki.ensure(state / "tls", dt.datetime.now(dt.UTC))
    path = fleet.write(fleet.FleetPlan(state, ("iad",), usual_ports=(0, 0, 0)), authority)
    path.write_text(
        path.read_text().replace("landing_pool_bytes", f'device = "{DEVICE}"\nlanding_pool_bytes')
    )
    with start(state, "--regions", "iad") as platform:
        platform.nearfield("push", str(TINYCHAT), CHAT, "--yes")
        wait_live(platform, CHAT)
        platform.cool("iad", CHAT, "host")
        text, receipt = chat(platform, questions()[0]["question"])

    assert text == questions()[0]["answer"]
    assert receipt["start"] == "host"
    assert sum(receipt["phases"].values()) == pytest.approx(receipt["total_ms"], rel=0.05)
    if HAS_GPU:
        assert {"context", "h2d"} <= set(receipt["start_phases"])
        assert receipt["h2d_bytes"] > 0
        assert receipt["h2d_ms"] > 0
    print({"device": DEVICE, **receipt})


def chat(platform: RunningPlatform, question: str) -> tuple[str, dict[str, Any]]:
    """The answer, streamed, and what the receipts of all hops say: of phases the edge's, which is the last."""
    c = platform.credentials
    body = {"model": CHAT, "messages": [{"role": "user", "content": question}], "stream": True}
    headers = {"authorization": f"Bearer {c.api_key}"}
    answer = httpx2.post(
        f"{c.base_url}/chat/completions", json=body, headers=headers, verify=tls(c.ca), timeout=120
    )
    events = answer.text.removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    said = "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks if each["choices"])
    receipts = [found for event in events if (found := parse_receipt(event)) is not None]
    return said, {key: value for receipt in receipts for key, value in receipt.items()}
