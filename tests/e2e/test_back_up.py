"""The page on backing up, command by command: copied while it serves, restored into an empty folder, asked there."""

import datetime as dt
import json
import shutil

import boto3
import pytest
from botocore.exceptions import ClientError

from deploy import fleet
from deploy.trust import pki
from tests.e2e import pages
from tests.e2e import platform as running
from tests.e2e.pages import ROOT, Shell, steps
from tests.e2e.platform import CHAT, TINYCHAT, questions, wait_for, wait_live

PAGE = ROOT / "docs" / "how-to" / "back-up.md"


@pytest.mark.skipif(not shutil.which("aws"), reason="the page uses the aws command")
def test_what_was_copied_by_s3_serves_in_a_folder_that_held_nothing(tmp_path):
    copy, restore = steps(PAGE)
    entry = next(m[2] for m in pages.BLOCK.finditer(PAGE.read_text()) if m[1] == "toml")
    state = tmp_path / "platform" / "state"
    state.mkdir(parents=True)
    _lay_out(state)
    shell = Shell(tmp_path, state, state.parent / "state.log")
    try:
        shell.run(". .venv/bin/activate")  # as its reader's shell is
        with running.start(state, "--regions", "iad") as before:
            before.typed("push", str(TINYCHAT), CHAT)
            made = json.loads(before.nearfield("keys", "make", "acme", "--json").stdout)
            toml = state / "nearfield.toml"
            toml.write_text(f"{toml.read_text()}\n{entry}")
            wait_for(lambda: _may_read(before), 30, "the new key known to the store")
            revision = wait_live(before, CHAT)
            _run(shell, copy)
        _run(shell, restore)
    finally:
        shell.close()

    shutil.rmtree(state)
    with running.start(tmp_path / "restored", "--regions", "iad") as after:
        assert wait_live(after, CHAT) == revision
        question = questions()[0]
        asked = after.openai(api_key=made["key"]).chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": question["question"]}], temperature=0
        )
        assert asked.choices[0].message.content.strip() == question["answer"]
        kept = {each["id"] for each in json.loads(after.nearfield("keys", "ls", "--json").stdout)}
        assert made["id"] in kept


def _lay_out(state):
    """None of the usual ports: what is restored has its TOML's, which another platform may have taken."""
    authority = pki.ensure(state / "tls", dt.datetime.now(dt.UTC))
    fleet.write(fleet.FleetPlan(state, ("iad",), usual_ports=()), authority)


def _run(shell, step):
    printed, status = shell.run(step.commands)
    assert status == 0, f"{PAGE.name}:{step.line} ended with {status}:\n{printed}"


def _may_read(platform):
    """Whether the home store takes the page's key."""
    told = json.loads(platform.nearfield("env", "--access-key", "backup", "--json").stdout)
    client = boto3.client(
        "s3",
        endpoint_url=told["AWS_ENDPOINT_URL"],
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        verify=told["AWS_CA_BUNDLE"],
    )
    try:
        return bool(client.list_objects_v2(Bucket="nearfield-system", MaxKeys=1))
    except ClientError:
        return False
