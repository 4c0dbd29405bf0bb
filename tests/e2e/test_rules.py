"""The operator's rules on a whole platform: put in force by a command, followed by the edge, and put back."""

import json
import time
from pathlib import Path
from typing import Any

import openai

from tests.e2e.platform import CHAT, RunningPlatform

HEARD_S = 60.0  # far beyond what it takes


def _asked(platform: RunningPlatform, model: str, **headers: str) -> tuple[int, str]:
    """Status, and the region that answered or the code of the refusal."""
    try:
        answer = platform.openai().chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=2,
            extra_headers=headers,
        )
    except openai.APIStatusError as error:
        return error.status_code, str(error.code)
    return answer.status_code, str(answer.headers["x-nearfield-region"])


def _becomes(platform: RunningPlatform, expected: tuple[int, str], model: str, **headers: str) -> None:
    end = time.monotonic() + HEARD_S
    while (seen := _asked(platform, model, **headers)) != expected:
        assert time.monotonic() < end, f"still {seen}, not {expected}"
        time.sleep(0.02)


def _ruled(platform: RunningPlatform, path: Path, rules: dict[str, Any]) -> None:
    path.write_text(json.dumps(rules))
    platform.nearfield("policy", str(path))


def test_rules_say_where_and_by_which_name_a_model_is_asked(platform: RunningPlatform, tmp_path: Path):
    before = json.loads(platform.nearfield("policy").stdout)
    assert before["areas"] == {"apac": ["nrt"], "eu": ["fra"], "us": ["iad"]}
    rules = {**before, "aliases": {"my-chat": CHAT}, "residency": {"examples/*": ["eu"]}}
    try:
        _ruled(platform, tmp_path / "rules.json", rules)
        _becomes(platform, (200, "fra"), "my-chat")
        assert _asked(platform, CHAT, **{"x-nearfield-region": "us"}) == (403, "outside_residency")
        assert _asked(platform, CHAT, **{"x-nearfield-region": "mars"}) == (400, "unknown_region")
    finally:
        _ruled(platform, tmp_path / "rules.json", before)
    _becomes(platform, (404, "model_not_found"), "my-chat")
    assert _asked(platform, CHAT, **{"x-nearfield-region": "apac"}) == (200, "nrt")
