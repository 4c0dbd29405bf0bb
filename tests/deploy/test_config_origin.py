"""Where each setting comes from: its line in the file, or the default; and every key that there is."""

import datetime as dt
import json
import tomllib

import pytest
from typer.testing import CliRunner

from deploy import fleet
from deploy.cli import app
from deploy.config.origin import lines, settings
from deploy.config.shape import SHAPES
from deploy.terminal.exits import Exit
from deploy.trust import pki

TEXT = """\
[platform]
home = "iad"   # the first
secrets = "s"

[[access_keys]]
id = "A"
grants = [
  "a = b",
]
[[access_keys]]
grants = []
id = "B"

[edges.local.pins]
iad = "127.0.0.1:1"
[edges."local"]
listen = "x"
cert = "c"
key = "k"
state = "e"
patience.connect_s = 1.0
[edges.local.patience."acme/m"]
total_s = 5
"""


def test_a_line_is_known_for_every_key_that_is_written():
    found = {each.name: (each.value, each.line) for each in settings(tomllib.loads(TEXT), TEXT) if each.line}

    assert found == {
        "platform.home": ("iad", 2),
        "platform.secrets": ("s", 3),
        "access_keys[0].id": ("A", 6),
        "access_keys[0].grants": (["a = b"], 7),
        "access_keys[1].id": ("B", 12),
        "access_keys[1].grants": ([], 11),
        "edges.local.pins.iad": ("127.0.0.1:1", 15),
        "edges.local.listen": ("x", 17),
        "edges.local.cert": ("c", 18),
        "edges.local.key": ("k", 19),
        "edges.local.state": ("e", 20),
        "edges.local.patience.connect_s": (1.0, 21),
        "edges.local.patience.acme/m.total_s": (5, 23),
    }


def test_what_is_not_written_is_the_default():
    found = {each.name: each.value for each in settings(tomllib.loads(TEXT), TEXT) if not each.line}

    assert found["platform.idle_timeout_s"] == 300.0
    assert found["access_keys[1].generation"] == 1
    assert found["edges.local.via"] == {}
    assert found["edges.local.admin"] is None


def test_an_inline_table_has_the_line_that_it_stands_in():
    text = '[edges.e]\nlisten = "x"\ncert = "c"\nkey = "k"\nstate = "s"\npins = { iad = "h:1" }\n'
    found = {each.name: each.line for each in settings(tomllib.loads(text), text)}

    assert found["edges.e.pins.iad"] == 6
    assert lines("nothing = here\n[a]\n[[b]]\n[[b]]\n") == {
        ("nothing",): 1,
        ("a",): 2,
        ("b", 0): 3,
        ("b", 1): 4,
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    authority = pki.ensure(folder / "tls", dt.datetime.now(dt.UTC))
    return fleet.write(fleet.FleetPlan(folder), authority)


def test_every_key_is_shown_once(written):
    """Of every table that the file has."""
    text = written.read_text()
    tree = tomllib.loads(text)
    names = [each.name for each in settings(tree, text)]

    assert len(names) == len(set(names))
    for spec in SHAPES["nodes"].own_fields():
        assert f"nodes.fra-0.{spec.name}" in names


def test_show_and_check_by_the_command_line(written):
    runner = CliRunner()
    shown = json.loads(runner.invoke(app, ["config", "show", "--config", str(written), "--json"]).stdout)
    told = runner.invoke(app, ["config", "show", "--origin", "--config", str(written)]).stdout
    home = next(each for each in shown if each["key"] == "platform.home")

    assert home["origin"] == f"nearfield.toml:{home['line']}"
    assert written.read_text().splitlines()[home["line"] - 1] == 'home = "iad"'
    assert home["origin"] in told
    assert runner.invoke(app, ["config", "check", "--config", str(written)]).exit_code == Exit.OK


def test_an_unknown_key_is_an_error_with_the_one_that_was_meant(written, tmp_path):
    wrong = tmp_path / "nearfield.toml"
    wrong.write_text(written.read_text().replace("[platform]\n", "[platform]\nidle_timeout = 3\n"))
    told = CliRunner().invoke(app, ["config", "check", "--config", str(wrong), "--json"])

    assert told.exit_code == Exit.USAGE
    assert "Did you mean `idle_timeout_s`?" in json.loads(told.stdout)["error"]["message"]
