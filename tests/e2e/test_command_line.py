"""The command line against a platform that runs: what it prints is what is published, and a plan moves nothing."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy import cli
from deploy.config.read import load
from deploy.fleet import SYSTEM_GRANTS
from deploy.plan.scores import load as past_predictions
from deploy.roles.runner import endpoint
from deploy.schemas.outputs import OUTPUTS
from regions.objects.ledger import Ledger
from storage.client.sdk import S3
from tests.deploy.conforms import breaches
from tests.e2e.platform import CHAT, TINYCHAT, RunningPlatform

MODEL = "acme/planned"


def _json(platform: RunningPlatform, *words: str, check: bool = True):
    return json.loads(platform.nearfield(*words, "--json", check=check).stdout)


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        ("ls", "ls"),
        ("status", "status"),
        (f"chat {CHAT} hello --max-tokens 4", "chat"),
        ("doctor", "doctor"),
        ("usage", "usage"),
        ("keys ls", "keys-ls"),
        ("config show", "config-show"),
        ("config check", "config-check"),
        (f"push {TINYCHAT} {CHAT} --dry-run", "push"),
        ("chat acme/nobody hello", "error"),
    ],
)
def test_what_is_printed_is_as_published(platform: RunningPlatform, words, schema):
    assert breaches(_json(platform, *words.split(), check=False), OUTPUTS[schema]) == []


def test_a_plan_moves_nothing_and_a_push_is_scored_against_it(platform: RunningPlatform):
    """Bytes that a region has are seen by their digests, before and after; what was foretold is kept with what came."""
    dry = _json(platform, "push", str(TINYCHAT), MODEL, "--dry-run", "--regions", "iad")["plan"]
    listed = platform.s3().list_objects_v2(Bucket="models", Prefix=f"{MODEL}/")
    assert listed["KeyCount"] == 0
    (iad,) = dry["regions"]
    assert iad["held_bytes"] == dry["bytes"], "the same bytes are there as another model's"
    assert dry["upload_bytes"] == dry["bytes"], "and the bucket has none under this name"

    pushed = _json(platform, "push", str(TINYCHAT), MODEL, "--regions", "iad")
    again = _json(platform, "push", str(TINYCHAT), MODEL, "--dry-run", "--regions", "iad")["plan"]
    facts = asyncio.run(_facts(platform, pushed["revision"]))
    platform.nearfield("rm", MODEL, "--yes")
    scored = [each for each in past_predictions(platform.state) if each.model == MODEL]

    assert breaches(pushed, OUTPUTS["push"]) == []
    assert again["upload_bytes"] == 0
    assert again["regions"][0]["past"]["num"] >= 1
    assert [each.region for each in scored] == ["iad"]
    assert scored[0].took_s > 0
    assert dry["kv_bytes_per_token"] == facts.kv_bytes_per_token
    assert dry["weight_bytes"] == pytest.approx(facts.weight_bytes, rel=0.01)


def test_keys_that_are_not_let_in_are_told_with_the_way_to_better_ones(platform: RunningPlatform, tmp_path):
    """In a folder of credentials alone, and in one of the platform's own, where a start makes them hold again."""
    wrong = replace(platform.credentials, api_key="nf-x", admin_key="nf-y", s3_secret_key="z")
    file = wrong.save(tmp_path)
    asked = _next(tmp_path, "chat", CHAT, "hello")
    steered = [_next(tmp_path, *words) for words in (("status",), ("ls",), ("push", str(TINYCHAT), MODEL))]
    (tmp_path / "nearfield.toml").touch()
    bucket = _next(tmp_path, "revisions", CHAT)

    assert asked == (
        "invalid_api_key",
        f"nearfield keys make default --state {tmp_path}   # and put it into {file} as api_key",
    )
    assert (
        steered
        == [("invalid_api_key", f"ask the operator for an admin key, and put it into {file} as admin_key")]
        * 3
    )
    assert bucket[0] == "invalid_s3_key"
    assert bucket[1].startswith(f"nearfield stop --state {tmp_path}; nearfield up --state {tmp_path} ")


def _next(state: Path, *words: str) -> tuple[str, str]:
    """The code of a failure, and what to do next."""
    told = CliRunner().invoke(cli.app, [*words, "--state", str(state), "--json"])
    error = json.loads(told.stdout)["error"]
    return error["code"], error["next"]


async def _facts(platform: RunningPlatform, revision: str):
    config = load(platform.state / "nearfield.toml")
    async with S3(endpoint(config, config.home, SYSTEM_GRANTS)) as store:
        return (await Ledger(store).revision(revision)).facts


def test_a_request_is_found_in_the_logs_by_its_id(platform: RunningPlatform):
    """By model and region too; lines of roles and of requests in one stream."""
    told = _json(platform, "chat", CHAT, "hello", "--max-tokens", "4")
    request_id, region = told["headers"]["x-request-id"], told["headers"]["x-nearfield-region"]
    words = ("logs", "-n", "0", "--json", "--request", request_id)
    lines = [json.loads(line) for line in platform.nearfield(*words).stdout.splitlines()]
    other = next(each for each in platform.credentials.regions if each != region)
    elsewhere = platform.nearfield(*words, "--region", other).stdout
    nowhere = platform.typed(*words, "--region", "nowhere", check=False)

    assert [(line["model"], line["region"]) for line in lines if line["level"] == "request"] == [
        (CHAT, region)
    ]
    assert all(breaches(line, OUTPUTS["logs"]) == [] for line in lines)
    assert elsewhere == ""
    assert nowhere.returncode == 3
    assert "no region 'nowhere'" in nowhere.stdout + nowhere.stderr
    roles = {
        json.loads(line)["role"]
        for line in platform.nearfield("logs", "-n", "0", "--json").stdout.splitlines()
    }
    assert {"region", "node"} <= roles
