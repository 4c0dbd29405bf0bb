"""The simulated long distance: injected, measured, said wherever it shows, obeyed by the choice."""

import os
import signal
import threading
from typing import Any

import httpx2

from deploy.config.read import load as load_config
from deploy.trust import secrets
from tests.e2e.platform import CHAT, RunningPlatform, questions, wait_for

STOPPED_S = 1.5
"""A start that takes so long is dearer than the 90 ms to the other region, on any machine."""


def ask(platform: RunningPlatform, region: str | None = None) -> Any:
    """The headers of one right answer."""
    entry = questions()[0]
    raw = platform.openai(region).chat.completions.with_raw_response.create(
        model=CHAT,
        messages=[{"role": "user", "content": entry["question"]}],
        temperature=0,
        max_tokens=64,
    )
    assert raw.parse().choices[0].message.content.strip() == entry["answer"]
    return raw.headers


def tier(platform: RunningPlatform, region: str) -> str | None:
    return (platform.row(region, CHAT) or {}).get("tier")


def num_prewarms(platform: RunningPlatform, region: str) -> int:
    """Starts that the region's gateway was asked for ahead of a request, and that ended well."""
    config = load_config(platform.state / "nearfield.toml")
    token = secrets.hop_token(secrets.root_key(config.secrets))
    headers = {"authorization": f"Bearer {token}"}
    page = httpx2.get(f"http://{config.regions[region].gateway}/metrics", headers=headers).text
    series = 'nearfield_gateway_wakes_total{reason="prewarm",outcome="resident"} '
    return sum(int(float(line.removeprefix(series))) for line in page.splitlines() if line.startswith(series))


def have_a_slow_start(platform: RunningPlatform, region: str) -> None:
    """Start the model with its shell stopped meanwhile: by this start the region's next one is estimated."""
    platform.cool(region, CHAT, "host")
    shell = platform.shell_pid(f"{region}-0")
    os.kill(shell, signal.SIGSTOP)
    going_on = threading.Timer(STOPPED_S, os.kill, (shell, signal.SIGCONT))
    going_on.start()
    try:
        ask(platform, region)
    finally:
        going_on.join()


def test_a_far_answer_has_the_near_region_start_the_model(fragile: RunningPlatform):
    """The edge's hint: who asks meanwhile is answered from afar, and soon from near, by a start nobody waited for."""
    wait_for(lambda: (fragile.status()["regions"]["fra"]["rtt_ms"] or 0) > 60, 20, "the far way measured")
    ask(fragile, "fra")
    have_a_slow_start(fragile, "iad")
    fragile.cool("iad", CHAT, "host")
    wait_for(
        lambda: (tier(fragile, "iad"), tier(fragile, "fra")) == ("host", "resident"), 20, "cold and warm"
    )
    before, regions = num_prewarms(fragile, "iad"), list[str]()

    def hinted() -> bool:
        if num_prewarms(fragile, "iad") == before:
            regions.append(ask(fragile)["x-nearfield-region"])
        return num_prewarms(fragile, "iad") > before

    wait_for(hinted, 30, "the near region's start")
    wait_for(lambda: tier(fragile, "iad") == "resident", 20, "the near region's word")
    near = wait_for(lambda: (h := ask(fragile))["x-nearfield-region"] == "iad" and h, 20, "a near answer")

    assert regions[0] == "fra"
    assert num_prewarms(fragile, "iad") == before + 1
    assert near["x-nearfield-start"] in {"resident", "warm"}


def test_a_profile_delays_and_the_choice_obeys(fragile: RunningPlatform):
    """With `us-eu-jp` the edge measures about 90 ms to fra, asks iad, and every place says SIMULATED.

    The choice is by measured figures: where a busy machine just made the near one slow, the far one is right.
    """
    wait_for(
        lambda: (fragile.status()["regions"]["fra"]["rtt_ms"] or 0) > 60, 20, "the far round trip measured"
    )
    status = fragile.status()
    near = wait_for(lambda: (h := ask(fragile))["x-nearfield-region"] == "iad" and h, 20, "a near answer")
    told = fragile.nearfield("status").stdout

    assert status["simulated_wan"] == "us-eu-jp"
    assert 80 <= status["regions"]["fra"]["rtt_ms"] <= 160
    assert status["regions"]["iad"]["rtt_ms"] < 40
    assert near["x-nearfield-route"].startswith("iad ")
    assert "simulated-wan=us-eu-jp" in near["x-nearfield-route"]
    assert "SIMULATED" in told
