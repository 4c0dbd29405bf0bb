"""What a running platform shows of itself: the figures of every role, and the log lines of refused requests."""

import json
import re

import httpx2
import openai
import pytest

from deploy.config.document import figures
from deploy.config.read import load
from deploy.figures import COMMON, registries
from deploy.trust import secrets
from tests.e2e.platform import CHAT, RunningPlatform, questions, tls, wait_for

ROLES = {"stores": "store", "nodes": "node", "regions": "region", "edges": "edge"}


def pages(platform: RunningPlatform) -> dict[str, str]:
    """Every role's page by the key of its table."""
    addresses = figures(load(platform.state / "nearfield.toml"))
    return {key: httpx2.get(f"http://{address}/metrics").text for key, address in addresses.items()}


def test_every_role_shows_what_the_reference_lists(platform: RunningPlatform):
    """No figure more and none less, of ten processes, each under its own name; and buckets for the slowest start."""
    listed = {role: {name: kind for name, kind, *_ in each.listed()} for role, each in registries().items()}
    found = pages(platform)

    assert len(found) == 10
    for key, page in found.items():
        section, name = key.split(".")
        types = dict(line.split(" ")[2:4] for line in page.splitlines() if line.startswith("# TYPE "))
        assert types == listed[ROLES[section]] | listed[COMMON], key
        bounds = {float(each) for each in re.findall(r'le="([0-9.]+)"', page)}
        assert not bounds or max(bounds) >= 600, key
        assert f'nearfield_role_info{{role="{ROLES[section]}",name="{name}"}} 1' in page.splitlines()


@pytest.mark.parametrize(
    ("by", "body", "code"),
    [
        ("edge", {"model": "no/such-model"}, "model_not_found"),
        ("region", {"input": ["a poem"]}, "bad_request"),
        ("node", {"temperature": "hot poem"}, "invalid_type"),
    ],
)
def test_the_log_finds_a_refused_request_by_its_id(platform: RunningPlatform, by, body, code):
    """Whichever hop refused it, `nearfield logs` has a line for the id that the client holds, and no word of it."""
    c = platform.credentials
    path = "/embeddings" if "input" in body else "/chat/completions"
    asked = (
        {"model": CHAT}
        | ({} if "input" in body else {"messages": [{"role": "user", "content": "a poem"}]})
        | body
    )
    headers = {"authorization": f"Bearer {c.api_key}"}
    answer = httpx2.post(c.regions["fra"] + path, json=asked, headers=headers, verify=tls(c.ca), timeout=60)
    request_id = answer.headers["x-request-id"]

    def lines() -> list[dict[str, str]]:
        told = platform.nearfield("logs", "--request", request_id, "--json").stdout
        return [
            json.loads(line)
            for line in told.splitlines()
            if json.loads(line)["message"].startswith("refused")
        ]

    found = wait_for(lines, 10, f"a line about {request_id}")

    assert answer.json()["error"]["code"] == code
    assert [each["role"] for each in found] == [by]
    assert code in found[0]["message"]
    assert "poem" not in json.dumps(found)


def test_a_request_without_a_key_is_found_too(platform: RunningPlatform):
    with pytest.raises(openai.AuthenticationError) as refused:
        platform.openai(api_key="not-a-key-of-ours").models.list()
    request_id = refused.value.response.headers["x-request-id"]
    told = wait_for(
        lambda: platform.nearfield("logs", "--request", request_id, "--json").stdout, 10, "a line"
    )

    assert "invalid_api_key" in told
    assert "not-a-key-of-ours" not in told
    assert questions()[0]["question"] not in told


def test_no_log_holds_a_key_or_what_was_asked(platform: RunningPlatform):
    """Of all roles, after whatever the tests before this one asked; what nobody logged is not there to leak."""
    c, question = platform.credentials, questions()[0]
    platform.nearfield("chat", CHAT, question["question"])
    root = secrets.root_key(load(platform.state / "nearfield.toml").secrets)
    held = (c.api_key, c.admin_key, c.s3_secret_key, root.hex(), secrets.hop_token(root))
    logs = {path.name: path.read_text(errors="replace") for path in (platform.state / "logs").iterdir()}

    assert len(logs) >= 10
    assert any(CHAT in text for text in logs.values())
    for name, text in logs.items():
        assert [word for word in (*held, question["question"], question["answer"]) if word in text] == [], (
            name
        )
