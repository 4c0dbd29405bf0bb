"""What is printed to be pasted, and written to be read again, whatever stands in the names of folders."""

import subprocess
import tomllib
from pathlib import Path

import pytest

from deploy import s3tools, toml
from deploy.faults import StateUnusable
from deploy.lock import hold
from deploy.terminal import pasted
from deploy.trust import credentials
from deploy.trust.credentials import Credentials

ODD = "a [b] ü\U0001f642'x\"\\ $HOME `id` \x7f"
"""Beyond the first plane, of a shell's own, of TOML's own, and rich's."""


def _of(folder):
    ca = f"{folder}/ca.pem"
    return Credentials("url", "key", "url", "key", "url", "id", "secret", ca, str(folder), s3_ca=ca)


@pytest.fixture
def folder(tmp_path):
    odd = tmp_path / ODD
    odd.mkdir()
    return odd


def _in_shell(script):
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout


def test_credentials_of_any_folder_are_read_again(folder):
    _of(folder).save(folder)

    assert credentials.load(folder) == _of(folder)


@pytest.mark.parametrize("given", [ODD, [ODD, "x"], 1, 1.5, True, "\x00\n\t"])
def test_a_value_is_read_again_as_it_was(given):
    assert tomllib.loads(toml.pair("key", given)) == {"key": given}


def test_a_shell_gets_the_variables_whole(folder):
    lines = "".join(pasted.exports(_of(folder).environment()))

    assert _in_shell(f'{lines}printf %s "$AWS_CA_BUNDLE"') == f"{folder}/ca.pem"


def test_a_shell_gets_the_folder_whole(folder):
    assert _in_shell(f"printf '%s|'{pasted.state_option(folder)}") == f"--state|{folder}|"


def test_a_tool_gets_the_authority_whole(folder):
    """The two that a shell would cut at a space; what Python reads is a string of Python's."""
    made = {}
    code = s3tools.boto3(_of(folder)).partition("\n")[2].partition("\ns3.")[0]
    exec(code, {"boto3": type("Boto3", (), {"client": staticmethod(lambda *_, **given: made.update(given))})})
    export = s3tools.s5cmd(_of(folder)).splitlines()[1].partition("s5cmd")[0]

    assert made["verify"] == f"{folder}/ca.pem"
    assert _in_shell(f'{export}\nprintf %s "$SSL_CERT_FILE"') == f"{folder}/ca.pem"


def test_a_folder_whose_name_is_no_text_is_refused_in_words():
    """No TOML can hold it, so a platform would start and not find itself again."""
    with pytest.raises(StateUnusable, match="its name is not UTF-8"):
        hold(Path("/tmp/\udcff"))
