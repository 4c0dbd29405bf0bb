"""The simulated long distance: injected, measured, said wherever it shows, obeyed by the choice."""

from tests.e2e import platform as running
from tests.e2e.platform import CHAT, TINYCHAT, questions, wait_for


def test_a_profile_delays_and_the_choice_obeys(tmp_path):
    """With `us-eu-jp` the edge measures about 90 ms to fra, asks iad, and every place says SIMULATED."""
    with running.start(tmp_path / "state", "--regions", "iad,fra", "--profile", "us-eu-jp") as up:
        up.nearfield("push", str(TINYCHAT), CHAT)
        wait_for(
            lambda: (up.status()["regions"]["fra"]["rtt_ms"] or 0) > 60, 20, "the far round trip measured"
        )
        status = up.status()
        entry = questions()[0]
        raw = up.openai().chat.completions.with_raw_response.create(
            model=CHAT,
            messages=[{"role": "user", "content": entry["question"]}],
            temperature=0,
            max_tokens=64,
        )
        told = up.nearfield("status").stdout

    assert status["simulated_wan"] == "us-eu-jp"
    assert 80 <= status["regions"]["fra"]["rtt_ms"] <= 160
    assert status["regions"]["iad"]["rtt_ms"] < 40
    assert raw.headers["x-nearfield-region"] == "iad"
    assert "simulated-wan=us-eu-jp" in raw.headers["x-nearfield-route"]
    assert "SIMULATED" in told
