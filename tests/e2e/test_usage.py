"""Usage through the edge: two tenants, an engine and a node killed in the middle, and not a token off."""

import json
import os
import signal
import threading

import openai

from tests.e2e.platform import CHAT, RunningPlatform, descendants, wait_for

NUM_STREAMS = 4


def _answer(client: openai.OpenAI) -> int:
    """One short answer; its completion tokens."""
    usage = client.completions.create(model=CHAT, prompt="Hello", max_tokens=8, temperature=0).usage
    assert usage is not None
    return usage.completion_tokens


def _stream(client: openai.OpenAI, begun: threading.Barrier, outcomes: list[str]) -> None:
    """A long stream, which something will break."""
    try:
        stream = client.completions.create(
            model=CHAT,
            prompt="Hello",
            max_tokens=400,
            temperature=1.0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        for number, _ in enumerate(stream):
            if number == 1:
                begun.wait(60)
        outcomes.append("finished")
    except openai.APIError as error:
        outcomes.append(type(error).__name__)


def _break(platform: RunningPlatform, client: openai.OpenAI, victims: set[int]) -> list[str]:
    """Kill these in the middle of streams; how each ended."""
    begun, outcomes = threading.Barrier(NUM_STREAMS + 1), list[str]()
    asking = [threading.Thread(target=_stream, args=(client, begun, outcomes)) for _ in range(NUM_STREAMS)]
    for each in asking:
        each.start()
    begun.wait(60)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    for each in asking:
        each.join(60)
    return outcomes


def _used(platform: RunningPlatform, *words: str) -> dict[str, dict[str, int]]:
    told = json.loads(platform.nearfield("usage", "--json", *words).stdout)
    return {row["tenant"]: row for row in told["usage"]}


def test_usage_is_what_the_engines_computed_whatever_was_killed(fragile: RunningPlatform):
    made = [
        json.loads(fragile.nearfield("keys", "make", name, "--json").stdout) for name in ("acme", "other")
    ]
    acme, other = (fragile.openai("iad", api_key=each["key"]) for each in made)

    def is_known() -> bool:
        try:
            return bool(_answer(acme) and _answer(other))
        except openai.APIError:
            return False

    wait_for(is_known, 60, "the keys are known")
    before = _used(fragile)
    broken = _break(fragile, acme, set(descendants(fragile.shell_pid("iad-0"))))
    wait_for(is_known, 60, "another engine")
    node = fragile.role_pids("node-iad-0")["node-iad-0"]
    broken += _break(fragile, other, {node, *descendants(node)})
    wait_for(is_known, 60, "another node")

    def is_zero() -> dict[str, object] | None:
        done = fragile.nearfield("usage", "--reconcile", "--json", check=False)
        told = json.loads(done.stdout)["reconcile"]
        quiet = not (told["num_open_orders"] or told["silent_nodes"])
        return told if quiet and done.returncode == 0 else None

    told = wait_for(is_zero, 60, "what was written down is what the engines computed")
    after = _used(fragile, "--tenant", "acme") | _used(fragile, "--tenant", "other")

    assert len(broken) == 2 * NUM_STREAMS
    assert "APIError" in broken
    assert told["differences"] == []
    assert told["recorded"] == told["engines"]
    assert told["recorded"]["sampled_tokens"] > sum(row["completion_tokens"] for row in after.values())
    for tenant, row in after.items():
        assert row["failed_requests"] >= 1, tenant
        assert row["wasted_us"] > 0, tenant
        assert row["requests"] > before[tenant]["requests"], tenant
        assert row["completion_tokens"] == 8 * row["requests"], tenant
    assert [after[tenant]["key"] for tenant in ("acme", "other")] == [each["id"] for each in made]
