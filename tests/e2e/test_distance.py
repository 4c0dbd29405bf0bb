"""The simulated long distance: injected, measured, said wherever it shows, obeyed by the choice."""

from tests.e2e.platform import CHAT, RunningPlatform, questions, wait_for, wait_live


def test_a_profile_delays_and_the_choice_obeys(fragile: RunningPlatform):
    """With `us-eu-jp` the edge measures about 90 ms to fra, asks iad, and every place says SIMULATED."""
    wait_for(
        lambda: (fragile.status()["regions"]["fra"]["rtt_ms"] or 0) > 60, 20, "the far round trip measured"
    )
    status = fragile.status()
    entry = questions()[0]
    raw = fragile.openai().chat.completions.with_raw_response.create(
        model=CHAT,
        messages=[{"role": "user", "content": entry["question"]}],
        temperature=0,
        max_tokens=64,
    )
    told = fragile.nearfield("status").stdout

    assert status["simulated_wan"] == "us-eu-jp"
    assert 80 <= status["regions"]["fra"]["rtt_ms"] <= 160
    assert status["regions"]["iad"]["rtt_ms"] < 40
    assert raw.headers["x-nearfield-region"] == "iad"
    assert "simulated-wan=us-eu-jp" in raw.headers["x-nearfield-route"]
    assert "SIMULATED" in told


def test_a_far_warm_region_answers_and_the_near_cold_one_is_woken(fragile: RunningPlatform):
    """The edge's hint: iad is cold and would win if it were not, so fra answers and iad starts without being asked."""
    wait_live(fragile, CHAT, "iad", "fra")
    entry = questions()[0]
    message = {"role": "user", "content": entry["question"]}
    ask = {"model": CHAT, "messages": [message], "temperature": 0, "max_tokens": 64}
    fragile.openai("fra").chat.completions.create(**ask)
    fragile.cool("iad", CHAT, "region")
    _wait_tiers(fragile, "region", "resident")
    raw = fragile.openai().chat.completions.with_raw_response.create(**ask)
    _wait_tiers(fragile, "resident", "resident")
    again = fragile.openai().chat.completions.with_raw_response.create(**ask)

    assert raw.headers["x-nearfield-region"] == "fra"
    assert raw.parse().choices[0].message.content.strip() == entry["answer"]
    assert (again.headers["x-nearfield-region"], again.headers["x-nearfield-start"]) == ("iad", "resident")
    log = (fragile.state / "logs" / "region-iad.log").read_text()
    assert f"woke {CHAT}: prewarm found it at region" in log


def _wait_tiers(fragile: RunningPlatform, near: str, far: str) -> None:
    """Until the edge has heard that the model is at `near` in iad and at `far` in fra."""

    def tiers() -> list[str | None]:
        return [(fragile.row(region, CHAT) or {}).get("tier") for region in ("iad", "fra")]

    wait_for(lambda: tiers() == [near, far], 30, f"iad {near}, fra {far}")
