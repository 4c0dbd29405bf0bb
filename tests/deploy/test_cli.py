"""The command line's manners: help for everything, errors with cause and next step, documented exit statuses."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.credentials import Credentials
from deploy.exits import Exit

COMMANDS = [
    "up",
    "run",
    "push",
    "ls",
    "status",
    "policy",
    "chat",
    "report",
    "usage",
    "stop",
    "rm",
    "env",
    "s3",
    "doctor",
    "demo",
    "keys",
]
ROOT = Path(__file__).resolve().parents[2]
runner = CliRunner()


@pytest.fixture
def dead(tmp_path):
    """A state folder whose platform is gone: its credentials are there, nobody listens."""
    (tmp_path / "tls").mkdir()
    import datetime as dt

    from deploy import pki

    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    Credentials(
        base_url="https://localhost:9/v1",
        api_key="nf-x",
        admin_url="https://localhost:9",
        admin_key="nf-y",
        s3_url="https://localhost:9",
        s3_access_key="NFX",
        s3_secret_key="secret",
        ca=str(authority.ca),
        s3_ca=str(authority.ca),
        state=str(tmp_path),
        regions={"iad": "https://localhost:9/v1"},
    ).save(tmp_path)
    return tmp_path


def test_every_command_that_a_message_names_is_there():
    """A next step that does not exist is worse than none: `nearfield keys` was told to all without a key."""
    rooms = ("deploy", "edge", "inference", "regions", "storage", "weights_cache", "wire")
    sources = [path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py")]
    named = {word for source in sources for word in re.findall(r"`nearfield ([a-z]+)", source)}

    assert "env" in named
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    """`--help` works everywhere and has a sentence to say."""
    result = runner.invoke(app, [command, "--help"])

    assert result.exit_code == 0
    assert len(result.output.split()) > 10


def test_help_documents_the_exit_statuses():
    """Scripts need to know them."""
    words = runner.invoke(app, ["--help"]).output

    for status in Exit:
        if status is not Exit.OK:
            assert str(int(status)) in words


@pytest.mark.parametrize(
    "command", ["ls", "status", "chat acme/m hi", "report acme/m", "push . acme/m", "env", "stop acme/m"]
)
def test_without_a_platform_the_next_step_is_told(tmp_path, command):
    """The first thing a new user does in the wrong folder."""
    result = runner.invoke(app, [*command.split(), "--state", str(tmp_path)])

    assert result.exit_code == Exit.NOT_READY
    assert "nearfield up" in result.output


@pytest.mark.parametrize("command", ["ls", "status", "chat acme/m hi", "stop acme/m"])
def test_a_platform_that_is_gone_is_told_apart(dead, command):
    """Nobody listens: exit status 4, the address, and the command to start."""
    result = runner.invoke(app, [*command.split(), "--state", str(dead), "--json"])

    assert result.exit_code == Exit.NOT_READY
    assert json.loads(result.stdout)["error"]["code"] == "unreachable"


def test_a_bad_name_is_refused_before_anything_moves(dead):
    """Names become bucket prefixes: two parts, plain characters."""
    result = runner.invoke(app, ["push", str(dead), "no-slash", "--state", str(dead), "--json"])

    assert result.exit_code == Exit.REFUSED
    assert json.loads(result.stdout)["error"]["code"] == "bad_name"


def test_env_prints_what_clients_read(dead):
    """Pasteable, and the secret is in it because that is its purpose; the file stays 0600."""
    lines = runner.invoke(app, ["env", "--state", str(dead)]).output.splitlines()

    assert "export OPENAI_BASE_URL='https://localhost:9/v1'" in lines
    assert any(line.startswith("export AWS_CA_BUNDLE=") for line in lines)
    assert (dead / "credentials.toml").stat().st_mode & 0o777 == 0o600


def test_s3_prints_settings_that_can_be_pasted(dead):
    """Each tool's own words, with the endpoint, the key and the authority in them; one alone for a pipe."""
    told = json.loads(runner.invoke(app, ["s3", "--state", str(dead), "--json"]).output)
    python = runner.invoke(app, ["s3", "boto3", "--state", str(dead)]).output

    assert set(told) == {"aws", "boto3", "rclone", "s5cmd"}
    assert all("https://localhost:9" in text and "NFX" in text and "ca.pem" in text for text in told.values())
    compile(python, "pasted", "exec")
    assert runner.invoke(app, ["s3", "ftp", "--state", str(dead)]).exit_code == Exit.USAGE


def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path):
    """On a machine without a platform: everything else is well, and the way to start is told."""
    result = runner.invoke(app, ["doctor", "--state", str(tmp_path), "--json"])
    findings = {f["name"]: f for f in json.loads(result.output)}

    assert result.exit_code == Exit.NOT_READY
    assert findings["python"]["well"]
    assert findings["torch"]["well"]
    assert not findings["platform"]["well"]
    assert "nearfield up" in findings["platform"]["fix"]


def test_an_unknown_profile_is_a_usage_error(tmp_path):
    """With the profiles that there are."""
    result = runner.invoke(app, ["up", "--profile", "mars", "--state", str(tmp_path / "s")])

    assert result.exit_code == Exit.USAGE
    assert "us-eu-jp" in result.output
