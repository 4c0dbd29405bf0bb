"""The simulated long distance: injected, measured, said wherever it shows, obeyed by the choice."""

from tests.e2e.platform import CHAT, RunningPlatform, questions, wait_for


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
