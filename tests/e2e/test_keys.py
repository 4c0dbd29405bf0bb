"""API keys on a whole platform: made by an operator, heard by the edge, refused once they are taken back."""

import json
import subprocess
import time
from typing import Any

import httpx2
import openai
import pytest

from tests.e2e.platform import CHAT, RunningPlatform, tls

HEARD_S = 60.0  # far beyond what it takes; what it takes is a figure of bench and lab


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def _status(platform: RunningPlatform, key: str, model: str = CHAT) -> int:
    try:
        platform.openai(api_key=key).chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=2
        )
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def _becomes(platform: RunningPlatform, key: str, status: int, model: str = CHAT) -> None:
    end = time.monotonic() + HEARD_S
    while (seen := _status(platform, key, model)) != status:
        assert time.monotonic() < end, f"still {seen}, not {status}"
        time.sleep(0.02)


def test_a_key_lives_from_make_to_revoke(platform: RunningPlatform):
    """It opens its own models alone; its successor opens the same; each ends when it is told to."""
    made = _json(
        platform.nearfield("keys", "make", "tenant-a", "--models", "examples/*", "--name", "ci", "--json")
    )
    elsewhere = _json(platform.nearfield("keys", "make", "tenant-b", "--models", "other/*", "--json"))
    _becomes(platform, made["key"], 200)
    _becomes(platform, elsewhere["key"], 404)

    assert [m.id for m in platform.openai(api_key=elsewhere["key"]).models.list()] == []
    rotated = _json(platform.nearfield("keys", "rotate", made["id"], "--overlap", "0s", "--json"))
    _becomes(platform, made["key"], 401)
    _becomes(platform, rotated["key"], 200)
    listed = {each["id"]: each for each in _json(platform.nearfield("keys", "ls", "--json"))}
    assert listed[rotated["id"]]["tenant"] == "tenant-a"
    assert all(key not in json.dumps(listed) for key in (made["key"], rotated["key"], elsewhere["key"]))

    for each in (rotated, elsewhere, made):
        platform.nearfield("keys", "revoke", each["id"])
    _becomes(platform, rotated["key"], 401)
    _becomes(platform, elsewhere["key"], 401)


@pytest.mark.parametrize("path", ["/nearfield/status", "/nearfield/metrics", "/nearfield/keys"])
def test_operators_have_a_listener_of_their_own(platform: RunningPlatform, path: str):
    """Users' addresses do not know its routes, nor does it know theirs; a user's key opens none of it."""
    c = platform.credentials
    admin, user = ({"authorization": f"Bearer {key}"} for key in (c.admin_key, c.api_key))
    with httpx2.Client(verify=tls(c.ca), timeout=60) as http:
        assert http.get(c.admin_url + path, headers=admin).status_code == 200
        assert http.get(c.admin_url + path, headers=user).status_code == 403
        assert http.get(c.admin_url + path).status_code == 401
        assert http.get(c.admin_url + "/v1/models", headers=admin).status_code == 404
        for url in (c.base_url, *c.regions.values()):
            assert http.get(url.removesuffix("/v1") + path, headers=user).status_code == 404


def test_mistakes_about_keys_are_told(platform: RunningPlatform):
    """By their cause, and with an exit status for scripts."""
    bad = platform.typed("keys", "make", "tenant a", check=False)
    unknown = platform.typed("keys", "revoke", "0" * 12, check=False)
    no_id = platform.typed("keys", "rotate", "nope", check=False)

    assert bad.returncode == 1
    assert "order.tenant" in bad.stdout + bad.stderr
    for said in (unknown, no_id):
        assert said.returncode == 3
        assert "no key has the id" in said.stdout + said.stderr
        assert "nearfield keys ls" in said.stdout + said.stderr
